"""compare: the same numbers as replays one by one, in every form, failures said."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tightfit.experiments.cli import app, main
from tightfit.experiments.compare import WRITTEN
from tightfit.experiments.comparison import TraceRows
from tightfit.experiments.formats import latex, markdown
from tightfit.experiments.row import Row
from tightfit.experiments.row_columns import chosen
from tightfit.policies.catalogue import MECHANISMS
from tightfit.policies.contender import names
from tightfit.sim.costs import CALLS, WAIT, driver_seconds
from tightfit.sim.mechanism_replay import replay_mechanism
from tightfit.traces.event import ENTRY_COLUMNS, Action, empty_columns
from tightfit.traces.recording import DeviceRecording, Recording
from tightfit.traces.store import save
from tightfit.traces.units import MiB

from .test_tune import subject

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
GPT = str(DATA / "gpt_bf16_varlen.default.npz")
STREAMS = str(DATA / "streams.default.npz")


def compare(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["compare", *words])
    return result.exit_code, result.stdout


def rows_of(*words: str, code: int | None = 0) -> list[dict]:
    """The rows of one recording; `code` is what the command must end with, None = whatever."""
    ended, out = compare(*words, "--json")
    assert code is None or ended == code
    return json.loads(out)["traces"][0]["rows"]


def test_the_whole_catalogue_stands_above_the_bound() -> None:
    rows = rows_of(GPT, "--packing", "0.1")
    assert [r["role"] for r in rows[:2]] == ["bound", "offline"]
    assert {r["policy"] for r in rows[2:]} == set(names())
    peaks = [r["peak_reserved_bytes"] for r in rows]
    assert min(peaks) == peaks[0] and peaks[2:] == sorted(peaks[2:])
    told = {r["policy"] for r in rows if r["role"] == "told"}
    assert told == {"planned", "clairvoyant"}
    assert all(r["driver_seconds"] > 0 for r in rows[2:])
    (base,) = [r for r in rows if r["role"] == "baseline"]
    assert (base["policy"], base["peak_reserved_bytes"]) == ("pytorch", 9372 * MiB)


def test_says_what_a_replay_says() -> None:
    rows = {r["policy"]: r for r in rows_of(GPT, "--policy", "best_fit:quantum=4096")}
    assert set(rows) == {
        "peak live bytes", "best packing found", "pytorch", "best_fit:quantum=4096",
    }  # fmt: skip
    s = subject("gpt_bf16_varlen.default")
    packed = s.anew if s.is_warm else s.kept
    run = replay_mechanism(packed, MECHANISMS["best_fit"], {"quantum": 4096})
    got = rows["best_fit:quantum=4096"]
    assert got["peak_reserved_bytes"] == run.stats["reserved_bytes.all.peak"]
    assert got["device_allocs"] == run.stats["num_device_alloc"]
    assert got["driver_seconds"] == driver_seconds(run.work)


def test_a_policy_that_runs_out_is_said_and_comes_last() -> None:
    free = {r["policy"]: r["peak_reserved_bytes"] for r in rows_of(GPT, "--packing", "0")}
    room = sorted(free.values())[len(free) // 2]
    code, out = compare(GPT, "--capacity", str(room), "--json", "--packing", "0")
    assert code == 0
    rows = json.loads(out)["traces"][0]["rows"]
    failed = [r for r in rows if r["ooms"]]
    assert failed and rows[-len(failed) :] == failed
    for r in failed:
        assert r["peak_reserved_bytes"] is None and r["first_oom_event"] > 0
    assert all(r["peak_reserved_bytes"] <= room for r in rows if not r["ooms"])
    assert "OOM at" in compare(GPT, "--capacity", str(room), "--packing", "0")[1]


def test_no_policy_fits_is_the_answer_no() -> None:
    code, out = compare(STREAMS, "--capacity", "30MiB")
    assert code == 1
    assert out.startswith("NO POLICY FITS on 30.0 MiB (simulated)")


def test_what_a_policy_does_not_honour_is_said() -> None:
    _, out = compare(STREAMS, "--policy", "best_fit", "--policy", "cupy_pool")
    words = " ".join(out.split())
    assert "best_fit keeps no streams apart" in words
    assert "cupy_pool keeps no streams apart" not in words
    for form in ("--markdown", "--latex", "--csv"):
        assert (
            "best_fit keeps no streams apart" in compare(STREAMS, "--policy", "best_fit", form)[1]
        )


def test_of_several_recordings_a_note_says_which_it_is_about() -> None:
    _, out = compare(GPT, STREAMS, "--policy", "best_fit")
    notes = " ".join(out.split()).split("note: ")[1:]
    (about,) = [n for n in notes if "keeps no streams apart" in n]
    assert "streams.default.npz: best_fit" in about
    assert all("streams.default.npz: " in n or "gpt_bf16_varlen.default.npz: " in n for n in notes)


def test_the_table_says_who_is_best_and_by_how_much() -> None:
    _, out = compare(GPT, "--policy", "expandable", "--policy", "worst_fit")
    first = out.splitlines()[0]
    assert first.startswith("expandable reserves least: 6,688.0 MiB, 28.6% less than pytorch")
    assert out.index("peak live bytes") < out.index("baseline")
    assert max(map(len, out.splitlines())) <= 100


def test_who_reserves_as_much_as_the_baseline_does_not_win(tmp_path: Path) -> None:
    one = tmp_path / "one.csv"
    one.write_text("id,lower,upper,size\n0,0,9,1\n")
    words = (str(one), "--policy", "best_fit", "--policy", "pytorch", "--packing", "0")
    code, out = compare(*words)
    assert code == 0
    assert out.startswith("no policy reserves less than pytorch: 2.0 MiB (simulated)\n")
    assert [r["policy"] for r in rows_of(*words)][1:] == ["pytorch", "best_fit"]


def test_a_policy_that_is_told_something_does_not_belie_the_verdict() -> None:
    _, out = compare(GPT, "--policy", "planned", "--packing", "0")
    assert out.startswith("no policy that is told nothing beforehand reserves less than pytorch: ")


def test_a_program_that_allocates_nothing_is_compared(tmp_path: Path) -> None:
    entries = empty_columns(ENTRY_COLUMNS, 1)
    entries["action"][:] = Action.SNAPSHOT
    path = tmp_path / "nothing.npz"
    save(Recording(path.name, {0: DeviceRecording(entries)}, streams=np.zeros(1, np.int64)), path)
    words = (str(path), "--policy", "best_fit", "--policy", "pytorch", "--packing", "0")
    assert compare(*words)[1].startswith("no policy reserves less than pytorch: 0 B (simulated)\n")


def test_two_recordings_have_two_tables() -> None:
    _, out = compare(GPT, STREAMS, "--policy", "best_fit")
    assert out.count("peak live bytes") == 2
    assert "of 2 recordings" in out.splitlines()[0]


def test_csv_holds_every_row_in_bytes() -> None:
    _, out = compare(GPT, STREAMS, "--policy", "buddy", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [r["policy"] for r in rows if r["trace"] == GPT][0] == "peak live bytes"
    assert len(rows) == 8
    peaks = {r["policy"]: r["peak_reserved_bytes"] for r in rows if r["trace"] == GPT}
    assert int(peaks["pytorch"]) == 9372 * MiB
    assert rows[0]["device_allocs"] == ""


def test_markdown_and_latex_are_tables_of_the_same_rows() -> None:
    _, marked = compare(GPT, "--policy", "best_fit:quantum=4096", "--markdown")
    lines = [x for x in marked.splitlines() if x.startswith("|")]
    assert len(lines) == 6 and len({x.count("|") for x in lines}) == 1
    assert "| pytorch (baseline) | 9,372.0 |" in marked
    _, set_in = compare(GPT, "--policy", "best_fit:quantum=4096", "--latex")
    body = [x for x in set_in.splitlines() if x.endswith(r"\\")]
    assert len(body) == 4 and r"best\_fit:quantum=4096 & " in set_in
    assert set_in.count(r"\begin{tabular}") == set_in.count(r"\end{tabular}") == 1


def test_a_share_too_small_for_its_digits_is_not_nothing_in_any_table() -> None:
    row = Row("x", "policy", "", 1 << 20, 1e-5, 1 << 20, 1, 0, 0, 1e-6)
    rows = [TraceRows("a_b.npz", 0, 5, [row])]
    columns = chosen(WRITTEN, smallest=False)
    assert "| x | 1.0 | <0.1 | 1 | <0.1 | 0 |" in markdown(rows, "", columns)
    assert "x & 1.0 & $<$0.1 & 1 & $<$0.1 & 0" in latex(rows, "", columns)


def test_the_packing_is_a_row_with_what_is_proven() -> None:
    rows = {r["policy"]: r for r in rows_of(STREAMS, "--policy", "pytorch", "--packing", "0.2")}
    found = rows["best packing found"]
    assert found["role"] == "offline"
    assert found["proven_bytes"] <= found["peak_reserved_bytes"]
    assert found["proven_bytes"] >= rows["peak live bytes"]["peak_reserved_bytes"]
    _, out = compare(STREAMS, "--policy", "pytorch")
    assert "no packing in multiples of 512 bytes is" in " ".join(out.split())
    assert "best packing found" not in compare(STREAMS, "--policy", "expandable",
                                               "--packing", "0")[1]  # fmt: skip


def test_who_is_told_something_is_never_the_best() -> None:
    _, out = compare(GPT, "--policy", "planned", "--policy", "worst_fit", "--packing", "0")
    assert "told" in out and not out.startswith(("planned", "clairvoyant"))


def test_a_policy_of_ones_own_is_compared(tmp_path: Path) -> None:
    example = Path(__file__).resolve().parents[2] / "docs" / "examples" / "two_regions.py"
    rows = rows_of(GPT, "--policy", f"{example}:TwoRegions:border=16KiB", "--packing", "0")
    (own,) = [r for r in rows if r["role"] == "policy"]
    assert own["policy"].endswith("two_regions.py:TwoRegions:border=16KiB")
    assert own["peak_reserved_bytes"] > rows[0]["peak_reserved_bytes"]


def test_a_table_of_costs_of_ones_own_is_used_and_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    row = {"call_us": 0, "mib_us": 0, "kind": "measured", "source": "here"}
    file.write_text(
        json.dumps({c: row for c in (*CALLS, WAIT)} | {"cuMemMap": row | {"call_us": 3}})
    )
    asked = (GPT, "--policy", "best_fit", "--packing", "0", "--driver-costs", str(file))
    rows = {r["policy"]: r for r in rows_of(*asked)}
    s = subject("gpt_bf16_varlen.default")
    run = replay_mechanism(s.anew if s.is_warm else s.kept, MECHANISMS["best_fit"])
    assert rows["best_fit"]["driver_seconds"] == pytest.approx(3e-6 * run.work["cuMemMap"])
    assert rows["pytorch"]["driver_seconds"] == 0  # its segments are not mapped
    said = " ".join(compare(*asked)[1].split())
    assert "costs measured," in said and "mine.json" in said and "literature" not in said
    assert "mine.json" in compare(*asked, "--markdown")[1]
    assert "sim/driver_costs.json" in compare(GPT, "--policy", "best_fit", "--packing", "0")[1]


def test_a_wrong_table_of_costs_is_refused_before_anything_is_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"cudaMaloc": {}}')
    for command in (["compare", GPT], ["tune", GPT, "--policy", "best_fit"]):
        assert main([*command, "--driver-costs", str(file)]) == 2
        said = capsys.readouterr().err
        assert "mine.json: found 'cudaMaloc', expected the calls cudaMalloc, " in said
        assert "; did you mean 'cudaMalloc'?" in said
    assert main(["tune", GPT, "--driver-costs", str(file)]) == 2
    assert "only --policy has a column of time" in capsys.readouterr().err


def test_what_was_live_at_the_start_is_said_to_be_placed_anew(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warm = str(shared / "traces" / "desktop_13GB_warm.pickle")
    words = ["compare", warm, "--policy", "best_fit", "--packing", "0"]
    assert main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note: device 0: memory that was live before recording began is placed anew" in said
    assert "the recording begins with 229 blocks live" in said
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {"start", "warm_start"} & {f["kind"] for f in answer["findings"]}
    assert answer["verdict"].startswith("best_fit reserves least: 13.00 GiB")


def test_bad_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", GPT, "--policy", "worst_fits"]) == 2
    assert "did you mean 'worst_fit'" in capsys.readouterr().err
    assert main(["compare", GPT, "--csv", "--latex"]) == 2
    assert "choose one" in capsys.readouterr().err


def test_the_smallest_gpu_of_each_policy_is_where_it_stops_running() -> None:
    words = ["--policy", "best_fit", "--policy", "one_region", "--policy", "buddy"]
    other = ["--other", str(300 * MiB)]
    ample = ["--capacity", "64GiB", *other]
    rows = {r["policy"]: r for r in rows_of(STREAMS, *words, *ample, "--smallest")}
    assert rows["peak live bytes"]["min_capacity_bytes"] is None
    for name in ("pytorch", "best_fit", "one_region", "buddy"):
        least = rows[name]["min_capacity_bytes"]
        for capacity, ooms in ((least, 0), (least - 2 * MiB, 1)):
            more = ["--policy", name, *other, "--packing", "0", "--capacity", str(capacity)]
            (row,) = [r for r in rows_of(STREAMS, *more, code=None) if r["policy"] == name]
            assert row["ooms"] == ooms
    for form in ([], ["--markdown"], ["--latex"]):
        told = compare(STREAMS, *words, "--smallest", *form)[1]
        assert "smallest" in told and max(map(len, told.splitlines())) < 250
        assert "smallest" not in compare(STREAMS, *words, *form)[1]

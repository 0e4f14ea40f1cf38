"""`tightfit run`: what compare and tune say, written as tables."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tightfit.experiments.cli import main
from tightfit.traces.units import MiB

from .asked import MLP, MORE, OWN, STREAMS, TEXT, run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "asked.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_its_rows_are_those_of_compare(file: Path, capsys: pytest.CaptureFixture) -> None:
    said = run(file, capsys)
    words = [w for p in ("best_fit:quantum=512", "best_fit:quantum=4096", "planned")
             for w in ("--policy", p)]  # fmt: skip
    assert main(["compare", str(STREAMS), str(MLP), *words, "--smallest", "--torch", "2.15",
                 "--packing", "0.2", "--json"]) == 0  # fmt: skip
    compared = json.loads(capsys.readouterr().out)["traces"]
    assert len(said["traces"]) == len(compared) == 2
    for ours, theirs in zip(said["traces"], compared, strict=True):
        a = {r["policy"]: r for r in ours["rows"]}
        b = {r["policy"]: r for r in theirs["rows"]}
        assert a.keys() == b.keys() and "best packing found" in a
        for name, row in b.items():
            if row["role"] != "offline":
                assert a[name] == row, name


def test_a_name_that_is_no_text_is_written_with_an_escape(
    file: Path, capsys: pytest.CaptureFixture
) -> None:
    odd = file.parent / "a\udcff.npz"
    try:
        odd.write_bytes(STREAMS.read_bytes())
    except OSError:
        pytest.skip("file names are text here")
    few = TEXT.replace(MORE, "").replace(str(STREAMS), "a*.npz")
    file.write_text(few, encoding="utf-8")
    assert run(file, capsys)["traces"][0]["trace"] == r"a\udcff"
    folder = file.with_suffix(".results")
    assert r"a\udcff" in (folder / "runs.csv").read_text(encoding="utf-8")
    assert r"a\udcff" in (folder / "tables.md").read_text(encoding="utf-8")
    latex = (folder / "tables.tex").read_text(encoding="utf-8").splitlines()
    assert not any(r"\udcff" in line for line in latex if not line.startswith("%"))


def test_tuned_policies_stand_beside_the_others_with_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "asked.toml"
    tuned = "".join(
        f'[[policy]]\nname = "{name}"\ntune = "{on}"\ntrials = 6\n'
        for name in ("best_fit", "pytorch")
        for on in ("each", "all", "others")
    )
    file.write_text(TEXT + tuned, encoding="utf-8")
    said = run(file, capsys)
    for table in said["traces"]:
        peaks = {r["policy"]: r["peak_reserved_bytes"] for r in table["rows"]}
        assert peaks["best_fit, tuned on each"] <= peaks["best_fit:quantum=512"]
        assert peaks["pytorch, tuned on each"] <= peaks["pytorch"]
        assert set(table["tuned"]) == {label for label in peaks if "tuned on" in label}
    first, second = (t["texts"] for t in said["traces"])
    assert first["pytorch, tuned on all"] == second["pytorch, tuned on all"]
    for ours, theirs in ((first, second), (second, first)):
        assert ours["best_fit, tuned on others"] == theirs["best_fit, tuned on each"]
    text = first["pytorch, tuned on each"]
    assert main(["compare", str(STREAMS), "--policy", text, "--torch", "2.15", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["traces"][0]["rows"]
    (row,) = [r for r in rows if r["policy"] == text]
    (ours,) = [r for r in said["traces"][0]["rows"] if r["policy"] == "pytorch, tuned on each"]
    assert row["peak_reserved_bytes"] == ours["peak_reserved_bytes"]
    page = (tmp_path / "asked.results" / "tables.md").read_text(encoding="utf-8")
    assert f"* pytorch, tuned on each: {text}" in page


def test_a_search_may_be_for_the_smallest_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "asked.toml"
    tuned = "".join(
        f'[[policy]]\nname = "{name}"\ntune = "each"\ntune_for = "smallest_gpu"\ntrials = 4\n'
        for name in ("size_classes", "pytorch")
    )
    file.write_text(TEXT + tuned, encoding="utf-8")
    for table in run(file, capsys)["traces"]:
        least = {r["policy"]: r["min_capacity_bytes"] for r in table["rows"]}
        assert least["pytorch, tuned on each for smallest_gpu"] <= least["pytorch"]
        assert "size_classes, tuned on each for smallest_gpu" in least


def test_a_policy_that_comes_out_as_the_baseline_is_not_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Both were measured once; whichever was first, the other has its own role."""
    file = tmp_path / "asked.toml"
    head = f'question = "?"\npacking_seconds = 0\n[[trace]]\nfile = "{MLP}"\n'
    again = '[[policy]]\nname = "pytorch"\nlabel = "again"\n'
    file.write_text(head + '[[policy]]\nname = "pytorch"\n', encoding="utf-8")
    run(file, capsys)
    file.write_text(head + again + '[[policy]]\nname = "pytorch"\n', encoding="utf-8")
    said = run(file, capsys)
    assert said["measured"] == 0
    assert {r["policy"]: r["role"] for r in said["traces"][0]["rows"][1:]} == {
        "again": "baseline", "pytorch": "policy",
    }  # fmt: skip


def test_others_need_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "asked.toml"
    file.write_text(
        f'question = "?"\n[[trace]]\nfile = "{STREAMS}"\n[[policy]]\nname = "best_fit"\n'
        'tune = "others"\n',
        encoding="utf-8",
    )
    assert main(["run", str(file)]) == 2
    assert 'found "others" with recordings of a single program' in capsys.readouterr().err


def test_a_policy_of_ones_own_is_found_beside_the_file_and_known_by_its_text(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, own = tmp_path / "asked.toml", tmp_path / "mine.py"
    own.write_text(OWN.read_text(encoding="utf-8"), encoding="utf-8")
    file.write_text(
        f'question = "?"\npacking_seconds = 0\n[[trace]]\nfile = "{STREAMS}"\n'
        '[[policy]]\nname = "mine.py"\n[table]\ncolumns = "peak_reserved"\n',
        encoding="utf-8",
    )
    monkeypatch.chdir("/")
    said = run(file, capsys)
    assert said["traces"][0]["texts"] == {"pytorch": "pytorch", "mine.py": "mine.py"}
    assert run(file, capsys)["measured"] == 0
    own.write_text(own.read_text(encoding="utf-8") + "\n# another\n", encoding="utf-8")
    assert run(file, capsys)["measured"] == 1


def test_a_long_trace_stands_beside_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """It has no packing; theirs are shown all the same, whichever comes first."""
    assert main(["workloads", "kv_doubling", str(tmp_path / "x.events"), "--events", "20000"]) == 0
    pages = []
    for order in ((STREAMS, "x.events"), ("x.events", STREAMS)):
        file = tmp_path / "asked.toml"
        traces = "".join(f'[[trace]]\nfile = "{name}"\n' for name in order)
        file.write_text(
            f'question = "?"\npacking_seconds = 0.1\n{traces}[[policy]]\nname = "best_fit"\n',
            encoding="utf-8",
        )
        run(file, capsys)
        page = (tmp_path / "asked.results" / "tables.md").read_text(encoding="utf-8")
        pages.append({x for x in page.splitlines() if x.startswith(("| streams", "| x |"))})
        assert "best packing found" in page
    assert {tuple(sorted(x.split("|"))) for x in pages[0]} == {
        tuple(sorted(x.split("|"))) for x in pages[1]
    }


def test_a_line_that_a_recordings_release_refuses_is_said_with_both(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "asked.toml"
    text = f'question = "?"\n[[trace]]\nfile = "{STREAMS}"\n[[policy]]\nname = "pytorch"\n'
    file.write_text(text + 'conf = "large_segment_size_mb:64"\n', encoding="utf-8")
    assert main(["run", str(file), "--check"]) == 0
    file.write_text('torch = "2.4"\n' + file.read_text(), encoding="utf-8")
    assert main(["run", str(file)]) == 2
    assert "asked.toml: [[policy]] 1, pytorch: " in capsys.readouterr().err


def test_where_nothing_runs_the_answer_is_no(file: Path, capsys: pytest.CaptureFixture) -> None:
    file.write_text(TEXT + '[device]\ncapacity = ["60MiB", "30GiB"]\n', encoding="utf-8")
    said = run(file, capsys, code=1)
    assert said["verdict"].startswith("NO POLICY RUNS ON ALL of 2 recordings on 60.0 MiB; ")
    assert "; best_fit" in said["verdict"]
    assert main(["run", str(file)]) == 1
    page = (file.with_suffix(".results") / "tables.md").read_text(encoding="utf-8")
    assert "## Over all recordings on 60.0 MiB" in page and "| OOM |" in page
    small = [t for t in said["traces"] if t["capacity_bytes"] == 60 * MiB]
    assert len(small) == 2 and any(r["ooms"] for t in small for r in t["rows"])
    assert not any(r["ooms"] for t in said["traces"] if t not in small for r in t["rows"])


def test_the_files_hold_every_run(file: Path, capsys: pytest.CaptureFixture) -> None:
    said = run(file, capsys)
    folder = file.with_suffix(".results")
    assert said["files"] == [str(folder / n) for n in ("runs.csv", "tables.md", "tables.tex")]
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as rows:
        runs = list(csv.DictReader(rows))
    assert len(runs) == sum(len(t["rows"]) for t in said["traces"])
    told = {(r["trace"], r["policy"]): r["peak_reserved_bytes"] for r in runs}
    for table in said["traces"]:
        for row in table["rows"]:
            assert int(told[table["trace"], row["policy"]]) == row["peak_reserved_bytes"]
    page = (folder / "tables.md").read_text(encoding="utf-8")
    assert page.startswith("# Which?\n\nAll figures are simulated.")
    rows = [x for x in page.splitlines() if x.startswith("| streams.default |")]
    assert len(rows) == 2  # peaks, and the smallest GPU of each policy
    peaks = [r["peak_reserved_bytes"] for r in said["traces"][0]["rows"]]
    cells = [c.strip(" *") for c in rows[0].split("|")[2:-1]]
    assert [float(c.replace(",", "")) for c in cells] == [round(p / MiB, 1) for p in peaks]
    assert rows[0].count("**") == 4  # both values of best_fit reserve least of what can run
    least = [r["min_capacity_bytes"] for r in said["traces"][0]["rows"][2:]]
    cells = [c.strip(" *") for c in rows[1].split("|")[2:-1]]
    assert [float(c.replace(",", "")) for c in cells] == [round(m / MiB, 1) for m in least]
    tex = (folder / "tables.tex").read_text(encoding="utf-8")
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 5
    assert r"best\_fit:quantum=512" in tex
    assert str(file.parent) not in page + tex


def test_a_single_recording_has_its_own_table_on_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "asked.toml"
    file.write_text(
        f'question = "?"\n[[trace]]\nfile = "{STREAMS}"\n[[policy]]\nname = "best_fit"\n',
        encoding="utf-8",
    )
    assert main(["run", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("best_fit reserves least on streams.default: ")
    assert "best packing found" in out and max(map(len, out.splitlines()[:9])) <= 100


def test_a_folder_that_cannot_be_made_is_said_before_the_work(
    file: Path, capsys: pytest.CaptureFixture
) -> None:
    (file.parent / "taken").write_text("x", encoding="utf-8")
    assert main(["run", str(file), "--out", str(file.parent / "taken")]) == 2
    assert "found a file, expected a folder" in capsys.readouterr().err

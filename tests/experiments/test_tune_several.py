"""tune with several recordings, and with recorded lines: what is said is true of each of them."""

from __future__ import annotations

import json
import pickle
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments.cli import main
from tightfit.experiments.measure import ROUND, Bench
from tightfit.experiments.recommend import Line
from tightfit.experiments.subject import load_subjects
from tightfit.sim.device import Device
from tightfit.sim.release import release
from tightfit.sim.settings_line import parse_settings
from tightfit.traces.units import MiB

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
CNN = str(DATA / "cnn_resolutions.default.npz")


def lifetimes(path: Path, buffers: list[tuple[int, int, int]]) -> str:
    """A recording of another tool: size, first and last moment of each buffer."""
    rows = [f"{k},{begin},{end},{size}" for k, (size, begin, end) in enumerate(buffers)]
    path.write_text("\n".join(["id,lower,upper,size", *rows]) + "\n", encoding="utf-8")
    return str(path)


def said(capsys: pytest.CaptureFixture, *words: str, code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """One that wastes much of little, and one that reserves more where that one saves."""
    little = lifetimes(tmp_path / "little.csv", [(3 * MiB // 2, 0, 1)])
    much = lifetimes(tmp_path / "much.csv", [(1_688_208, k, 1200 + k) for k in range(1200)])
    return [little, much]


def test_what_is_saved_is_never_less_than_nothing(
    two: list[str], capsys: pytest.CaptureFixture
) -> None:
    found = said(capsys, "tune", *two, "--without", "expandable_segments", "--trials", "4")
    ratios = [
        [t[which]["peak_reserved_bytes"] / t["bound_bytes"] for t in found["traces"]]
        for which in ("default", "best")
    ]
    assert max(ratios[1]) < max(ratios[0])
    worst = ratios[0].index(max(ratios[0]))
    was, now = (found["traces"][worst][w]["peak_reserved_bytes"] for w in ("default", "best"))
    assert f"saves {(was - now) / MiB:,.1f} MiB" in found["verdict"]
    assert f"on {Path(two[worst]).name}, which the default wastes most on" in found["verdict"]
    grown = [t["best"]["peak_reserved_bytes"] - t["default"]["peak_reserved_bytes"]
             for t in found["traces"]]  # fmt: skip
    assert grown[0] < 0 < grown[1]
    assert (
        f"It reserves more than the default on much.csv (by {grown[1] / MiB:.1f} MiB)."
        in found["words"]
    )


def test_the_smallest_gpu_of_several_is_one_on_which_all_run(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """cnn_resolutions runs on 1,398 MiB and not on 1,418, which the other one needs."""
    other = lifetimes(tmp_path / "other.csv", [(1418 * MiB, 0, 2)])
    found = said(capsys, "tune", CNN, other, "--trials", "0")
    least = found["default"]["min_capacity_bytes"]
    assert least == 1420 * MiB and found["default"]["min_capacity_proven"]
    for path in (CNN, other):
        assert said(capsys, "replay", path, "--conf", "", "--capacity", str(least))


def test_what_is_to_be_explained_is_a_recording_that_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small = lifetimes(tmp_path / "small.csv", [(1404 * MiB, 0, 2)])
    words = ["tune", CNN, small, "--trials", "0", "--capacity", "1400MiB"]
    assert main([*words, "--without", "expandable_segments"]) == 1
    out = capsys.readouterr().out
    assert out.splitlines()[-1].startswith(f"next: tightfit explain {shlex.quote(small)} ")


def test_where_nothing_fits_the_line_that_runs_on_least_is_named(
    capsys: pytest.CaptureFixture,
) -> None:
    oom = str(DATA / "oom.default.npz")
    found = said(capsys, "tune", oom, "--capacity", "3700MiB", "--trials", "4", code=1)
    rows = [found[name] for name in ("default", "expandable", "best") if found[name]]
    least = min(rows, key=lambda row: row["min_capacity_bytes"])
    (told,) = [w for w in found["words"] if "runs on least" in w]
    assert f"{least['conf'] or 'the default'} runs on least, " in told
    assert f"{least['min_capacity_bytes'] / MiB:,.1f} MiB" in told and "--smallest" in told


def test_a_shell_takes_the_exported_line_as_it_is(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "roundup_power2_divisions:[1:32,64:0,>:16]"
    kept = parse_settings(line, release("2.15"))
    monkeypatch.setattr(
        "tightfit.experiments.tuning.recommend",
        lambda lines: Line(line, kept, lines[0].rank),
    )
    assert main(["tune", CNN, "--trials", "0"]) == 0
    export = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("export "))
    shown = subprocess.run(
        ["sh", "-c", f'{export}; printf %s "$PYTORCH_CUDA_ALLOC_CONF"'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout == line and not shown.stderr


def test_a_page_of_an_odd_size_costs_the_driver_more_than_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = lifetimes(tmp_path / "a.csv", [(2 * MiB, 0, 2)])
    snapshot = str(tmp_path / "a.pickle")
    assert main(["replay", path, "--conf", "large_segment_size_mb:21", "--snapshot", snapshot]) == 0
    found = said(capsys, "tune", snapshot, "--capacity", "21MiB", "--trials", "0")
    assert found["recorded"]["conf"] == "large_segment_size_mb:21"
    assert not found["recorded"]["fits"]


def test_the_recorded_line_is_known_by_what_it_does(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    line = "expandable_segments:True,pinned_use_cuda_host_register:True"
    snapshot = str(tmp_path / "e.pickle")
    gpt = str(DATA / "gpt_checkpoint.default.npz")
    assert main(["replay", gpt, "--conf", line, "--snapshot", snapshot]) == 0
    found = said(capsys, "tune", snapshot, "--trials", "0")
    assert found["best"]["conf"] == line
    assert "The recorded program ran with this line already: keep it." in found["words"]
    both = said(capsys, "tune", snapshot, gpt, "--trials", "0")
    assert not any("keep it" in w for w in both["words"])
    assert "settings" in [f["kind"] for f in both["findings"]]


def test_what_moves_no_memory_stays_in_the_line_to_set(tmp_path: Path, capsys: Any) -> None:
    """Unless it is forbidden, or only some of the recordings were made with it."""
    cnn = str(DATA / "cnn_resolutions.default.npz")
    kept = "pinned_use_background_threads:True"
    with_kept, without = str(tmp_path / "a.pickle"), str(tmp_path / "b.pickle")
    for path, line in ((with_kept, f"max_split_size_mb:64, {kept}"), (without, "")):
        assert main(["replay", cnn, "--conf", line, "--snapshot", path]) == 0
    capsys.readouterr()
    assert main(["tune", with_kept, "--trials", "0"]) == 0
    out = capsys.readouterr().out
    best = said(capsys, "tune", with_kept, "--trials", "0")
    assert best["export"] == f"{best['best']['conf']},{kept}"
    assert f"export PYTORCH_CUDA_ALLOC_CONF={best['export']}\n" in out
    assert f"{kept}, recorded with the program, moves no device memory" in out
    key = kept.split(":")[0]
    for words in (["--without", key], [without]):
        found = said(capsys, "tune", with_kept, *words, "--trials", "0")
        assert found["export"] == found["best"]["conf"] != ""


def test_what_is_cut_for_the_smallest_device_is_the_same_in_any_order_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = release("2.15")
    subjects = load_subjects(DATA / "oom.default.npz")
    lines = [
        parse_settings(f"large_segment_size_mb:{mb},max_split_size_mb:{split}", rules)
        for mb in range(12, 40, 2)
        for split in range(40, 64, 8)
    ]
    assert len(lines) > ROUND
    kept = []
    for threads in (1, 3):
        monkeypatch.setattr("os.cpu_count", lambda n=threads: n)
        bench = Bench(subjects, rules, Device(), smallest=True)
        monkeypatch.setattr(bench, "seen", {})
        bench.measure_all(lines)
        kept.append(bench.seen)
    assert kept[0] == kept[1] and 8 <= len(kept[0]) < len(lines)


def test_where_the_recorded_start_fails_and_a_new_one_does_not_both_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Three segments of 20 MiB with 2 MiB live in each: anew, those lie in one."""
    churn = [(size, k, end) for k, (size, end) in enumerate([(9 * MiB, 20), (9 * MiB, 20),
                                                             (2 * MiB, 90)] * 3)]  # fmt: skip
    path = lifetimes(tmp_path / "a.csv", [*churn, (30 * MiB, 30, 40)])
    snapshot = tmp_path / "a.pickle"
    assert main(["replay", path, "--snapshot", str(snapshot)]) == 0
    content = pickle.loads(snapshot.read_bytes())
    history = content["device_traces"][0]
    begins = next(k for k, entry in enumerate(history) if entry["size"] == 30 * MiB)
    content["device_traces"][0] = history[begins:]
    snapshot.write_bytes(pickle.dumps(content))
    words = ["tune", str(snapshot), "--trials", "0", "--capacity"]
    found = said(capsys, *words, "80MiB")
    assert found["default"]["fits"] and found["default"]["peak_reserved_bytes"] == 50 * MiB
    failed = found["recorded_fails_at"]
    replayed = said(capsys, "replay", str(snapshot), "--capacity", "80MiB", code=1)
    assert replayed["devices"][0]["first_oom_event"] == failed is not None
    assert main([*words, "80MiB"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"reach 90.0 MiB, and run out of memory on 80.0 MiB at entry {failed:,}" in told
    assert said(capsys, *words, "90MiB")["recorded_fails_at"] is None
    for room, fails in (("80MiB", True), ("90MiB", False)):
        compared = said(
            capsys, "compare", str(snapshot), "--policy", "best_fit", "--capacity", room
        )
        (start,) = [f["text"] for f in compared["findings"] if f["kind"] == "start"]
        assert (f"run out of memory at entry {failed:,}: see replay" in start) == fails

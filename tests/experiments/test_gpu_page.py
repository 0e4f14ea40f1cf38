"""docs/gpu.md and what it is written from: recordings side by side, habits, costs, sheets."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tightfit.experiments.gpu.page import PAGE, RESULTS, collect, main, page
from tightfit.experiments.gpu.recordings import subjects
from tightfit.experiments.gpu.runs import OTHER, SECONDS
from tightfit.experiments.gpu.side_by_side import compare_recordings, describe_pair
from tightfit.experiments.verify.sheet import Sheet, write_sheet
from tightfit.experiments.verify.workload import Measured, judge
from tightfit.experiments.verify.workload_sheet import write_workload
from tightfit.traces.event import Action
from tightfit.traces.load import load
from tightfit.traces.units import GiB, MiB

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "traces" / "data"
FACTS = {"gpu": "NVIDIA H100 80GB HBM3", "torch": "2.11.0", "cuda": "13.0", "driver": "580.1",
         "total": 80 * GiB, "free": 79 * GiB}  # fmt: skip
CALLS = ("cudaMalloc", "cudaFree", "cuMemCreate", "cuMemRelease", "cuMemMap", "cuMemSetAccess",
         "cuMemUnmap")  # fmt: skip
HABITS = {
    "cudaMalloc": [{"size": s, "taken_each": 2 * MiB, "alignment": 512, "order": "rising",
                    "kept_after_free": 0} for s in (512, 20 * MiB)],
    "pattern": [[2 * MiB, 0]], "order": "mixed", "order_of_each_size": {"2097152": "falling"},
    "gaps": [[0, 60], [4096, 3]], "same_again": False,
    "recurs": {"first_into": "the hole made last", "second_into": "elsewhere",
               "lower_hole_first": None, "smaller_into_hole": True, "neighbours": True,
               "joined_hole_serves_more": False},
    "granularity": {"minimum": 2 * MiB, "recommended": 2 * MiB},
    "cuMemCreate": {"1048576": {"status": 1, "taken": 0}},
    "reserve": {"alignment": 2 * MiB, "order": "falling", "comes_again": True,
                "of_9_8_of_the_device": 8},
}  # fmt: skip
LIBRARY = {"step": "matmul bf16", "stays": 32 * MiB, "peak": 44 * MiB, "outside": 3 * MiB,
           "largest": [[32 * MiB, "at::cuda::getNewWorkspace"]], "error": ""}  # fmt: skip


def leave_results(folder: Path, stand_in: str) -> None:
    """Write what a session of runs leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    write_sheet(Sheet("t.npz", "ab" * 32, [], 5, "2026-11-25", stand_in, FACTS, 3, []), folder, "t")
    lines = [Measured("", "default", 10 * GiB, [10 * GiB] * 5, [100.0] * 5, 0, []),
             Measured("a:1", "winner", 8 * GiB, [8 * GiB] * 5, [100.0] * 5, 0, [])]  # fmt: skip
    result = replace(judge(lines, stand_in, True), facts=FACTS, date="2026-11-25")
    write_workload(result, ["python", "cnn.py"], "cnn", folder)
    costs: dict[str, Any] = {call: [[n * MiB, 9000 + 100 * n] for n in (2, 20)] for call in CALLS}
    costs["cudaMalloc"] = [[512, 1700], *costs["cudaMalloc"]]
    costs["cudaFree"] = [[512, 2600], *costs["cudaFree"]]
    costs |= {"behind_kernel": {call: [20 * MiB, 77_000] for call in CALLS}, "kernel": 100_000}
    for name, key, value in (("habits", "habits", HABITS), ("libraries", "libraries", [LIBRARY]),
                             ("costs", "costs", costs)):  # fmt: skip
        text = json.dumps({"stand_in": stand_in, **FACTS, key: value})
        (folder / f"{name}.json").write_text(text)
    first = {"program": "cnn", "gpu": "H100", "torch": "2.11.0", "statement": "torch.empty(9)",
             "held": GiB, "without": 3 * GiB, "predicted": 2 * GiB, "measured": 2 * GiB,
             "exact": True, "verdict": "confirmed"}  # fmt: skip
    (folder / "first_block.json").write_text(
        json.dumps({"stand_in": stand_in, "first_blocks": [first]})
    )
    pair = asdict(compare_recordings("devlog", *[load(DATA / "devlog.default.npz")] * 2))
    pair |= {"modes": ["stand-in" if stand_in else "gpu", "stand-in"]}
    pair["only_first"] = [{"name": "at::cuda::getNewWorkspace", "size": 32 * MiB, "count": 2}]
    (folder / "comparison.json").write_text(json.dumps({"pairs": [pair]}))


def test_without_a_result_of_a_gpu_there_is_no_page(tmp_path: Path, capsys: Any) -> None:
    leave_results(tmp_path / "results", "h100-80g")
    out = tmp_path / "gpu.md"
    assert main([str(tmp_path / "results"), "-o", str(out)]) == 1
    assert "nothing has been run on one yet" in capsys.readouterr().err and not out.exists()


def test_a_rehearsal_is_named_as_one_and_never_goes_to_the_docs(tmp_path: Path) -> None:
    leave_results(tmp_path / "results", "h100-80g")
    out = tmp_path / "rehearsal.md"
    assert main([str(tmp_path / "results"), "-o", str(out), "--rehearsal"]) == 0
    assert "Nothing here was measured on a GPU" in out.read_text()
    assert main([str(tmp_path / "results"), "--rehearsal"]) == 2


def test_the_page_has_every_kind_of_result_of_a_gpu(tmp_path: Path) -> None:
    leave_results(tmp_path / "a", "")
    leave_results(tmp_path / "b", "h100-80g")  # passed over
    text = page(collect(tmp_path))
    for part in (
        "# On a real GPU", "2.11.0, driver 580.1", "on 1 recordings", "`a:1` | winner", "falling",
        "| at::cuda::getNewWorkspace | 32.0 MiB | 2 |", "cudaMalloc aligns to 512 B", "elsewhere",
        "| matmul bf16 | 32.0 MiB | 44.0 MiB | 3.0 MiB |", "(100.00%)",
        "| cnn | `torch.empty(9)` | 1,024.0 MiB | 3,072.0 MiB | 2,048.0 MiB | 2,048.0 MiB |",
        "| cuMemMap | 9.00 | 0.1000 | 11.0 | 77.0", "| 512 B | 1.7 | 2.6 |",
    ):  # fmt: skip
        assert part in text, part
    assert "stand-in for" not in text and "Rehearsal" not in text


def test_the_committed_page_is_what_the_committed_results_give() -> None:
    results = collect(RESULTS)
    assert PAGE.is_file() == (not results.is_empty)
    if PAGE.is_file():
        assert PAGE.read_text(encoding="utf-8") == page(results)


def test_a_damaged_result_is_one_message(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "habits.json").write_text("{")
    assert main([str(tmp_path), "-o", str(tmp_path / "x.md")]) == 2
    assert "habits.json: not a result of a run" in capsys.readouterr().err


def test_a_result_of_an_older_version_is_one_message(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "comparison.json").write_text('{"pairs": [{"name": "x.npz"}]}')
    assert main([str(tmp_path), "-o", str(tmp_path / "x.md")]) == 2
    assert "lacks 'modes'" in capsys.readouterr().err


def test_a_recording_is_like_itself_and_what_was_added_is_named() -> None:
    real = load(DATA / "cnn_resolutions.default.npz")
    same = compare_recordings("x", real, real)
    assert same.in_order == same.allocations[0] == same.allocations[1] > 100
    assert same.only_first == same.only_second == []
    other = load(DATA / "cnn_resolutions.default.npz")
    (device,) = other.devices.values()
    rows = (device.entries["action"] == Action.ALLOC).nonzero()[0]
    device.entries["size"][rows[50:53]] = 12345
    pair = compare_recordings("x", other, real)
    assert [(d.size, d.count) for d in pair.only_first] == [(12345, 3)]
    assert sum(d.count for d in pair.only_second) == 3
    assert any("only the first: 3 of 12,345 B" in text for text in describe_pair(pair))


def test_what_is_gone_from_the_device_beside_the_allocator_is_told() -> None:
    real = load(DATA / "cnn_resolutions.default.npz")
    assert compare_recordings("x", real, real).outside == (None, None)  # an older recording
    known = {"total_bytes": 80 * GiB, "free_bytes": 79 * GiB,
             "stats": {"reserved_bytes.all.current": 424 * MiB}}  # fmt: skip
    real.extra["recorded"] = {"devices": {"0": known}}
    pair = compare_recordings("x", real, real)
    assert pair.outside == (600 * MiB, 600 * MiB)
    assert "  outside the allocator at the end: 600.0 MiB and 600.0 MiB" in describe_pair(pair)


def test_the_runs_fit_into_half_an_hour_and_stand_in_the_readme() -> None:
    assert sum(SECONDS.values()) <= 1800 and max(SECONDS.values()) <= 480
    text = (ROOT / "experiments" / "gpu" / "README.md").read_text(encoding="utf-8")
    for run in (*SECONDS, *OTHER):
        assert f"run.py {run}" in text, run


def test_every_recorded_program_is_there_once() -> None:
    names = [subject.name for subject in subjects()]
    assert len(set(names)) == len(names) >= 12
    assert all(subject.script.is_file() for subject in subjects())

"""V3: order of runs, choice of lines, step times, intervals and the verdict."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tightfit.experiments.verify import workload, workload_hook
from tightfit.experiments.verify.machine import Machine
from tightfit.experiments.verify.pieces import Pieces
from tightfit.experiments.verify.workload import (
    LADDER,
    Measured,
    abba,
    choose,
    judge,
    ratio_interval,
    step_time,
)
from tightfit.experiments.verify.workload_sheet import describe, write_workload
from tightfit.sim.release import release
from tightfit.sim.settings_line import parse_settings
from tightfit.traces.units import GiB, MiB

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"


def measured(role: str, predicted: int, peak: int | None = None, ns: float = 100.0) -> Measured:
    """A line whose peak is the predicted one unless another is given."""
    return Measured(role, role, predicted, [peak or predicted] * 5, [ns] * 5, 0, [])


GOOD = [measured("default", 10 * GiB), measured("winner", 8 * GiB),
        measured("runner-up", 9 * GiB), measured("worst", 12 * GiB)]  # fmt: skip


def with_winner(**changes: object) -> list[Measured]:
    return [GOOD[0], replace(GOOD[1], **changes), *GOOD[2:]]


def test_a_line_under_which_the_program_failed_is_run_once_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recording is one of ours; each later run answers as predicted, but one line fails."""
    asked: list[tuple[str, str]] = []
    stats = {"reserved_bytes.all.peak": GiB, "num_alloc_retries": 0}
    facts = {"gpu": "H100", "torch": "2.15.0", "cuda": "13.2", "total": 80 * GiB, "stats": stats}

    def answer(
        command: Any, machine: Any, pieces: Pieces, conf: str, piece: str, clock: Any
    ) -> Any:
        asked.append((conf, piece))
        if piece == "record":
            shutil.copyfile(DATA / "mlp_train.npz", pieces.path(conf, piece, ".npz"))
        elif conf == "expandable_segments:True":
            return {"error": "status 1: it fails"}
        return {**facts, "begun": 0, "ended": 5, "steps": []}

    monkeypatch.setattr(workload, "_run", answer)
    result = workload.run_workload(["python"], Machine(), tmp_path)
    runs = Counter(conf for conf, piece in asked if piece != "record")
    assert runs["expandable_segments:True"] == 1 and runs[""] == 1 + workload.RUNS
    (failed,) = [x for x in result.lines if x.failed]
    assert failed.failed == ["status 1: it fails"] and result.verdict == "not confirmed"
    assert result.facts["gpu"] == "H100" and len(result.facts["recording_sha256"]) == 64


def test_another_text_of_a_script_is_another_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, asked = tmp_path / "train.py", set()

    def answer(command: Any, machine: Any, pieces: Pieces, *rest: Any) -> None:
        asked.add(pieces.path("", "record"))

    monkeypatch.setattr(workload, "_run", answer)
    for text in ("one", "two", "two"):
        script.write_text(text)
        workload.run_workload(["python", str(script)], Machine(), tmp_path / "pieces")
    assert len(asked) == 2


def test_a_sheet_for_people_stands_beside_the_figures(tmp_path: Path) -> None:
    facts = {"gpu": "H100", "torch": "2.15.0", "total": 80 * GiB, "recording_sha256": "cd" * 32}
    broken = replace(measured("ladder", 1), peaks=[], step_ns=[], failed=["status -6"])
    result = replace(judge([*GOOD, broken], "h100-80g", True), facts=facts, date="2026-11-25")
    written = write_workload(result, ["/x/python", "/y/train.py"], "train", tmp_path)
    assert [p.name for p in written] == ["train.workload.json", "train.workload.md"]
    assert json.loads(written[0].read_text())["facts"] == facts
    text = written[1].read_text()
    for part in (
        "NOT CONFIRMED on stand-in", "cd" * 32, "`python train.py`", "2026-11-25", "failed",
        "| runner-up | 9,216.0 MiB | 9,216.0 MiB |", "status -6", "promises 2,048.0 MiB less",
    ):  # fmt: skip
        assert part in text, part


def test_the_sheet_notes_the_clocks_that_times_were_measured_at(tmp_path: Path) -> None:
    for clocks, said in (([1980, 1755, 0], "1,755 to 1,980 MHz"), ([0], "not told")):
        result = judge([GOOD[0], replace(GOOD[1], sm_mhz=clocks)], "", True)
        write_workload(result, ["python", "x.py"], "x", tmp_path)
        assert f"the measured runs: {said}" in (tmp_path / "x.workload.md").read_text()


def test_the_clock_is_asked_of_nvml_and_zero_where_it_does_not_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Nvml:
        def __init__(self, status: int) -> None:
            self.nvmlInit_v2 = lambda: 0
            self.nvmlDeviceGetHandleByUUID = lambda name, handle: int(name != b"GPU-1-2")
            self.status = status

        def nvmlDeviceGetClockInfo(self, handle: Any, kind: int, clock: Any) -> int:
            clock._obj.value = 1980 if kind == 1 else 2619
            return self.status

    properties = SimpleNamespace(uuid="1-2")
    torch = SimpleNamespace(cuda=SimpleNamespace(get_device_properties=lambda device: properties))
    for status, mhz in ((0, 1980), (3, 0)):
        monkeypatch.setattr(ctypes, "CDLL", lambda name, status=status: Nvml(status))
        assert workload_hook.sm_clock(torch) == mhz
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    assert workload_hook.sm_clock(torch) == 0


def test_lines_go_there_and_back() -> None:
    assert abba(["A", "B", "C"], 3) == ["A", "B", "C", "C", "B", "A", "A", "B", "C"]


def test_the_best_the_next_and_the_worst_are_chosen_and_differ() -> None:
    peaks = {"": 10, "a": 7, "bb": 7, "c": 8, "d": 15, "e": 9}
    roles = choose(peaks)
    assert list(roles)[:4] == ["", "a", "c", "d"]
    assert [roles[x] for x in ("bb", "e")] == ["ladder", "ladder"]
    assert len(choose({"": 1, "a": 1})) == 2


def test_ten_lines_and_more_are_accepted_by_old_and_new_releases() -> None:
    for name in ("2.11", "2.15"):
        assert len([parse_settings(line, release(name)) for line in LADDER]) >= 10


def test_a_step_is_the_time_between_optimizer_steps_once_it_is_warm() -> None:
    answer = {"begun": 0, "ended": 999, "steps": [0, 500, 900, 1000, 1100, 1200]}
    assert step_time(answer) == 100
    assert step_time({**answer, "steps": []}) == 999


def test_intervals_hold_the_ratio_and_are_the_same_every_time() -> None:
    fast, slow = [100.0, 101, 99, 100, 102], [120.0, 121, 119, 118, 122]
    middle, low, high = ratio_interval(slow, fast)
    assert low is not None and high is not None
    assert 1.1 < low <= middle <= high < 1.3
    assert ratio_interval(slow, fast) == (middle, low, high)
    assert ratio_interval([1.0], [2.0]) == (0.5, None, None)


def test_bytes_and_time_as_predicted_are_confirmed() -> None:
    result = judge(GOOD, "", True)
    assert result.verdict == "confirmed" and result.tau == pytest.approx(1)


def test_a_slower_winner_leaves_bytes_only_but_on_a_stand_in_times_decide_nothing() -> None:
    slow = with_winner(step_ns=[150.0] * 5)
    assert judge(slow, "", True).verdict == "bytes only"
    assert judge(slow, "h100-80g", True).verdict == "confirmed"
    assert "times mean nothing" in describe(judge(slow, "h100-80g", True), "x")[0]


def test_a_peak_or_a_saving_that_is_not_there_is_not_confirmed() -> None:
    off = 8 * GiB + 200 * MiB
    assert judge(with_winner(peaks=[off] * 5), "", True).verdict == "not confirmed"
    assert judge(with_winner(peaks=[10 * GiB] * 5), "", True).verdict == "not confirmed"


def test_a_wrong_order_of_lines_leaves_bytes_only() -> None:
    rest = [replace(measured("ladder", p * GiB, (30 - p) * GiB), conf=f"l{p}") for p in (3, 4, 5)]
    assert judge([*GOOD, *rest], "", True).verdict == "bytes only"


def test_what_was_stopped_has_no_verdict() -> None:
    assert judge(GOOD, "", False).verdict == "unfinished"


def test_a_line_under_which_the_program_failed_is_not_confirmed_and_named() -> None:
    result = judge(
        [*GOOD, replace(measured("ladder", 1), peaks=[], failed=["status -6"])], "", True
    )
    assert result.verdict == "not confirmed" and result.tau is not None
    assert any("failed under ladder: status -6" in text for text in describe(result, "x"))

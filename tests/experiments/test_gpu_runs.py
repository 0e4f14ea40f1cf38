"""All prepared runs in one command: what fails, what is stopped, what a later call does again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments.gpu import recordings, runs
from tightfit.experiments.gpu.runs import DATA, SECONDS, main
from tightfit.experiments.verify import check_trace, pieces
from tightfit.experiments.verify.check_trace import NoDevice
from tightfit.experiments.verify.lines import Line
from tightfit.experiments.verify.machine import Machine, run_whole
from tightfit.experiments.verify.pieces import GUESS, Clock
from tightfit.traces.errors import TraceError, VerificationError


class Runs:
    """Stands in for what a run does; `does` says what comes of those that do not just succeed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **does: Any) -> None:
        self.does = does
        self.begun: list[str] = []
        monkeypatch.setattr(runs, "_carry_out", self.carry_out)

    def carry_out(self, name: str, asked: Any, machine: Any, out: Path, clock: Any) -> Any:
        self.begun.append(name)
        (out / "figures.json").write_text(name)
        comes = self.does.get(name, (0, True))
        if isinstance(comes, Exception):
            raise comes
        return comes() if callable(comes) else comes


def test_a_run_that_fails_keeps_none_of_the_others_from_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    faked = Runs(monkeypatch, costs=VerificationError("no costs"), worse=(1, True), cnn=(1, False))
    assert main(["all", "-o", str(tmp_path)]) == 2
    assert faked.begun == list(SECONDS)
    assert "costs: no costs" in capsys.readouterr().out
    # The next call takes up what is not finished, and remembers how the rest ended.
    faked.does, faked.begun = {}, []
    assert main(["all", "-o", str(tmp_path)]) == 1
    assert faked.begun == ["costs", "cnn"]
    assert "worse: done by an earlier call, exit code 1" in capsys.readouterr().out


def test_without_a_device_nothing_more_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faked = Runs(monkeypatch, training=NoDevice("no device answered"))
    assert main(["all", "-o", str(tmp_path)]) == 2
    assert faked.begun == ["habits", "costs", "training"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_call_that_is_stopped_leaves_what_there_is_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, number: int
) -> None:
    def stopped() -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        faked = Runs(monkeypatch, costs=stopped)
        words = ["all", "-o", str(tmp_path / "out"), "--pack-into", str(tmp_path / "packed")]
        assert main(words) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert faked.begun == ["habits", "costs"]
    assert "the same command goes on" in capsys.readouterr().err
    (names,) = json.loads((tmp_path / "packed" / "results.json").read_text()).values()
    assert {"habits/figures.json", "costs/figures.json"} <= set(names)


def test_a_call_that_is_killed_has_bundled_the_runs_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "packed"

    def look() -> tuple[int, bool]:
        (names,) = json.loads((packed / "results.json").read_text()).values()
        assert "habits/figures.json" in names
        return 0, True

    Runs(monkeypatch, costs=look)
    assert main(["all", "-o", str(tmp_path / "out"), "--pack-into", str(packed)]) == 0


def test_nothing_is_begun_once_the_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    faked = Runs(monkeypatch)
    assert main(["all", "-o", str(tmp_path), "--budget", "0"]) == 1
    assert faked.begun == [] and "decoding: not begun" in capsys.readouterr().out


def test_a_piece_is_begun_only_if_what_the_last_of_its_kind_took_is_left() -> None:
    clock = Clock(100.0, begun=time.monotonic() - 70)  # 30 seconds are left
    assert clock.fits("short") and not Clock(0).fits("short")
    clock.taken = {"short": 2.0, "long": 40.0}
    assert clock.fits("short") and not clock.fits("long")
    assert not clock.fits("unknown")  # may be as long as the longest
    part = clock.within(5.0)
    assert part.fits("short") and not part.fits("long")
    part.taken["long"] = 1.0
    assert clock.fits("long")  # they share what they learn
    clock.taken = {"short": 2.0}
    assert clock.fits("unknown") and not clock.within(GUESS - 1).fits("unknown")


def test_a_recording_that_would_not_be_done_in_time_is_left_to_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_one(subject: Any, conf: str, machine: Any, path: Path) -> None:
        time.sleep(0.3)
        path.write_bytes(b"recorded")

    monkeypatch.setattr(recordings, "record_one", record_one)
    monkeypatch.setattr(pieces, "GUESS", 0.3)
    machine, begun = Machine(), time.monotonic()
    there, wanted = recordings.record_all(machine, tmp_path, Clock(1.0), lambda _: None)
    assert 1 <= there <= 3 < wanted and time.monotonic() - begun < 1.2
    again, _ = recordings.record_all(machine, tmp_path, Clock(0.5), lambda _: None)
    assert again == there + 1


def test_a_recording_that_cannot_be_read_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_one(subject: Any, conf: str, machine: Any, path: Path) -> None:
        if subject.name == "out_of_memory":
            raise TraceError("frames: found a list")
        path.write_bytes(b"recorded")

    monkeypatch.setattr(recordings, "record_one", record_one)
    said: list[str] = []
    there, wanted = recordings.record_all(Machine(), tmp_path, Clock(None), said.append)
    assert there == wanted - 2
    assert "out_of_memory.default.npz: frames: found a list" in said


def test_a_line_that_does_not_fit_is_not_even_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_trace, "probe", lambda *_: {"torch": "2.15.0", "gpu": "H100"})
    clock = Clock(5.0)
    clock.taken["line"] = 6.0
    trace = DATA / "mlp_train.npz"
    lines = [Line("default", ""), Line("expandable", "expandable_segments:True")]
    sheet = check_trace.check_trace(trace, lines, Machine(), tmp_path, clock)
    assert [x.verdict for x in sheet.lines] == ["unfinished", "unfinished"]


def test_when_the_time_is_up_nothing_that_was_started_lives_on(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = f"import time; time.sleep(2); open({str(mark)!r}, 'w')"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(subprocess.TimeoutExpired):
        run_whole([sys.executable, "-c", program], dict(os.environ), 0.7)
    time.sleep(2.5)
    assert not mark.exists()


def test_verify_without_a_trace_is_one_message(tmp_path: Path, capsys: Any) -> None:
    assert main(["verify", "-o", str(tmp_path)]) == 2
    assert "found no trace" in capsys.readouterr().err

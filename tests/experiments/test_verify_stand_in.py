"""`tightfit verify` end to end: PyTorch's real allocator over the stand-in, whole and broken.

Needs the whole wheel of a release, 0.5 GB; conftest.py says which.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments import cli
from tightfit.experiments.recording.whole_wheel import Build
from tightfit.experiments.release_fit import find_release
from tightfit.experiments.subject import load_subjects
from tightfit.experiments.verify import workload
from tightfit.experiments.verify.check_trace import REPEATS, check_trace, probe
from tightfit.experiments.verify.lines import Line
from tightfit.experiments.verify.machine import Machine, find_machine
from tightfit.experiments.verify.pieces import Clock, Pieces
from tightfit.experiments.verify.verdict import LineResult
from tightfit.traces.load import load
from tightfit.traces.recording import SETTINGS_CALLS
from tightfit.traces.store import save

pytestmark = pytest.mark.slow

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
LINES = (
    Line("default", ""),
    Line("expandable", "expandable_segments:True"),
    Line("asked", "max_split_size_mb:64,roundup_power2_divisions:4,large_segment_size_mb:32"),
)
Breaking = Callable[..., LineResult]
EACH = [f"count{k}" for k in range(REPEATS)]


@pytest.fixture(scope="module")
def machine(build: Build) -> Machine:
    """A stand-in under the whole CUDA build."""
    return find_machine("h100-80g", build.wheel.version)


@pytest.fixture(scope="module")
def healthy(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pieces where the machine has said who it is: nobody need ask again."""
    folder = tmp_path_factory.mktemp("healthy")
    probe(machine, Pieces(folder, machine.stand_in), Clock(None))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "gpt_checkpoint.default", "cuda_graphs.default", "streams.default",
        "side_streams.default", "oom.default",
    ],
)  # fmt: skip
def test_the_real_allocator_does_what_is_predicted(
    machine: Machine, healthy: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(healthy, tmp_path, dirs_exist_ok=True)
    sheet = check_trace(DATA / f"{name}.npz", LINES, machine, tmp_path)
    assert {x.conf: (x.verdict, x.reasons) for x in sheet.lines} == {
        x.conf: ("confirmed", []) for x in LINES
    }
    assert all(x.counters is not None and x.counters.compared > 120 for x in sheet.lines)
    assert "stand-in" in sheet.headline


def test_the_program_s_own_settings_calls_are_made_there_too(
    machine: Machine, healthy: Path, tmp_path: Path
) -> None:
    """Under each line; what was recorded of it says so, and is repeated."""
    shutil.copytree(healthy, tmp_path / "v")
    recording = load(DATA / "devlog.default.npz")
    half = recording.devices[0].n_entries // 2
    calls = [[half // 2, "expandable_segments:False,roundup_power2_divisions:4"], [half, ""]]
    recording.settings[SETTINGS_CALLS] = {"first": "", "calls": {"0": calls}}
    trace = tmp_path / "calls.npz"
    save(recording, trace)
    sheet = check_trace(trace, LINES[:2], machine, tmp_path / "v")
    assert [(x.verdict, x.reasons) for x in sheet.lines] == [("confirmed", [])] * 2
    assert "2 settings calls are made as the program did" in sheet.program_notes
    placed = [load_subjects(path)[0] for path in (tmp_path / "v").glob("*.place.npz")]
    assert {subject.conf for subject in placed} == {line.conf for line in LINES[:2]}
    for subject in placed:
        assert [c.line for c in subject.program.settings_calls] == [line for _, line in calls]
        assert find_release([subject], None).exactness[0].is_exact, subject.conf
    (plain,) = check_trace(DATA / "devlog.default.npz", LINES[1:2], machine, tmp_path / "v").lines
    assert plain.predicted_peak_bytes != sheet.lines[1].predicted_peak_bytes


@pytest.fixture(scope="module")
def broken(machine: Machine, healthy: Path) -> Breaking:
    """Check a small trace while the stand-in goes wrong in some of the processes."""

    def check(folder: Path, fault: str, *pieces: str) -> LineResult:
        shutil.copytree(healthy, folder, dirs_exist_ok=True)
        faults = {piece: {"STANDIN_FAULT": fault} for piece in pieces}
        trace = DATA / "devlog.default.npz"
        return check_trace(trace, LINES[:1], machine, folder, faults=faults).lines[0]

    return check


def test_memory_refused_once_moves_blocks_and_that_is_seen(
    broken: Breaking, tmp_path: Path
) -> None:
    line = broken(tmp_path, "oom:9", "place")
    assert line.verdict == "bytes only"
    (reason,) = line.reasons
    assert "real segment_free" in reason and "simulated segment_alloc" in reason
    assert line.placement is not None and line.placement.events_exact < line.placement.events


def test_memory_refused_once_in_one_repeat_shows_in_the_counters(
    broken: Breaking, tmp_path: Path
) -> None:
    line = broken(tmp_path, "oom:3", "count1")
    assert line.verdict == "bytes only"
    assert line.counters is not None and "num_alloc_retries" in line.counters.unstable


def test_memory_that_runs_out_is_not_confirmed(broken: Breaking, tmp_path: Path) -> None:
    line = broken(tmp_path, "full:3", *EACH)
    assert line.verdict == "not confirmed"
    assert line.counters is not None and line.counters.oom_step == 2


def test_a_process_that_dies_is_not_confirmed(broken: Breaking, tmp_path: Path) -> None:
    line = broken(tmp_path, "dead:4", "place")
    assert line.verdict == "not confirmed"
    assert line.died == {"V1": "the process died (wait status 6)"}


def test_a_device_that_contradicts_the_allocator_is_not_confirmed(
    broken: Breaking, tmp_path: Path
) -> None:
    line = broken(tmp_path, "lie:900000000", "count0")
    assert line.verdict == "not confirmed"
    assert any("the device says" in reason for reason in line.reasons)


def test_a_budget_that_is_a_little_off_leaves_bytes_only(broken: Breaking, tmp_path: Path) -> None:
    whole = broken(tmp_path / "whole", "", "count0")
    assert whole.budget is not None and whole.budget.is_equal
    line = broken(tmp_path / "broken", "full:1", f"limit{whole.budget.predicted}")
    assert line.verdict == "bytes only"
    assert line.budget is not None and line.budget.measured != line.budget.predicted


def test_a_line_that_pytorch_refuses_is_not_confirmed(machine: Machine, tmp_path: Path) -> None:
    """The simulator follows the real parser, so its own refusal comes first."""
    lines = [Line("asked", "max_split_size_mb:64,no_such_key:1")]
    (line,) = check_trace(DATA / "devlog.default.npz", lines, machine, tmp_path).lines
    assert line.verdict == "not confirmed" and "no_such_key" in line.refused


def test_the_command_writes_sheets_and_recordings_that_check_reads(
    machine: Machine, tmp_path: Path, capsys: Any
) -> None:
    words = ["verify", str(DATA / "devlog.default.npz"), "--stand-in", "h100-80g", "-o",
             str(tmp_path), "--conf", "", "--json"]  # fmt: skip
    assert cli.main(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "confirmed" and "stand-in" in document["headline"]
    assert (tmp_path / "devlog.default.sheet.md").is_file()
    (recorded,) = (tmp_path / "pieces").glob("*.place.npz")
    assert find_release(load_subjects(recorded), None).exactness[0].is_exact


PROGRAM = """
import torch
for step in range(6):
    kept = torch.empty((step + 3) << 20, device="cuda")
    half = torch.empty((step + 1) << 19, device="cuda")
"""


def test_a_program_of_ones_own_is_run_under_each_line_and_confirmed(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V3 whole, with fewer lines and runs; a second call does nothing again."""
    script = tmp_path / "train.py"
    script.write_text(PROGRAM)
    monkeypatch.setattr(workload, "LADDER", ("roundup_power2_divisions:1", LINES[1].conf))
    command = [machine.python, str(script)]
    result = workload.run_workload(command, machine, tmp_path / "pieces", runs=1)
    assert result.verdict == "confirmed"
    assert {x.role for x in result.lines} >= {"default", "winner", "worst"}
    assert all(x.peaks == [x.predicted] for x in result.lines)
    asked: list[str] = []
    monkeypatch.setattr(workload, "run_whole", lambda *words: asked.append("again"))
    assert workload.run_workload(command, machine, tmp_path / "pieces", runs=1).finished
    assert not asked

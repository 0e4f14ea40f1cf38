"""The prepared runs of experiments/gpu, carried out over the stand-in.

Needs the whole wheel of a release, 0.5 GB; conftest.py says which.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments.gpu.page import main as write_page
from tightfit.experiments.gpu.runs import main
from tightfit.experiments.recording.whole_wheel import Build
from tightfit.experiments.release_fit import find_release
from tightfit.experiments.subject import load_subjects
from tightfit.sim.costs import read_costs
from tightfit.traces.load import load
from tightfit.traces.program import Op
from tightfit.traces.units import MiB

pytestmark = pytest.mark.slow


def carry_out(build: Build, *words: str | Path) -> int:
    more = ("--stand-in", "h100-80g", "--torch", build.wheel.version)
    return main([*map(str, words), *more])


def test_habits_and_costs_are_those_of_the_stand_in(build: Build, tmp_path: Path) -> None:
    assert carry_out(build, "habits", "-o", tmp_path) == 0
    habits = json.loads((tmp_path / "habits.json").read_text())["habits"]
    assert habits["order"] == "rising" and habits["gaps"] == [[0, 63]]
    assert habits["recurs"]["lower_hole_first"] and habits["recurs"]["joined_hole_serves_more"]
    assert habits["granularity"]["minimum"] == 2 * MiB
    rows = json.loads((tmp_path / "libraries.json").read_text())["libraries"]
    space = {row["step"]: row["stays"] for row in rows}
    # PyTorch itself keeps 32 MiB for cuBLAS on this GPU, for each thread and stream that uses it.
    assert space["matmul fp32"] == space["matmul on another stream"] == 32 * MiB
    assert carry_out(build, "costs", "-o", tmp_path) == 0
    assert "STAND-IN" in read_costs(tmp_path / "driver_costs.json")["cuMemMap"].source
    costs = json.loads((tmp_path / "costs.json").read_text())["costs"]
    for call in ("cudaMalloc", "cudaFree"):
        sizes = [size for size, _ in costs[call]]
        assert sizes[:3] == [512, 4096, MiB] and sizes[-1] == 4096 * MiB, call


def test_a_server_that_flushes_is_reproduced(build: Build, tmp_path: Path) -> None:
    words = ["recordings", "--only", "decoding_flushed", "-o", tmp_path]
    assert carry_out(build, *words) == 0
    for line in ("default", "expandable"):
        (subject,) = load_subjects(tmp_path / f"decoding_flushed.{line}.npz")
        assert find_release([subject], None).exactness[0].is_exact
        flushes = int((subject.program.op == Op.EMPTY_CACHE).sum())
        assert flushes >= 3, "memory went back to the driver while the server ran"


def test_one_block_first_is_found_and_confirmed(build: Build, tmp_path: Path, capsys: Any) -> None:
    assert carry_out(build, "first_block", "--only", "cnn", "-o", tmp_path) == 0
    (row,) = json.loads((tmp_path / "first_block.json").read_text())["first_blocks"]
    assert row["verdict"] == "confirmed" and row["exact"]
    assert row["measured"] == row["predicted"] < 0.8 * row["without"]
    assert "cnn: " in capsys.readouterr().out
    (tmp_path / "cnn.first_block.npz").write_bytes((tmp_path / "cnn.without.npz").read_bytes())
    assert carry_out(build, "first_block", "--only", "cnn", "-o", tmp_path) == 1
    assert "not confirmed" in capsys.readouterr().out


def test_programs_are_recorded_compared_and_shown(build: Build, tmp_path: Path) -> None:
    for side in ("gpu", "stand-in"):
        assert carry_out(build, "recordings", "--only", "devlog", "-o", tmp_path / side) == 0
    made = sorted(p.name for p in (tmp_path / "gpu").iterdir())
    assert made == ["devlog.default.npz", "devlog.expandable.npz"]
    (subject,) = load_subjects(tmp_path / "gpu" / made[0])
    assert find_release([subject], None).exactness[0].is_exact
    assert load(tmp_path / "gpu" / made[1]).extra["recorded"]["conf"] == "expandable_segments:True"
    out = tmp_path / "results"
    words = ["compare", str(tmp_path / "gpu"), str(tmp_path / "stand-in"), "-o", str(out)]
    assert main(words) == 0
    (first, _) = json.loads((out / "comparison.json").read_text())["pairs"]
    assert first["in_order"] == first["allocations"][0] > 30
    assert write_page([str(out), "-o", str(tmp_path / "page.md"), "--rehearsal"]) == 0
    assert "(100.00%) are met" in (tmp_path / "page.md").read_text()


def test_a_program_of_the_corpus_runs_from_a_checkout(build: Build, tmp_path: Path) -> None:
    assert carry_out(build, "recordings", "--only", "convnet", "-o", tmp_path, "--budget", "1") == 1
    recorded = load(tmp_path / "convnet.default.npz")  # begun within the budget, the other is not
    kernels = {name for stack in recorded.stacks for *_, name in stack}
    assert any(name.startswith("at::native") for name in kernels)

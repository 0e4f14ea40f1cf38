"""The unmodified CUDA build of PyTorch under a live policy, over the stand-in for a GPU.

Needs the whole wheel of a release, 0.5 GB; conftest.py says which.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightfit.experiments import cli
from tightfit.experiments.recording.whole_wheel import Build
from tightfit.experiments.subject import load_subjects
from tightfit.policies.live import setting_of
from tightfit.policies.playing import play_policy
from tightfit.sim.device import Device
from tightfit.traces.jit import JIT

from .on_stand_in import TRAIN

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not JIT, reason="live policies are C functions, compiled code"),
]

LIVE = """
import torch
def say(*words): print(*words, flush=True)
try:
    torch.empty(3 << 30, dtype=torch.uint8, device="cuda")
except torch.OutOfMemoryError as error:
    say("oom", " ".join(str(error).split())[:55])
x = torch.ones(50 << 20, dtype=torch.uint8, device="cuda")
say("allocated", torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated())
del x
torch.cuda.empty_cache()
say("after", torch.cuda.memory_reserved(), torch.cuda.memory_stats()["mapped_bytes.current"])
torch.cuda.reset_peak_memory_stats()
say("peak", torch.cuda.max_memory_allocated())
side = torch.cuda.Stream()
with torch.cuda.stream(side):
    y = torch.ones(3 << 20, dtype=torch.uint8, device="cuda")
y.record_stream(torch.cuda.current_stream())
del y
say("waits", torch.cuda.memory_stats()["num_sync_all_streams"] > 0)
try:
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.ones(10, device="cuda")
except RuntimeError as error:
    say("graph", "pools are not to be had" in str(error))
kept = torch.ones(1000, device="cuda")  # alive when the interpreter ends
"""


def run(build: Build, script: Path, *words: str) -> int:
    on = ["--stand-in", "h100-80g", "--torch", build.wheel.version]
    return cli.main([*words, *on, "--", sys.executable, str(script)])


@pytest.mark.parametrize("policy", ["best_fit", "cupy_pool", "rounding", "pytorch", "my_fit.py"])
def test_a_training_script_runs_as_simulated(
    build: Build, trained: Callable[[str], Path], policy: str, tmp_path: Path, capfd: Any
) -> None:
    """Recorded under PyTorch's own allocator, simulated under the policy, and run under it."""
    if policy == "my_fit.py":
        policy = str(tmp_path / policy)
        assert cli.main(["policy", "new", policy]) == 0
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    recorded = trained("")
    capfd.readouterr()
    out = tmp_path / "live.json"
    assert run(build, script, "live", "--policy", policy, "--capacity", "2GiB", "-o", str(out)) == 0
    said = capfd.readouterr()
    assert " ".join(said.out.split()).startswith(f"{policy} served the program with ")

    (subject,) = load_subjects(recorded)
    simulated = play_policy(
        subject.kept, setting_of(policy).policy, None, Device(2 << 30), addresses=True
    )
    (served,) = json.loads(out.read_text())["served"]
    for name in ("reserved", "allocated", "requested"):
        key = f"{name}_bytes.all.peak"
        assert served["statistics"][key] == simulated.stats[key]
    assert served["statistics"]["num_device_alloc"] == simulated.stats["num_device_alloc"]
    assert served["driver"] == simulated.work
    assert served["statistics"]["unknown_frees"] == 0

    # Each batch is the only tensor of its size; where it lay, from the first one's place on.
    told = [line.split()[1:] for line in said.err.splitlines() if line.startswith("at ")]
    sizes = subject.program.req_size[subject.program.request]
    places = [int(simulated.addr[np.flatnonzero(sizes == int(size))[0]]) for _, size in told]
    assert [int(at) - int(told[0][0]) for at, _ in told] == [at - places[0] for at in places]


@pytest.mark.parametrize("policy", ["best_fit", "pytorch"])
def test_pytorch_gets_errors_statistics_and_its_cache_emptied(
    build: Build, policy: str, tmp_path: Path, capfd: Any
) -> None:
    script = tmp_path / "use.py"
    script.write_text(LIVE)
    assert run(build, script, "live", "--policy", policy, "--capacity", "1GiB") == 0
    said = dict(line.split(" ", 1) for line in capfd.readouterr().out.splitlines() if " " in line)
    assert said["oom"] == "CUDA out of memory. Tried to allocate 3221225472 bytes."
    assert said["allocated"] == f"{50 << 20} {50 << 20}"
    assert said["after"] == "0 0"
    assert said["peak"] == "0"
    assert (said["waits"], said["graph"]) == ("True", "True")


def test_a_program_that_fails_ends_with_its_statistics(
    build: Build, tmp_path: Path, capfd: Any
) -> None:
    script = tmp_path / "fail.py"
    script.write_text(
        "import torch\nx = torch.ones(1000, device='cuda')\ntorch.empty(9 << 30, device='cuda')\n"
    )
    assert run(build, script, "live", "--policy", "tlsf", "--capacity", "1GiB", "--json") == 1
    told = json.loads(capfd.readouterr().out)
    assert told["program_status"] == 1
    assert told["served"][0]["statistics"]["num_ooms"] == 1


def test_a_device_with_less_than_the_capacity_is_an_end_of_memory(
    build: Build, tmp_path: Path, capfd: Any
) -> None:
    script = tmp_path / "fill.py"
    script.write_text(
        "import torch\nkeep = []\ntry:\n    while True:\n"
        "        keep.append(torch.empty(1 << 30, dtype=torch.uint8, device='cuda'))\n"
        "except torch.OutOfMemoryError:\n    print('held', len(keep))\n"
        "keep.pop()\nkeep.append(torch.empty(1 << 30, dtype=torch.uint8, device='cuda'))\n"
    )
    on = ["--stand-in", "v100-16g", "--torch", build.wheel.version, "--capacity", "40GiB"]
    command = ["live", "--policy", "best_fit", *on, "--", sys.executable, str(script)]
    assert cli.main(command) == 0
    said = capfd.readouterr().out
    assert "held 15\n" in said
    assert "refused_pages" in said and "RAN OUT OF MEMORY" in said


def test_a_policy_that_comes_too_late_says_so(build: Build, tmp_path: Path, capfd: Any) -> None:
    script = tmp_path / "late.py"
    script.write_text(
        "import torch\ntorch.ones(10, device='cuda')\n"
        "from tightfit.policies.live import install\n"
        "try:\n    install('best_fit')\nexcept Exception as error:\n    print(error)\n"
    )
    assert run(build, script, "record", "-o", str(tmp_path / "late.npz")) == 0
    assert "live: CUDA is in use already" in capfd.readouterr().out

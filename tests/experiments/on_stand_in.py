"""Scripts for the whole of PyTorch over the stand-in: one that trains, and how they are run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tightfit.experiments import cli
from tightfit.experiments.recording.libraries import build_libraries
from tightfit.experiments.recording.profiles import find_profile
from tightfit.experiments.recording.whole_wheel import Build

# The momentum by hand: PyTorch's own optimizers load its compiler, as long as all the rest takes.
TRAIN = """
import sys, torch
model = torch.nn.Sequential(torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 512))
model.cuda()
momenta = {}
for step in range(4):
    x = torch.randn(64 + 700 * step, 512, device="cuda")
    print("at", x.data_ptr(), x.nbytes, file=sys.stderr)
    model(x).square().mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            if step == 0:
                momenta[p] = torch.zeros_like(p)
            momenta[p].mul_(0.9).add_(p.grad)
            p -= 0.001 * momenta[p]
            p.grad = None
    print("read", x.sum().item(), file=sys.stderr)
"""


def environment_on(build: Build, gpu: str) -> dict[str, str]:
    """What a process needs to find a build of PyTorch, and a stand-in for a GPU."""
    return {
        **find_profile(gpu).environment(1, build.codes),
        "PYTHONPATH": str(build.path[0]),
        "LD_LIBRARY_PATH": str(build_libraries(build)),
    }


def run_on(build: Build, script: Path, gpu: str = "h100-80g", **more: str) -> str:
    """Run a script in its folder without recording it; what it printed."""
    done = subprocess.run(
        [sys.executable, script], env=os.environ | environment_on(build, gpu) | more,
        cwd=script.parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def record(build: Build, script: Path, out: Path, *words: str) -> None:
    """Record a script on one H100; `words` are more options."""
    torch = build.wheel.version
    command = ["record", "--stand-in", "h100-80g", "--torch", torch, "-o", str(out), *words]
    assert cli.main([*command, "--", sys.executable, str(script)]) == 0

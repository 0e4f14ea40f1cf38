"""Scripts on the whole of PyTorch over the stand-in, as on a machine that has a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tightfit.experiments.recording.libraries import build_libraries
from tightfit.experiments.recording.profiles import find_profile
from tightfit.experiments.recording.whole_wheel import Build


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

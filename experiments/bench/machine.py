"""The machine a measurement was taken on, in a few words."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from ... import __version__


def describe() -> dict[str, str | int]:
    """Processor, cores, versions and today's date."""
    versions = [f"tightfit {__version__}", f"Python {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in ("numba", "numpy")]
    compiler = _compiler()
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "versions": ", ".join(versions + ([compiler] if compiler else [])),
        "date": datetime.date.today().isoformat(),
    }


def peak_memory_bytes() -> int:
    """The largest resident set this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _compiler() -> str:
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True)
        return f"g++ {done.stdout.strip()}"
    return ""

"""The machine a measurement was taken on, in a few words."""

from __future__ import annotations

import ctypes
import datetime
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
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


def touched_bytes(work: Callable[[], object]) -> int | None:
    """How far the resident set rises while a function runs; None = this system does not say.

    Memory that is kept from what was freed before is handed back first, where the C library can.

    Source: man 5 proc: 5 in /proc/self/clear_refs makes the peak (VmHWM) start anew.
    """
    try:
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        before = _status_bytes("VmRSS")
        work()
        return _status_bytes("VmHWM") - before
    except OSError:
        return None


def _status_bytes(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status: {key} is missing")


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

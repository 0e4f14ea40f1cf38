"""A second process that compiles the kernel's cold half while the first compiles its hot one.

The compiler uses one core at a time. What the second process has done the first one finds in the
folder of compiled kernels (traces/jit.py); what it has not, the first compiles itself.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys

_WORK = (
    "from tightfit.sim.apart import compile_all; import tightfit.policies.pytorch; compile_all()"
)


def compile_beside() -> None:
    """Start the second process, if there is a second core and a folder to meet in.

    It ends with this process, or sooner.
    """
    from ..traces.jit import cache_folder

    if cache_folder() is None or (os.cpu_count() or 1) < 2:
        return
    try:
        worker = subprocess.Popen(
            [sys.executable, "-c", _WORK],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:  # it is only a shortcut
        return
    atexit.register(_end, worker)


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()

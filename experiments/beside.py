"""A second process that compiles the replay loop while the first compiles what else it needs.

The compiler uses one core at a time. What the second process has done the first one finds in the
folder of compiled kernels (traces/jit.py); what it has not, the first compiles itself.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys

_WORK = """
from tightfit.policies.pytorch import PYTORCH
from tightfit.sim import apart, assumed, engine
for loop in {loops}:
    engine.compile_loop(PYTORCH, getattr(assumed, loop))
    apart.compile_all(apart.TRACKING)
apart.compile_all()
"""


def compile_beside(loops: tuple[str, ...]) -> None:
    """Start the second process, and compile here what no replay does without.

    Nothing is done unless there is a second core, and a folder to meet in. The second process ends
    with this one, or sooner.

    Args:
        loops: the assumptions of sim/assumed.py that the loop is needed under, soonest first.
    """
    from ..traces.jit import cache_folder

    if cache_folder() is None or (os.cpu_count() or 1) < 2:
        return
    try:
        worker = subprocess.Popen(
            [sys.executable, "-c", _WORK.format(loops=loops)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:  # it is only a shortcut
        return
    atexit.register(_end, worker)
    # Both together load all that is compiled apart.
    from ..policies.pytorch import PYTORCH  # noqa: F401
    from ..sim.apart import FIRST, compile_all
    from ..sim.engine import play  # noqa: F401

    compile_all(FIRST)


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()

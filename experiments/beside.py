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


_started: list[subprocess.Popen[bytes]] = []


def compile_beside(loops: tuple[str, ...]) -> None:
    """Start the second process, and compile here what no replay does without.

    Args:
        loops: as for `start_beside`, which says when nothing is done.
    """
    if not start_beside(loops):
        return
    # Both together load all that is compiled apart.
    from ..policies.pytorch import PYTORCH  # noqa: F401
    from ..sim.apart import FIRST, compile_all
    from ..sim.engine import play  # noqa: F401

    compile_all(FIRST)


def start_beside(loops: tuple[str, ...]) -> bool:
    """Start the second process, which ends with this one, or sooner.

    Nothing is done unless there is a second core, and a folder to meet in; and nothing twice: a
    file there says for which loops a process was started.

    Args:
        loops: the assumptions of sim/assumed.py that the loop is needed under, soonest first.

    Returns:
        Whether it was started.
    """
    from ..traces.jit import cache_folder

    folder = cache_folder()
    if _started or folder is None or (os.cpu_count() or 1) < 2:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"beside-{'-'.join(loops)}").touch(exist_ok=False)
        worker = subprocess.Popen(
            [sys.executable, "-c", _WORK.format(loops=loops)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:  # somebody was first, or it cannot be done: it is only a shortcut
        return False
    _started.append(worker)
    atexit.register(_end, worker)
    return True


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()

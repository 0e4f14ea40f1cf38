"""What happens in a process that runs under a policy: it is installed, and tells how it did.

Environment:
    TIGHTFIT_LIVE              the policy, as users write it
    TIGHTFIT_LIVE_CAPACITY     bytes of each device; unset = what is free there
    TIGHTFIT_LIVE_FOLDER       where statistics are written when the process ends
    TIGHTFIT_RECORD_LIBRARIES  folder of the stand-in's libraries, if it runs on one
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...traces.capture_hook import (
    WhenImported,
    load_libraries,
    run_the_shadowed,
    without_cudnn_attention,
)
from ...traces.errors import TightfitError
from ...traces.whole_file import replacing

if TYPE_CHECKING:
    from ...policies.live import Installed

BAD_INPUT = 2


def start(file: str) -> None:
    """Install the policy as soon as the program imports torch.

    Args:
        file: the sitecustomize that this process found, which may hide another.
    """
    libraries = os.environ.get("TIGHTFIT_RECORD_LIBRARIES")
    sys.meta_path.insert(
        0, WhenImported("torch", lambda: load_libraries(libraries), lambda torch: begin(torch))
    )
    run_the_shadowed(file)


def begin(torch: Any) -> None:
    """The program has imported torch, and CUDA is not in use yet."""
    from ...policies.live import install

    if os.environ.get("TIGHTFIT_RECORD_LIBRARIES"):
        without_cudnn_attention(torch)
    capacity = os.environ.get("TIGHTFIT_LIVE_CAPACITY")
    try:
        with ending_at_once():
            installed = install(os.environ["TIGHTFIT_LIVE"], int(capacity) if capacity else None)
    except TightfitError as error:
        # An exception here would look like a fault of the program's own import.
        print(f"tightfit: {error}", file=sys.stderr, flush=True)
        os._exit(BAD_INPUT)
    pid = os.getpid()

    def tell() -> None:
        if os.getpid() == pid and (installed.devices or installed.failures):
            write(installed, torch, Path(os.environ["TIGHTFIT_LIVE_FOLDER"]) / f"{pid}.json")

    atexit.register(tell)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let Ctrl-C end the process, which has done nothing yet.

    An exception would be lost: the compiler calls Python back, and drops what that raises.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def write(installed: Installed, torch: Any, path: Path) -> None:
    """Write how a policy did in this process."""
    rank = os.environ.get("RANK", "")
    told = {
        "torch": str(torch.__version__),
        "rank": int(rank) if rank.isdigit() else None,
        "failures": installed.failures,
        "devices": {
            str(number): {
                "name": torch.cuda.get_device_name(number),
                "capacity_bytes": live.setting.capacity_bytes,
                "statistics": live.stats(),
                "driver": live.work(),
            }
            for number, live in sorted(installed.devices.items())
        },
    }
    with replacing(path) as file:
        file.write(json.dumps(told).encode())

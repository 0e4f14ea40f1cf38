"""Start a program so that it records itself, and wait for it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...traces.errors import ConfigError

HOOK = Path(__file__).parents[2] / "traces" / "capture_hook.py"
FAKE = HOOK.with_name("fake")
POLL = 0.2  # seconds between looks at what has been written
GRACE = 20.0  # seconds that a program has to end after Ctrl-C
ADDR_NO_RANDOMIZE = 0x0040000  # linux/personality.h


@dataclass(frozen=True)
class Plan:
    """A program and how it is to be recorded.

    Attributes:
        command: its words.
        folder: where its processes write their snapshots.
        conf: settings line; None = what the environment says.
        stacks, entries: as capture_hook.
        ranks: how many copies are started as ranks of one group; 0 = one, without ranks.
        libraries: folder of the stand-in's libraries; None = the machine's own.
        runtime: file name of the CUDA runtime in it.
        path: folders put before the interpreter's own.
        extra: further variables.
        quiet: whether the program's output goes to standard error.
        fake: the shim, to record with fake tensors; None = PyTorch's own history.
        device: what is pretended then, as capture_hook's TIGHTFIT_RECORD_DEVICE.
        scratch: whether scratch that kernels take is added then.
        hook: file that every Python process of the program runs first.
    """

    command: tuple[str, ...]
    folder: Path
    conf: str | None = None
    stacks: str = "python"
    entries: int | None = None
    ranks: int = 0
    libraries: Path | None = None
    runtime: str = ""
    path: tuple[Path, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)
    quiet: bool = False
    fake: Path | None = None
    device: str = ""
    scratch: bool = True
    hook: Path = HOOK


def find_python(command: Sequence[str]) -> str:
    """Return the interpreter that a command runs: itself, or the one its first line names.

    Raises:
        ConfigError: there is no such command.
    """
    first = shutil.which(command[0])
    if first is None:
        if command[0] == "torchrun":
            return sys.executable
        hint = ""
        if command[0].endswith(".py") and Path(command[0]).is_file():
            hint = f"; did you mean 'python {command[0]}'?"
        elif command[0] == "python" and shutil.which("python3"):
            hint = "; did you mean 'python3'?"
        raise ConfigError(f"found no program '{command[0]}' to run{hint}")
    if re.match(r"python[\d.]*$", Path(first).name):
        return first
    with open(first, "rb") as file:
        shebang = re.match(rb"#!\s*(\S*python[\d.]*)\s*$", file.readline(500))
    return shebang[1].decode() if shebang else sys.executable


def run(plan: Plan, python: str, on_snapshot: Callable[[Path], None]) -> int:
    """Run a program to its end.

    Args:
        plan: what and how.
        python: the interpreter it runs.
        on_snapshot: called with every finished `*.json` as soon as it is there.

    Returns:
        Exit status of the program, of ranks the first that is not 0; 128 + signal.
    """
    shutil.copyfile(plan.hook, plan.folder / "sitecustomize.py")
    words = list(plan.command)
    if words[0] == "torchrun" and shutil.which("torchrun") is None:
        words[:1] = [python, "-m", "torch.distributed.run"]
    port = str(_free_port())
    programs = []
    seen: set[Path] = set()

    def look() -> None:
        for path in sorted(plan.folder.glob("*.json")):
            if path not in seen:
                seen.add(path)
                on_snapshot(path)

    def pass_on(number: int, frame: object) -> None:
        for path in plan.folder.glob("*.recording"):
            try:
                os.kill(int(path.stem), number)
            except ProcessLookupError:
                continue

    before = signal.signal(signal.SIGUSR1, pass_on)
    try:
        for rank in range(max(1, plan.ranks)):
            own = environment(plan)
            if plan.ranks:
                own |= {
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(plan.ranks),
                    "LOCAL_WORLD_SIZE": str(plan.ranks), "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                }  # fmt: skip
            programs.append(
                subprocess.Popen(
                    words,
                    env=own,
                    stdout=2 if plan.quiet else None,
                    preexec_fn=_same_addresses if plan.libraries else None,
                )
            )
        while any(p.poll() is None for p in programs):
            time.sleep(POLL)
            look()
    except KeyboardInterrupt:
        # The program got it too, and writes what it has; twice means at once.
        for p in programs:
            try:
                p.wait(GRACE)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                p.kill()
    finally:
        signal.signal(signal.SIGUSR1, before)
    look()
    codes = [p.wait() for p in programs]
    worst = next((c for c in codes if c), 0)
    return worst if worst >= 0 else 128 - worst


def environment(plan: Plan) -> dict[str, str]:
    """Return the variables of a process that is to record itself."""
    own = dict(os.environ)
    own["TIGHTFIT_RECORD"] = str(plan.folder)
    own["TIGHTFIT_RECORD_STACKS"] = plan.stacks
    if plan.entries is not None:
        own["TIGHTFIT_RECORD_ENTRIES"] = str(plan.entries)
    if plan.conf is not None:
        own.pop("PYTORCH_ALLOC_CONF", None)
        own["PYTORCH_CUDA_ALLOC_CONF"] = plan.conf
    path = [str(plan.folder), *map(str, plan.path), own.get("PYTHONPATH", "")]
    own["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    if plan.fake is not None:
        own["TIGHTFIT_RECORD_FAKE"] = str(FAKE)
        own["TIGHTFIT_RECORD_SHIM"] = str(plan.fake)
        own["TIGHTFIT_RECORD_DEVICE"] = plan.device
        own["TIGHTFIT_RECORD_SCRATCH"] = str(int(plan.scratch))
    if plan.libraries is not None:
        own["TIGHTFIT_RECORD_LIBRARIES"] = str(plan.libraries)
        own["TIGHTFIT_RECORD_RUNTIME"] = plan.runtime
        own.pop("CUDA_VISIBLE_DEVICES", None)
        # Without these two runs free their tensors in different orders, as sets of objects are
        # ordered by address.
        own["PYTHONHASHSEED"] = "0"
    return own | plan.extra


def _same_addresses() -> None:
    """Let the kernel lay out the new process as it did the last one; where forbidden, go on."""
    import ctypes

    ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]

"""Where the real allocator runs: this machine's own GPU, or a stand-in for one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...traces.errors import VerificationError
from .pieces import Clock, Pieces

WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Machine:
    """How processes that use the device are started.

    Attributes:
        python: the interpreter.
        stand_in: the profile's name; "" on a real GPU.
        libraries: folder of the stand-in's libraries.
        runtime: file name of the CUDA runtime in it.
        path: folders put before the interpreter's own.
        extra: further variables.
    """

    python: str = sys.executable
    stand_in: str = ""
    libraries: Path | None = None
    runtime: str = ""
    path: tuple[Path, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)

    def environment(self, line: str) -> dict[str, str]:
        """Return the variables of a process under a settings line."""
        own = {k: v for k, v in os.environ.items() if k != "PYTORCH_ALLOC_CONF"}
        own["PYTORCH_CUDA_ALLOC_CONF"] = line
        own["PYTHONPATH"] = os.pathsep.join(
            filter(None, [*map(str, self.path), own.get("PYTHONPATH", "")])
        )
        if self.stand_in:
            own.pop("CUDA_VISIBLE_DEVICES", None)
            own["PYTHONHASHSEED"] = "0"
        return own | self.extra

    def carry_out(self, tasks: Sequence[dict[str, Any]], line: str, seconds: float) -> str:
        """Let the worker carry tasks out under a line; each leaves its own answer.

        Args:
            tasks: see worker.py.
            line: the settings line.
            seconds: after so many everything is stopped; tasks that are done stay done.

        Returns:
            Why not all of them were carried out; "" if they were.
        """
        if not tasks:
            return ""
        with tempfile.TemporaryDirectory(prefix="tightfit-verify-") as scratch:
            path = Path(scratch) / "tasks.json"
            libraries = str(self.libraries) if self.libraries else None
            path.write_text(json.dumps({"libraries": libraries, "tasks": list(tasks)}))
            words = [self.python, str(WORKER), str(path)]
            try:
                status, errors = run_whole(words, self.environment(line), max(1.0, seconds))
            except subprocess.TimeoutExpired:
                return "the time was up"
        said = [text for text in errors.splitlines() if text.strip()]
        return "" if status == 0 else (said or [f"status {status}"])[-1][:400]


def run_whole(words: Sequence[str], variables: dict[str, str], seconds: float) -> tuple[int, str]:
    """Run a command; if its time is up, or we are stopped, nothing that it started lives on.

    What lived on would hold memory of the device that the next process is asked about.

    Returns:
        Its status, and what it said on standard error.

    Raises:
        subprocess.TimeoutExpired: the time was up.
        VerificationError: it cannot be started.
    """
    try:
        process = subprocess.Popen(
            words, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise VerificationError(f"verify: {words[0]}: {error.strerror}") from error
    with process:
        try:
            _, errors = process.communicate(timeout=seconds)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, errors


def find_machine(stand_in: str | None, torch: str | None = None) -> Machine:
    """Return this machine's GPU, or the stand-in asked for.

    Raises:
        ConfigError: there is no such stand-in.
        VerificationError: the CUDA build or the stand-in cannot be had.
    """
    if stand_in is None:
        return Machine()
    from ..oracle.build import runtime_name
    from ..recording.libraries import build_libraries
    from ..recording.profiles import find_profile
    from ..recording.whole_wheel import find_build

    profile = find_profile(stand_in)
    build = find_build(torch)
    return Machine(
        stand_in=stand_in,
        libraries=build_libraries(build),
        runtime=runtime_name(build.wheel.cuda),
        path=build.path,
        extra=profile.environment(1, build.codes),
    )


def ask_once(mode: str, machine: Machine, folder: Path, clock: Clock) -> dict[str, Any]:
    """Return the answer to a task that needs no program: "costs", "habits" or "libraries".

    Args:
        mode: the task, and the name of its piece.
        machine: who answers.
        folder: for the piece; an answer that is there is not asked for again.
        clock: how long it may take.

    Raises:
        VerificationError: there was no answer.
    """
    pieces = Pieces(folder, machine.stand_in)
    answer = pieces.get("", mode)
    if answer is not None and "error" not in answer:
        return answer
    path = pieces.path("", mode)
    path.unlink(missing_ok=True)
    with clock.timing(mode):
        why = machine.carry_out([{"mode": mode, "answer": str(path)}], "", clock.left)
    answer = pieces.get("", mode) or {"error": why or "no answer"}
    if "error" in answer:
        raise VerificationError(f"verify: nothing was learnt of {mode}: {answer['error']}")
    return answer

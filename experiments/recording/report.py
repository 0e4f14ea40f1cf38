"""What `tightfit record` says when the program has ended."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .command import Recorded


def why_nothing(command: tuple[str, ...], stand_in: str | None, fake: str | None) -> str:
    """Why nothing was recorded, where PyTorch itself is the reason; else ""."""
    from .installed import installed_torch
    from .launch import find_python

    own = installed_torch(find_python(command))
    if stand_in is not None or fake is not None or own is None or own.has_cuda:
        return ""
    return (
        f"torch {own.version} is a build without CUDA; --stand-in h100-80g runs the program in one "
        "with CUDA on a stand-in for a GPU, --fake h100-80g in this one with fake tensors"
    )


def report(done: list[Recorded], code: int, as_json: bool, then: str, why: str) -> None:
    """Say what was written, or why nothing, and the command to go on with."""
    from ...traces.units import format_bytes
    from ..screen import emit_json, say, suggest, verdict

    if as_json:
        emit_json({"files": done, "program_status": code, "why_nothing": why})
        return
    if not done:
        verdict(f"NOTHING RECORDED: {why or 'the program never used CUDA, or was killed'}")
    for file in done:
        verdict(
            f"{file.file}: {file.entries:,} entries, {format_bytes(file.file_bytes)}"
            + ("" if file.reason == "exit" else f" (written on {file.reason})")
        )
    if any(file.entries == 0 for file in done):
        say(
            "0 entries: nothing was allocated, or the program switched PyTorch's history off, as "
            "`with tightfit.record(...)` does at its end."
        )
    if code:
        say(f"The program ended with status {code}.")
    if done:
        path = shlex.quote(done[0].file)
        suggest(f"tightfit {then} {path}", f"tightfit tune {path}")


def warn_of_lost_exceptions(file: str) -> None:
    """Say what may have ended a program, if the PyTorch that ran it is 2.11.

    There a stack taken in a backward pass drops the exception under way, by which a recomputation
    ends (pytorch/pytorch#179536). Measured: 2.11.0 does; 2.12.1, 2.13.0 and 2.15.0 do not.
    """
    from ...traces.load import load
    from ..screen import warn

    if load(Path(file)).extra["recorded"]["torch"].startswith("2.11."):
        warn(
            "PyTorch 2.11 loses exceptions while it takes stacks: if the program ended in "
            '"SystemError: ... returned NULL without setting an exception", as some with '
            "activation checkpointing do, record it with --stacks none"
        )

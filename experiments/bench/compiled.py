"""PyTorch's own compiled allocator on the stand-in for CUDA, given the same mallocs and frees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ...sim.device import Device
from ...sim.engine import OP_BITS
from ...sim.packing import Packed
from ...sim.release import NEWEST, release
from ...sim.settings import Settings
from ...sim.settings_line import format_settings
from ...traces.errors import VerificationError
from ...traces.program import Op, Program
from ..oracle.build import build_driver
from ..oracle.commands import COMMAND, Case, Code
from ..oracle.run import run_cases
from ..oracle.wheels import find_wheel


@dataclass(frozen=True)
class CompiledRun:
    """What PyTorch's allocator did.

    Attributes:
        nanoseconds: processor time of the mallocs and frees.
        stats: flat `memory_stats` keys.
    """

    nanoseconds: int
    stats: dict[str, int]


@cache
def driver() -> Path:
    """The program that times the allocator of the newest release.

    Raises:
        VerificationError: its libraries are not at hand, or there is no compiler.
    """
    return build_driver(find_wheel(NEWEST, download=False))


def driver_reason() -> str:
    """Why there is no column for PyTorch; "" if there is one."""
    try:
        driver()
    except VerificationError as error:
        return f"PyTorch: {error}; `tightfit prove --torch {NEWEST}` fetches them"
    return ""


def can_time(program: Program) -> bool:
    """Whether a program is made of what is timed: mallocs and frees in the default pools."""
    return (
        program.n_start == 0
        and bool(np.isin(program.op, (Op.MALLOC, Op.FREE)).all())
        and not program.req_pool.any()
    )


def commands_of(packed: Packed) -> np.ndarray:
    """The events as the driver's commands; an allocation's id is the slot that held it.

    Returns:
        shape (n,), COMMAND.
    """
    program, events = packed.program, packed.events
    out = np.zeros(len(events), COMMAND)
    request = ((events >> OP_BITS) & 0xFFFFFFF) - 1
    out["code"] = np.where(program.op == Op.MALLOC, int(Code.MALLOC), int(Code.FREE))
    out["id"] = events >> 32
    out["size"] = program.req_size[request]
    out["stream"] = program.req_stream[request]
    return out


def time_compiled(packed: Packed, settings: Settings) -> CompiledRun:
    """Replay a program for which can_time() holds.

    Raises:
        VerificationError: there is no driver, or it fails.
    """
    conf = format_settings(settings, release(NEWEST))
    case = Case("bench", conf, Device(Device().total_bytes), commands_of(packed))
    answer = run_cases(driver(), [case], timed=True)[0]
    if not answer.nanoseconds:
        said = "; ".join(message for _, message in answer.errors) or f"status {answer.status}"
        raise VerificationError(f"bench: PyTorch's allocator did not finish: {said}")
    return CompiledRun(answer.nanoseconds, answer.stats)

"""Where a recording ran out of memory: what was asked for, and how much the program could have.

PyTorch writes an `oom` entry when an allocation has failed for good, after all cached memory was
given back: the size that was wanted and the bytes the device still had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from ..traces.event import Action
from ..traces.program import Op, Program
from ..traces.recording import DeviceRecording, Finding, Stacks
from ..traces.units import MiB, exact_bytes, format_bytes, round_up
from .owners import user_frame

if TYPE_CHECKING:
    from .subject import Subject

# What is taken from the driver for a block below 10 MiB, and what larger ones are rounded up to.
# Source: CUDACachingAllocator.cpp, get_allocation_size (2.15).
LEAST_LARGE, LARGE_STEP = 20 * MiB, 2 * MiB

GROWS = (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP)
SHRINKS = (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP)


@dataclass(frozen=True)
class OutOfMemory:
    """The first allocation of a device that failed for good.

    Attributes:
        entry: index of its `oom` entry.
        size_bytes: the block it needed.
        reserved_bytes: what the allocator held then.
        peak_reserved_bytes: the most it had held until then.
        free_bytes: what the device said was free.
        where: the place in the user's code, as `user_frame` names it; "" if not recorded.
    """

    entry: int
    size_bytes: int
    reserved_bytes: int
    peak_reserved_bytes: int
    free_bytes: int
    where: str

    @property
    def is_limited(self) -> bool:
        """The device had room: a limit of the process was met, such as a memory fraction."""
        return self.free_bytes >= max(LEAST_LARGE, round_up(self.size_bytes, LARGE_STEP))

    @property
    def capacity_bytes(self) -> int:
        """What the program could have: of a limited one no more is known than what it held."""
        if self.is_limited:
            return self.peak_reserved_bytes
        return self.reserved_bytes + self.free_bytes

    @property
    def words(self) -> str:
        """What happened, in one sentence."""
        line = f"OUT OF MEMORY at entry {self.entry:,}: {format_bytes(self.size_bytes)} wanted"
        line += f" at {self.where}" if self.where else ""
        line += f", {format_bytes(self.reserved_bytes)} reserved, {format_bytes(self.free_bytes)} "
        line += "free on the device"
        return line + ("; a limit of the process was met" if self.is_limited else "")


def first_out_of_memory(part: DeviceRecording, stacks: Stacks) -> OutOfMemory | None:
    """Return the first failure that a device's history shows, or None."""
    action, size = part.entries["action"], part.entries["size"]
    failed = np.flatnonzero(action == Action.OOM)
    if not len(failed) or not part.shows_driver:
        return None
    k = int(failed[0])
    held = _reserved(part)[: k + 1]
    stack = int(part.entries["stack"][k])
    return OutOfMemory(
        entry=k,
        size_bytes=int(size[k]),
        reserved_bytes=max(0, int(held[-1])),
        peak_reserved_bytes=max(0, int(held.max())),
        free_bytes=int(part.entries["addr"][k]),
        where=user_frame(stacks[stack]) if stack else "",
    )


def _reserved(part: DeviceRecording) -> np.ndarray:
    """Bytes reserved before each entry of a history and at its end."""
    action, size = part.entries["action"], part.entries["size"]
    grown = np.where(np.isin(action, GROWS), size, 0) - np.where(np.isin(action, SHRINKS), size, 0)
    # The end is known and the beginning is not: a ring buffer may have lost the first entries.
    start = int(part.segments["total_size"].sum()) - int(grown.sum())
    return start + np.concatenate([[0], np.cumsum(grown)])


def advice_on_capacity(subjects: Sequence[Subject]) -> list[Finding]:
    """For a question without --capacity: what to give it, where the recorded memory ran short."""
    found = (_advice(subject) for subject in subjects)
    return [finding for finding in found if finding is not None]


def _advice(subject: Subject) -> Finding | None:
    recording, name = subject.recording, PurePath(subject.name).name
    part = recording.devices[subject.device]
    failed = first_out_of_memory(part, recording.stacks)
    if failed is not None:
        text = (
            f"{name} ran out of memory at entry {failed.entry:,}; "
            f"--capacity {exact_bytes(failed.capacity_bytes)} asks what fits in what it had"
        )
        return Finding("out_of_memory", 1, text, subject.device)
    facts = recording.extra.get("recorded", {}).get("devices", {}).get(str(subject.device), {})
    short = _short_of_memory(subject.program)
    if not short or not facts.get("stats", {}).get("num_alloc_retries", short):
        return None
    total = facts.get("total_bytes")
    size = exact_bytes(total) if total else "SIZE"
    most = format_bytes(int(_reserved(part).max()))
    text = (
        f"{name}: when recorded, cached memory was given back for {_requests(short)}, and at most "
        f"{most} was reserved; peaks here are those on a GPU with room for them, --capacity {size} "
        "asks about the recorded one"
    )
    return Finding("short_of_memory", short, text, subject.device)


def _short_of_memory(program: Program) -> int:
    """Requests of a recorded program for which memory went back to the driver first."""
    shrinks = program.driver_op[np.isin(program.driver_action, SHRINKS)]
    return len(np.unique(shrinks[np.isin(program.op[shrinks], (Op.MALLOC, Op.TRY))]))


def _requests(n: int) -> str:
    return "one request" if n == 1 else f"{n:,} requests"

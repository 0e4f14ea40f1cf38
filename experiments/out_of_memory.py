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
    grown = np.where(np.isin(action, GROWS), size, 0) - np.where(np.isin(action, SHRINKS), size, 0)
    # The end is known and the beginning is not: a ring buffer may have lost the first entries.
    start = int(part.segments["total_size"].sum()) - int(grown.sum())
    held = start + np.concatenate([[0], np.cumsum(grown[:k])])
    stack = int(part.entries["stack"][k])
    return OutOfMemory(
        entry=k,
        size_bytes=int(size[k]),
        reserved_bytes=max(0, int(held[-1])),
        peak_reserved_bytes=max(0, int(held.max())),
        free_bytes=int(part.entries["addr"][k]),
        where=user_frame(stacks[stack]) if stack else "",
    )


def advice_on_capacity(subjects: Sequence[Subject]) -> list[Finding]:
    """For a search that was given no --capacity: what to give it, of recordings that failed."""
    out = []
    for subject in subjects:
        recording = subject.recording
        found = first_out_of_memory(recording.devices[subject.device], recording.stacks)
        if found is not None:
            text = (
                f"{PurePath(subject.name).name} ran out of memory at entry {found.entry:,}; "
                f"--capacity {exact_bytes(found.capacity_bytes)} asks what fits in what it had"
            )
            out.append(Finding("out_of_memory", 1, text, subject.device))
    return out

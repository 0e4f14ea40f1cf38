"""The simulated device: how much memory there is, and who else uses it."""

from __future__ import annotations

from dataclasses import dataclass

from ..traces.units import MiB, TiB


@dataclass(frozen=True)
class Device:
    """A GPU as its allocator sees it.

    Attributes:
        capacity_bytes: total memory (`totalGlobalMem`); None = never runs out. Without a capacity
            expandable reservations are sized for a device of 1 TiB and no fraction limit applies.
        other_bytes: memory taken by others (context, libraries, other processes).
        granularity: the driver hands out physical memory in multiples of this.
    """

    capacity_bytes: int | None = None
    other_bytes: int = 0
    granularity: int = 2 * MiB

    @property
    def total_bytes(self) -> int:
        """Total memory that reservations and fractions are computed from."""
        return TiB if self.capacity_bytes is None else self.capacity_bytes


# New segments and reservations of a what-if replay get increasing addresses that are never used
# again: the first at FIRST_ADDRESS (or above everything in the start layout, if that is higher),
# each next at the end of the last, rounded up to ALIGNMENT.
FIRST_ADDRESS = 0x7F0000000000
ALIGNMENT = 2 * MiB

"""Outcome: what one program would have done under one line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What one program would have done under one line; simulated.

    Attributes:
        peak_reserved_bytes: on a device that never runs out.
        peak_allocated_bytes, peak_requested_bytes: likewise.
        device_allocs, device_frees, alloc_retries, ooms: on the device asked about.
        first_oom_event: recorded entry at which memory first ran out there; None = it did not.
        smallest_bytes: least memory of its own that it runs on; None = not asked.
    """

    peak_reserved_bytes: int
    peak_allocated_bytes: int
    peak_requested_bytes: int
    device_allocs: int
    device_frees: int
    alloc_retries: int
    ooms: int
    first_oom_event: int | None
    smallest_bytes: int | None = None

    @property
    def needed_bytes(self) -> int:
        """What counts: the smallest device if that was asked for, else the peak."""
        return self.peak_reserved_bytes if self.smallest_bytes is None else self.smallest_bytes

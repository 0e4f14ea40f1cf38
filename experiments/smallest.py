"""The smallest device that a program runs on, bisected."""

from __future__ import annotations

from collections.abc import Callable

from ..sim.run import Run
from ..traces.units import MiB, round_up

CAPACITY_STEP = 2 * MiB  # the driver gives out no less


def smallest_device(fits: Callable[[int], bool], free: Run) -> int:
    """Return the smallest device, in steps of 2 MiB, on which a program runs without OOM.

    Args:
        fits: whether it runs on so many bytes, the memory of others not counted.
        free: its run on a device that never runs out.
    """
    low = free.stats["requested_bytes.all.peak"] // CAPACITY_STEP * CAPACITY_STEP
    high = round_up(free.stats["reserved_bytes.all.peak"], CAPACITY_STEP)
    while not fits(high):  # odd sizes cost the driver more
        high += CAPACITY_STEP
    low = min(low, high) - CAPACITY_STEP
    while high - low > CAPACITY_STEP:
        middle = (low + high) // 2 // CAPACITY_STEP * CAPACITY_STEP
        if middle > 0 and fits(middle):
            high = middle
        else:
            low = middle
    return high


def ran(run: Run) -> bool:
    """Whether a run met no out-of-memory error."""
    return run.stats["num_ooms"] + run.stats["num_oom_rejections"] == 0

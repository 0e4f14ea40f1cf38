"""The smallest device that a program runs on, bisected."""

from __future__ import annotations

from collections.abc import Callable

from ..sim.run import Run
from ..traces.units import MiB, TiB, round_up

CAPACITY_STEP = 2 * MiB  # the driver gives out no less
LARGEST = (
    1024 * TiB
)  # where the search ends; a line that leaves a program a millionth may want more


def smallest_device(fits: Callable[[int], bool], free: Run, other: int = 0) -> int | None:
    """Return the smallest device, in steps of 2 MiB, on which a program runs without OOM.

    Args:
        fits: whether it runs on a device of so many bytes.
        free: its run on a device that never runs out.
        other: bytes of the device that others use.

    Returns:
        Total bytes of the device; None if it runs on none up to 1 PiB.
    """
    low = free.stats["requested_bytes.all.peak"] // CAPACITY_STEP * CAPACITY_STEP
    high = round_up(free.stats["reserved_bytes.all.peak"], CAPACITY_STEP)
    low = min(low, high) - CAPACITY_STEP
    step = CAPACITY_STEP
    while not fits(
        high + other
    ):  # odd sizes cost the driver more, and a limit may leave it a share only
        if high > LARGEST:
            return None
        low, high, step = high, high + step, 2 * step
    while high - low > CAPACITY_STEP:
        middle = (low + high) // 2 // CAPACITY_STEP * CAPACITY_STEP
        if middle > 0 and fits(middle + other):
            high = middle
        else:
            low = middle
    return high + other


def ran(run: Run) -> bool:
    """Whether a run met no out-of-memory error."""
    return run.stats["num_ooms"] + run.stats["num_oom_rejections"] == 0

"""The smallest device that a program runs on, bisected."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..sim.run import Run
from ..traces.units import MiB, TiB, round_up

CAPACITY_STEP = 2 * MiB  # the driver gives out no less
TRIED = 64  # sizes above the smallest: a quarter of them next to it, the others up to the peak
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


def sure_device(
    fits: Callable[[int], bool], least: int, free: Run, other: int = 0, tried: int = TRIED
) -> int:
    """Return the smallest device from which a program runs on every size that was tried.

    More memory is not always enough: where caches are given back later, what stays lies elsewhere.
    On a device with room for the peak nothing is ever given back.

    Args:
        fits: whether it runs on a device of so many bytes.
        least: the smallest device, from `smallest_device`.
        free: its run on a device that never runs out.
        other: bytes of the device that others use.
        tried: how many sizes are tried at most.
    """
    steps = (free.stats["reserved_bytes.all.peak"] + other - least) // CAPACITY_STEP
    near = tried // 4
    spread = np.linspace(1, max(1, steps), tried - near).astype(np.int64)
    sure = least
    for step in np.union1d(np.arange(1, near + 1), spread).tolist():
        if step > steps:
            break
        if not fits(least + step * CAPACITY_STEP):
            sure = least + (step + 1) * CAPACITY_STEP
    return sure


def ran(run: Run) -> bool:
    """Whether a run met no out-of-memory error."""
    return run.stats["num_ooms"] + run.stats["num_oom_rejections"] == 0

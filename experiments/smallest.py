"""The smallest device that a program runs on: bisected, then the smaller sizes are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ..sim.run import Run
from ..traces.units import MiB, TiB, round_up

Result = TypeVar("Result", bound=Any)  # Shown, Row, Tried

CAPACITY_STEP = 2 * MiB  # the driver gives out no less
LARGEST = 1024 * TiB  # the search ends there; a line may leave a program a millionth of it
BELOW_EVENTS = 60_000_000  # replayed at most to try sizes below the bisected one
REPLAY_EVENTS = 10_000  # what a replay costs beside its events
ABOVE = 64  # sizes tried above: a quarter of them next to it, the others up to the peak
MANY_EVENTS = 4_000_000  # of the programs: fewer sizes above are tried of longer ones


@dataclass(frozen=True, slots=True)
class Smallest:
    """The smallest device found, in steps of 2 MiB.

    More memory is not always enough: where caches are given back later, what stays lies elsewhere.
    On a device with room for the peak nothing is ever given back.

    Attributes:
        bytes: total memory of the device.
        proven: every smaller size down to what is live at the peak was tried.
        sure_bytes: from here on all sizes that were tried are large enough.
    """

    bytes: int
    proven: bool
    sure_bytes: int


def find_smallest(
    programs: Sequence[Callable[[int], Run]],
    free: Sequence[Run],
    other: int = 0,
    most: int = BELOW_EVENTS,
) -> Smallest | None:
    """Find the smallest device on which every one of some programs runs without OOM.

    Args:
        programs: each gives its run on a device of so many bytes.
        free: their runs on a device that never runs out.
        other: bytes of the device that others use.
        most: events replayed at most to try sizes below the bisected one, the nearest first.

    Returns:
        The device; None if they run on none up to 1 PiB.
    """
    tried: dict[int, bool] = {}
    events = 0
    greedy = sorted(range(len(free)), key=lambda k: -free[k].stats["reserved_bytes.all.peak"])

    def fits(total: int) -> bool:
        nonlocal events
        if total not in tried:
            tried[total] = True
            for k in greedy:  # who needs most fails first
                run = programs[k](total)
                events += run.n_ops + REPLAY_EVENTS
                if not ran(run):
                    tried[total] = False
                    break
        return tried[total]

    bisected = bisect_smallest(fits, free, other)
    if bisected is None:
        return None
    least_live, size = _live(free) + other, bisected
    events = 0
    while size > least_live and events < most:
        size -= CAPACITY_STEP
        fits(size)
    for size_above in _above(bisected, free, other):
        fits(size_above)
    least = min(total for total, runs in tried.items() if runs)
    failed = max((total for total, runs in tried.items() if not runs), default=0)
    return Smallest(least, size <= least_live, max(least, failed + CAPACITY_STEP))


def bisect_smallest(fits: Callable[[int], bool], free: Sequence[Run], other: int = 0) -> int | None:
    """Bisect as if more memory were always enough, in some dozen replays.

    Args:
        fits: whether the programs run on a device of so many bytes.
        free: their runs on a device that never runs out.
        other: bytes of the device that others use.

    Returns:
        Total bytes of a device that fits, while 2 MiB less does not; None if none up to 1 PiB does.
    """
    high = max(round_up(run.stats["reserved_bytes.all.peak"], CAPACITY_STEP) for run in free)
    low = min(_live(free), high) - CAPACITY_STEP
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


def with_smallest(result: Result, found: Smallest | None) -> Result:
    """A result with what was found of its smallest device."""
    if found is None:
        return result
    return replace(
        result,
        min_capacity_bytes=found.bytes,
        min_capacity_proven=found.proven,
        sure_capacity_bytes=found.sure_bytes,
    )


def ran(run: Run) -> bool:
    """Whether a run met no out-of-memory error."""
    return run.stats["num_ooms"] + run.stats["num_oom_rejections"] == 0


def _live(free: Sequence[Run]) -> int:
    """What is live at the peak, in whole steps."""
    peak = max(run.stats["requested_bytes.all.peak"] for run in free)
    return peak // CAPACITY_STEP * CAPACITY_STEP


def _above(least: int, free: Sequence[Run], other: int) -> list[int]:
    """Sizes to try between the smallest device and one with room for the peak."""
    events = sum(run.n_ops for run in free)
    number = ABOVE if events <= MANY_EVENTS else max(4, ABOVE * MANY_EVENTS // events)
    peak = max(run.stats["reserved_bytes.all.peak"] for run in free)
    steps = (peak + other - least) // CAPACITY_STEP
    near = number // 4
    spread = np.linspace(1, max(1, steps), number - near).astype(np.int64)
    chosen = np.union1d(np.arange(1, near + 1), spread)
    return (least + chosen[chosen <= steps] * CAPACITY_STEP).tolist()

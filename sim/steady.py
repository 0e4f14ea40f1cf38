"""Steady state: what repeats for ever is played once.

A program that repeats itself meets an allocator that may repeat itself too. When the state at two
ends of a period is the same up to names (ids of blocks, and addresses of segments as long as their
order is the same), everything between them happens again in every further cycle, and those cycles
are skipped: counters grow by what a cycle adds, segments that every cycle obtains anew move on by
the addresses a cycle uses. States are compared whole; no hash decides.

Which cycle recurs is found with marks at doubling distances (Brent, An improved Monte Carlo
factorization algorithm, 1980, section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .memory import Fields
from .packing import Packed
from .period import Period
from .plan import Plan
from .readout import chains, lanes_of, pending_slots
from .state import (
    AGES,
    ALLOC_RETRIES,
    ALLOCATED,
    CLOCK,
    DEVICE_ALLOCS,
    DEVICE_FREES,
    DRIVER_USED,
    FREE,
    FREEABLE,
    HELD,
    HIGHEST_ID,
    ID_STEP,
    IN_CAPTURE,
    IS_EXPANDABLE,
    KIND_MASK,
    MALLOCS,
    NEXT_ADDRESS,
    NEXT_ORDER,
    OLD_PAGE,
    OOM_REJECTIONS,
    OOMS,
    PAGE,
    PENDING,
    POOL,
    POOL_WORDS,
    REQUESTED,
    RESERVED,
    START_PAGE,
    STATE_MASK,
    SYNCS,
    UNMAP_BYTES,
    USED,
)
from .stats import VALUES

# What looking costs, in events that could have been played instead: a glance at the counters, and a
# mark of a whole state, which also costs PER_BLOCK for each block.
GLANCE, MARK, PER_BLOCK = 1024, 4096, 5
# Looking ends when it has cost this share of the stretch: a look soon, as it can save most of it,
# and further ones.
SOON, SHARE = 1 / 2, 1 / 10
# Looks are at least so many events apart, and further after each so many in vain.
UNIT, LOOKS, FURTHER = 512, 8, 4
# Counters that a cycle adds to. What is not named here is the same again, or a peak.
ADDED = [
    DEVICE_ALLOCS, DEVICE_FREES, ALLOC_RETRIES, OOMS, SYNCS, OOM_REJECTIONS, NEXT_ADDRESS,
    NEXT_ORDER, *range(MALLOCS, UNMAP_BYTES + 1),
]  # fmt: skip
SAME = [ALLOCATED, PENDING, REQUESTED, RESERVED, DRIVER_USED, IN_CAPTURE]


@dataclass(frozen=True)
class Mark:
    """A state at the end of a period.

    Attributes:
        form: what decides about the future, names left out.
        base: shape (chains,) lowest address of each segment or reservation, ascending.
        g, stat, clock: counters to take differences of.
    """

    form: list[np.ndarray]
    base: np.ndarray
    g: np.ndarray
    stat: np.ndarray
    clock: np.ndarray


def take_mark(f: Fields, packed: Packed, plan: Plan) -> Mark:
    """Look at a state's fields; two with equal forms have the same future up to names."""
    ids, head = chains(f)
    tag, order, lane = f["tag"][ids], f["order"][ids], lanes_of(f, ids, plan)
    is_used = tag & STATE_MASK == USED
    slots = f["slot"][: packed.n_slots]
    owner = np.zeros(int(f["g"][HIGHEST_ID]) + 1, np.int64)
    owner[slots] = np.arange(len(slots))
    pools = f["pool"][: plan.pools.size].reshape(-1, POOL_WORDS)
    form = [
        np.flatnonzero(head),
        f["size"][ids],
        tag & (STATE_MASK | KIND_MASK),
        lane,
        np.where(is_used, owner[ids], 0),
        np.where(is_used, f["asked"][ids], 0),
        np.unique(order, return_inverse=True)[1] if order.any() else order,
        np.array(pending_slots(f), np.int64),
        pools[:, [FREEABLE, HELD]],
        f["g"][SAME],
        f["extra"].copy(),
    ]
    if f["opt"][AGES]:
        clock = pools[plan.lanes[lane, POOL], CLOCK]
        form.append(np.where(tag & STATE_MASK == FREE, clock - f["born"][ids // ID_STEP], 0))
    return Mark(form, f["addr"][ids][head], f["g"].copy(), f["stat"].copy(), pools[:, CLOCK].copy())


def skip_ahead(
    period: Period,
    play_to: Callable[[int], Fields | None],
    packed: Packed,
    plan: Plan,
) -> int:
    """Play into a periodic stretch until the state recurs, and skip whole cycles from there.

    Args:
        period: the stretch.
        play_to: plays up to an event and returns the state's fields; None if the run ended before.
        packed, plan: of the run.

    Returns:
        How many events were skipped; the run goes on that much later than where it was played to.
    """
    stretch = period.length * period.repeats
    unit = -(-UNIT // period.length)  # in periods, as `at` and `marked`
    at = marked = looks = spent = 0
    power, mark = 1, None
    while at + unit < period.repeats:
        at += unit
        f = play_to(period.start + at * period.length)
        if f is None:
            return 0
        g = f["g"]
        is_due = at - marked >= power * unit
        spent += GLANCE
        if is_due or (mark is not None and np.array_equal(g[SAME], mark.g[SAME])):
            spent += MARK + PER_BLOCK * int(g[HIGHEST_ID]) // ID_STEP
            if spent > stretch * (SHARE if looks > 1 else SOON):
                return 0
            now = take_mark(f, packed, plan)
            if mark is not None and all(map(np.array_equal, mark.form, now.form)):
                cycles = (period.repeats - at) // (at - marked)
                _advance(f, plan, mark, now, cycles)
                return cycles * (at - marked) * period.length
            if is_due:
                power = 1 if mark is None else 2 * power
                mark, marked = now, at
        looks += 1
        if looks % LOOKS == 0:
            unit *= FURTHER
            power = 1
    return 0


def _advance(f: Fields, plan: Plan, mark: Mark, now: Mark, cycles: int) -> None:
    """Let a state that has just come round a cycle come round some more."""
    f["g"][ADDED] += cycles * (now.g[ADDED] - mark.g[ADDED])
    added = cycles * (now.stat - mark.stat)
    for part in (VALUES.index("allocated"), VALUES.index("freed")):
        f["stat"][part :: len(VALUES)] += added[part :: len(VALUES)]
    pools = f["pool"][: plan.pools.size].reshape(-1, POOL_WORDS)
    ticks = cycles * (now.clock - mark.clock)
    pools[:, CLOCK] += ticks
    has_moved = not np.array_equal(mark.base, now.base)
    if not (ticks.any() or has_moved):
        return
    ids, head = chains(f)
    lane = lanes_of(f, ids, plan)
    f["born"][ids // ID_STEP] += ticks[plan.lanes[lane, POOL]].astype(np.int32)
    if has_moved:
        moved = (_addresses(mark, now, cycles) - now.base)[np.cumsum(head) - 1]
        f["addr"][ids] += moved
        tag = f["tag"][ids]
        page = np.where(tag & OLD_PAGE, plan.lanes[lane, START_PAGE], plan.lanes[lane, PAGE])
        phase = (f["phase"][ids] + moved) % page
        f["phase"][ids] = np.where(tag & IS_EXPANDABLE, phase, f["phase"][ids])


def _addresses(mark: Mark, now: Mark, cycles: int) -> np.ndarray:
    """Where each segment lies after some further cycles; shape (chains,).

    Addresses are never used twice: a segment was either there at the mark, or the cycle obtained
    it, at a distance from the first new address that is the same in every cycle.
    """
    first = int(mark.g[NEXT_ADDRESS])
    step = int(now.g[NEXT_ADDRESS]) - first
    was = np.searchsorted(mark.base, now.base)
    was[now.base >= first] = -1
    out = np.empty(len(now.base), np.int64)
    for k in range(len(out)):
        j, left = k, cycles
        while left and was[j] >= 0 and was[j] != j:
            j = int(was[j])
            left -= 1
        out[k] = now.base[j] if was[j] >= 0 else now.base[j] + left * step
    return out

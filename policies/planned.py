"""Planned: where everything of a training iteration goes is worked out before it runs.

One iteration is profiled beforehand: the stretch of the program that repeats, or the whole program
if nothing does. Its allocations are packed offline, those that outlive it for all of its length.
At run time requests are matched with the profile in order. A request that is next, or soon, in the
profile goes to its planned place if that is free. What deviates goes into the smallest piece of the
plan that is free now and idle in the plan for as long as it will live: by the profile if its place
was taken, else as long as the longest-lived of its kind until now. What finds none, or of whose
kind nothing is known, is served by best fit in a region of its own.

The clock is the profile's: the event of it that the latest matched request stands for, and a whole
profile more for every round.

Source: STAlloc (EuroSys 2026): profiling, the static plan, the idle space of the plan for dynamic
requests, and the caching allocator behind both; the plan is a skyline packing, as in
packing_skyline.py.
Differs: STAlloc knows a dynamic request's lifetime by the layers in which it is allocated and
freed; a recording has no layers, so it is that of requests of the same size, stream and pool.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..sim.engine import MALLOC_REVIVES, OP_BITS, OP_MASK
from ..sim.free_tree import first_from, insert, last_before, remove
from ..sim.ground import drop_block, new_block
from ..sim.ground_driver import REFUSED, driver_free, driver_malloc
from ..sim.mechanism import Foresight, Honours, Mechanism
from ..sim.packing import Packed
from ..sim.param import Param
from ..sim.span import (
    BY_SIZE,
    REGION_WORDS,
    cut_in_region,
    grow,
    release_in_region,
    shrink_region,
    take,
)
from ..sim.state import NOW
from ..traces.jit import helper, inline, kernel
from ..traces.program import Op
from ..traces.units import MiB
from .iteration import find_iteration
from .packing import pack
from .packing_buffers import Buffers

LOOK = 0  # parameter
# Words of `own`: two trees, the plan's bytes, address, length in events and number of rows, the
# region of what finds no place in it, and the plan's rows in the order of their offsets.
FREE_BLOCKS, LIVE, PLAN_BYTES, BASE, LENGTH, N_ROWS, REGION = range(7)
ROWS = REGION + REGION_WORDS
ROW_WORDS = 4
OFFSET, END, BORN, DIES = range(4)  # bytes [offset, end) are in use during events [born, dies)
# A hint is 1 + the row of the plan; or -1 - (now << CLOCK_BITS | lifetime) of what deviates; or 0.
CLOCK_BITS = 31
PLAN_UNIT = 512
PAGE = 2 * MiB
MALLOC, FREE, COMPLETE = int(Op.MALLOC), int(Op.FREE), int(Op.COMPLETE)


def own(values: Mapping[str, int], lanes: int) -> int:
    """Two trees, four words about the plan, and a region; the rows come with the foresight."""
    return ROWS


@inline
def _has_plan(m):
    """There is memory for the plan, or the driver gives some."""
    if m.own[BASE] == 0 and m.own[PLAN_BYTES] != 0:
        a = driver_malloc(m, m.own[PLAN_BYTES])
        if a != REFUSED:
            m.own[BASE] = a
    return m.own[BASE] != 0


@inline
def _is_free(m, a, size):
    """Nobody holds any of `size` bytes of the plan at address a."""
    after = first_from(m, LIVE, a, 0)
    if after != 0 and m.addr[after] < a + size:
        return False
    before = last_before(m, LIVE, a, 0)
    return before == 0 or m.addr[before] + m.size[before] <= a


@inline
def _settle(m, a, size):
    """A block of the plan's memory."""
    b = new_block(m)
    m.addr[b] = a
    m.size[b] = size
    m.lane[b] = LIVE
    m.key[b] = a
    m.tie[b] = 0
    insert(m, LIVE, b)
    return b


@inline
def _is_busy(m, row, now, until):
    """A row is in use at some time from `now` to `until`, less than a whole profile later."""
    born, dies = m.own[row + BORN], m.own[row + DIES]
    length = m.own[LENGTH]
    return (born < until and dies > now) or born + length < until


@helper
def _idle_place(m, need, now, life):
    """Address of the smallest piece of the plan, of equals the lowest, that holds `need` bytes.

    It is free now and planned for nobody in the `life` events from `now` on; 0 if there is none.
    """
    if life + 1 >= m.own[LENGTH]:
        return np.int64(0)
    best = np.int64(0)
    best_size = m.own[PLAN_BYTES] + 1
    at = np.int64(0)  # offset up to which everything was looked at
    row, end = np.int64(ROWS), ROWS + ROW_WORDS * m.own[N_ROWS]
    live = first_from(m, LIVE, m.own[BASE], 0)
    while True:
        while row < end and not _is_busy(m, row, now, now + life + 1):
            row += ROW_WORDS
        # Whatever is in the way next, in the plan or in use; at the end the end of the plan.
        start = stop = m.own[PLAN_BYTES]
        if row < end:
            start, stop = m.own[row + OFFSET], m.own[row + END]
        if live != 0 and m.addr[live] - m.own[BASE] <= start:
            start = m.addr[live] - m.own[BASE]
            stop = start + m.size[live]
            live = first_from(m, LIVE, m.addr[live] + 1, 0)
        elif row < end:
            row += ROW_WORDS
        if need <= start - at < best_size:
            best, best_size = m.own[BASE] + at, start - at
        if start == m.own[PLAN_BYTES]:
            return best
        at = max(at, stop)


@inline
def _in_plan(m, need):
    """A block in the plan's memory for a request of whose time something is known; 0 = none."""
    hint = m.hint[m.g[NOW]]
    if hint == 0 or not _has_plan(m):
        return np.int64(0)
    if hint > 0:
        row = ROWS + ROW_WORDS * (hint - 1)
        a = m.own[BASE] + m.own[row + OFFSET]
        if _is_free(m, a, need):
            return _settle(m, a, need)
        now, life = m.own[row + BORN], m.own[row + DIES] - m.own[row + BORN]
    else:
        now, life = (-1 - hint) >> CLOCK_BITS, (-1 - hint) & ((1 << CLOCK_BITS) - 1)
    a = _idle_place(m, need, now, life)
    return _settle(m, a, need) if a != 0 else np.int64(0)


def allocate(m, size, lane):
    need = (size + PLAN_UNIT - 1) // PLAN_UNIT * PLAN_UNIT
    b = _in_plan(m, need)
    if b == 0:
        b = first_from(m, FREE_BLOCKS, need, 0)
        if b != 0:
            take(m, b)
        else:
            b = grow(m, REGION, FREE_BLOCKS, need, PAGE)
        if b != 0:
            cut_in_region(m, REGION, b, need, BY_SIZE)
    return b


def free(m, b):
    if m.lane[b] == LIVE:
        remove(m, LIVE, b)
        drop_block(m, b)
    else:
        release_in_region(m, REGION, b, BY_SIZE)


def trim(m):
    given = shrink_region(m, REGION, FREE_BLOCKS, PAGE, BY_SIZE)
    if m.own[BASE] != 0 and m.own[LIVE] == 0:
        driver_free(m, m.own[PLAN_BYTES])
        given += m.own[PLAN_BYTES]
        m.own[BASE] = 0
    return given


@kernel
def _match(wanted, profile, look, found, turns):
    """Match requests with the profile's in order.

    Args:
        wanted: shape (k,); class of each request of the program.
        profile: shape (p,); class of those profiled.
        look: how many of the profile's requests may be passed over to find the next.
        found, turns: shape (k,), output; which of the profile's it is, -1 = none, and how often the
            profile was gone through before.
    """
    p = len(profile)
    q = 0
    turn = 0
    for i in range(len(wanted)):
        found[i] = -1
        turns[i] = turn
        for j in range(min(look, p)):
            k = q + j
            if k >= p:
                k -= p
            if profile[k] == wanted[i]:
                if k < q:
                    turn += 1
                found[i] = k
                turns[i] = turn
                q = k + 1
                if q == p:
                    q = 0
                    turn += 1
                break


@kernel
def _longest_before(klass, born, died, clock, longest):
    """How long the longest-lived request of the same class lived, of those gone by then.

    Where one that is still there is older than that, nothing is known of the class: of two requests
    of a size one may be a gradient and one a part of the optimizer.

    Args:
        klass: shape (k,); class of each request, in the order of birth.
        born, died: shape (k,); events; died is the number of events for what is never freed.
        clock: shape (n events,); the profile's time.
        longest: shape (k,), output; in the profile's time, -1 = nothing is known.
    """
    n = len(clock)
    of_class = np.full(klass.max() + 1, -1, np.int64)
    ends = np.full(n, -1, np.int64)
    after = np.full(len(born), -1, np.int64)  # the next request of the same class
    oldest = np.full(len(of_class), -1, np.int64)  # of those of a class that are still there
    newest = np.full(len(of_class), -1, np.int64)
    r = 0
    for i in range(n):
        if ends[i] >= 0:
            gone = ends[i]
            life = clock[i] - clock[born[gone]]
            of_class[klass[gone]] = max(of_class[klass[gone]], life)
        if r < len(born) and born[r] == i:
            k = klass[r]
            while oldest[k] >= 0 and died[oldest[k]] < i:
                oldest[k] = after[oldest[k]]
            longest[r] = of_class[k]
            if oldest[k] >= 0 and clock[i] - clock[born[oldest[k]]] > of_class[k]:
                longest[r] = -1
            if oldest[k] < 0:
                oldest[k] = r
            elif newest[k] >= 0:
                after[newest[k]] = r
            newest[k] = r
            if died[r] < n:
                ends[died[r]] = r
            r += 1


def foresight(packed: Packed, values: Mapping[str, int]) -> Foresight:
    """Profile an iteration, pack it, and match the program's requests with it."""
    events = packed.events
    op, klass, slot = events & OP_MASK, (events >> OP_BITS) & 0xFFFFFFF, events >> 32
    is_malloc = (op == MALLOC) | (op == MALLOC_REVIVES)
    born = np.flatnonzero(is_malloc)
    hints = np.zeros(len(events), np.int64)
    if not len(born):
        return Foresight(hints)
    klass = klass[born]
    size = np.concatenate([[0], packed.program.req_size])[klass]
    size = -(-size // PLAN_UNIT) * PLAN_UNIT
    death = deaths(is_malloc, (op == FREE) | (op == COMPLETE), slot)[born]
    found = find_iteration(events & 0xFFFFFFFF)
    start, length = (0, len(events)) if found is None else _quietest(*found, born, death, size)
    inside = (born >= start) & (born < start + length)
    rows, row_of = _plan(born[inside] - start, death[inside] - start, size[inside], length, found)
    height = int(rows[:, END].max(initial=0))

    place, turns = np.zeros(len(born), np.int64), np.zeros(len(born), np.int64)
    _match(klass, klass[inside], values["look"], place, turns)
    is_matched = place >= 0
    time = turns * length + (born[inside] - start)[place]
    clock = np.zeros(len(events), np.int64)
    clock[born[is_matched]] = time[is_matched]
    clock = np.maximum.accumulate(clock)
    life = np.zeros(len(born), np.int64)
    _longest_before(klass, born, death, clock, life)
    is_guessed = ~is_matched & (life >= 0) & (life < length) & (length < 1 << CLOCK_BITS)
    now = clock[born] % length
    hints[born] = np.where(is_guessed, -1 - (now << CLOCK_BITS | life), 0)
    hints[born[is_matched]] = row_of[place[is_matched]] + 1
    words = np.zeros(ROWS + rows.size, np.int64)
    words[[PLAN_BYTES, LENGTH, N_ROWS]] = height, length, len(rows)
    words[ROWS:] = rows.ravel()
    return Foresight(hints, tuple(words.tolist()))


def _plan(
    lower: np.ndarray, upper: np.ndarray, size: np.ndarray, length: int, found: object
) -> tuple[np.ndarray, np.ndarray]:
    """Pack what was profiled.

    Args:
        lower, upper: shape (p,); events of birth and death, from the start of the profile on.
        size: shape (p,); bytes.
        length: events of the profile.
        found: None if the profile is the whole program.

    Returns:
        shape (r, ROW_WORDS), the plan's rows in the order of their offsets; and shape (p,), the row
        of each that was profiled, -1 = not planned, because it lives for several iterations.
    """
    outlives = (upper > length) & (found is not None)
    planned = ~(outlives & (upper - lower >= length))
    born, dies = np.where(outlives, 0, lower)[planned], np.minimum(upper, length)[planned]
    plan = pack(Buffers(born, dies, size[planned]), seconds=0.0)
    if plan.interrupted:
        raise KeyboardInterrupt
    rows = np.stack([plan.offsets, plan.offsets + size[planned], born, dies], axis=1)
    order = np.lexsort((born, plan.offsets))
    row_of = np.full(len(size), -1, np.int64)
    row_of[np.flatnonzero(planned)[order]] = np.arange(len(order))
    return rows[order].astype(np.int64), row_of


def deaths(is_malloc: np.ndarray, is_free: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """Event at which what each event allocates is free again; the number of events = never.

    Args:
        is_malloc, is_free, slot: shape (n,); frees give back what was last allocated in the slot.
    """
    n = len(slot)
    death = np.full(n, n, np.int64)
    order = np.lexsort((np.arange(n), slot))
    order = order[(is_malloc | is_free)[order]]
    pairs = is_malloc[order][:-1] & is_free[order][1:] & (slot[order][:-1] == slot[order][1:])
    death[order[:-1][pairs]] = order[1:][pairs]
    return death


def _quietest(
    start: int, length: int, born: np.ndarray, death: np.ndarray, size: np.ndarray
) -> tuple[int, int]:
    """Begin an iteration where fewest bytes are live, so that least crosses its borders."""
    change = np.zeros(max(int(death.max(initial=0)), start + 2 * length) + 1, np.int64)
    np.add.at(change, born, size)
    np.add.at(change, death, -size)
    live = np.cumsum(change)[start : start + length]
    return start + 1 + int(live.argmin()), length


PLANNED = Mechanism(
    "planned",
    "STAlloc (EuroSys 2026): a static plan from a profiled iteration, with a fallback",
    allocate,
    free,
    trim,
    params=(
        Param("look", 64, 1, 4096, "requests of the profile that may be passed over", log=True),
    ),
    honours=Honours(
        returns=True,
        knows="one iteration of the program, profiled in an earlier run, or all where none repeats",
    ),
    own=own,
    foresight=foresight,
)

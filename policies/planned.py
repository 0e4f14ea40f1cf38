"""Planned: where everything of a training iteration goes is worked out before it runs.

A program is profiled beforehand, up to the end of an iteration: the requests that it then repeats,
or the whole program if it does not. All of it is packed offline (packing_of_profile.py): parameters
and the state of the optimizer, which stay, beside the first iterations and a steady one.

At run time a request that is matched with one of those profiled (alignment.py) goes to its planned
place if that is free. Everything else goes to the first that is there of these:

* the smallest piece of the plan that is free and not used in an iteration;
* the smallest free block of a region beside the plan;
* the smallest piece of the plan that is free, and idle for as long as the request will live: by the
  profile, or by what was requested before it (lifetime_guess.py);
* the smallest piece of the plan that is free, for more than a page that is not known to live for an
  iteration or longer;
* new memory for the region.

The clock counts requests of the profile: it says which of them the latest that was matched is, and
goes on by a whole iteration in every round. Outside of iterations it stands at the first request of
the next one: what comes there is expected to go before that.

Source: STAlloc (EuroSys 2026), and infinigence/STAlloc, Synthesizer/plan_generator.py and
Allocator/StaticAllocator.hpp: the plan of everything up to the end of a steady iteration, which is
gone through again and again; the idle space of the plan for dynamic requests; and an allocator of
its own for the rest. The plan is a skyline packing, as in packing_skyline.py.
Differs: STAlloc is told where iterations begin, and knows a dynamic request's lifetime by the
layers in which it is allocated and freed. A recording has neither: the beginning of an iteration is
known by its requests, and a lifetime is that of requests of the same size, stream and pool.
Differs: STAlloc never displaces what is planned. Here it is, before more memory is taken: what is
unknown to the profile would else need memory of its own while all of the plan is idle.
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
from ..traces.jit import helper, inline
from ..traces.program import Op
from ..traces.units import MiB
from .alignment import DEVIATES, OUTSIDE, align
from .iteration import find_iteration
from .lifetime_guess import guess_lifetimes
from .packing_of_profile import BORN, DIES, END, OFFSET, ROW_WORDS, pack_profile

LOOK = 0  # parameter
# Words of `own`: two trees, the plan's bytes, address, requests of an iteration, rows that are
# pieces, rows in use in every iteration, the region of what finds no place in the plan, and the
# rows of packing_of_profile.py.
FREE_BLOCKS, LIVE, PLAN_BYTES, BASE, LENGTH, N_PIECES, N_RECURRING, REGION = range(8)
ROWS = REGION + REGION_WORDS
# A hint is 1 + the row of the plan; or -1 - (now << CLOCK_BITS | lifetime) of what has none, with
# the length of an iteration for what lives longer; or 0, nothing is known.
CLOCK_BITS = 31
UNKNOWN = -1
PLAN_UNIT = 512
PAGE = 2 * MiB
MALLOC, FREE, COMPLETE, TRY = int(Op.MALLOC), int(Op.FREE), int(Op.COMPLETE), int(Op.TRY)


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
    """A row is in use at some time from `now` to `until`, of this iteration or one beside it."""
    born, dies, length = m.own[row + BORN], m.own[row + DIES], m.own[LENGTH]
    return (born < until and dies > now) or born + length < until or dies - length > now


@helper
def _idle_piece(m, need, row, end, now, until):
    """A block in the smallest piece of the plan, of equals the lowest, that holds `need` bytes.

    It is free now, and none of the rows from `row` to `end`, words of `own`, is in use there from
    `now` to `until`; 0 if there is no such piece.
    """
    best = np.int64(0)
    best_size = m.own[PLAN_BYTES] + 1
    at = np.int64(0)  # offset up to which everything was looked at
    live = first_from(m, LIVE, m.own[BASE], 0)
    while True:
        while row < end and not _is_busy(m, row, now, until):
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
            return _settle(m, best, need) if best != 0 else np.int64(0)
        at = max(at, stop)


def allocate(m, size, lane):
    need = (size + PLAN_UNIT - 1) // PLAN_UNIT * PLAN_UNIT
    hint = m.hint[m.g[NOW]]
    has_plan = _has_plan(m)
    now, life = np.int64(0), np.int64(UNKNOWN)
    if hint > 0:
        row = ROWS + ROW_WORDS * (hint - 1)
        a = m.own[BASE] + m.own[row + OFFSET]
        if has_plan and _is_free(m, a, need):
            return _settle(m, a, need)
        now, life = m.own[row + BORN], m.own[row + DIES] - m.own[row + BORN] - 1
    elif hint < 0:
        now, life = (-1 - hint) >> CLOCK_BITS, (-1 - hint) & ((1 << CLOCK_BITS) - 1)
    is_short = has_plan and life < m.own[LENGTH]
    b = np.int64(0)
    places = ROWS + ROW_WORDS * m.own[N_PIECES]
    end = ROWS + ROW_WORDS * m.own[N_RECURRING]
    if has_plan:
        b = _idle_piece(m, need, np.int64(ROWS), places, now, now + 1)
    if b == 0:
        b = first_from(m, FREE_BLOCKS, need, 0)
        if b != 0:
            take(m, b)
            cut_in_region(m, REGION, b, need, BY_SIZE)
    if b == 0 and is_short and life != UNKNOWN:
        b = _idle_piece(m, need, places, end, now, now + life + 1)
    if b == 0 and is_short and need > PAGE:
        b = _idle_piece(m, need, end, end, now, now + 1)
    if b == 0:
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


def foresight(packed: Packed, values: Mapping[str, int]) -> Foresight:
    """Profile a program up to the end of an iteration, pack it, and match all requests with it."""
    events = packed.events
    op, klass, slot = events & OP_MASK, (events >> OP_BITS) & 0xFFFFFFF, events >> 32
    is_malloc = (op == MALLOC) | (op == MALLOC_REVIVES)
    born = np.flatnonzero(is_malloc | (op == TRY))
    hints = np.zeros(len(events), np.int64)
    n = len(born)
    if not n:
        return Foresight(hints)
    klass = klass[born]
    size = np.concatenate([[0], packed.program.req_size])[klass]
    size = -(-size // PLAN_UNIT) * PLAN_UNIT
    # Time is counted in requests: what is freed between two of them is gone at the second.
    death = deaths(is_malloc, (op == FREE) | (op == COMPLETE), slot)[born]
    death[op[born] == TRY] = 0  # what failed when it was recorded is there for a moment
    died = np.maximum(np.searchsorted(born, death), np.arange(1, n + 1))
    gone = np.bincount(died, size, n + 1)[:n].astype(np.int64)
    before = np.cumsum(size) - size - np.cumsum(gone)  # bytes in use
    found = find_iteration(klass, before + size)
    start, length = (0, n) if found is None else _quietest(*found, before)
    place, turns = align(klass, start, length, values["look"])
    is_matched, is_outside = place >= 0, place == OUTSIDE
    clock = np.where(place == DEVIATES, 0, turns * length + start)
    is_within = is_matched & ((place >= start) | (turns == 0))
    clock[is_within] += place[is_within] - start
    clock = np.maximum.accumulate(clock)
    # Nothing is known of what deviates; what comes outside of iterations goes before the next one.
    life = guess_lifetimes(2 * klass + is_outside, died, clock, is_outside - 1)

    rounds = _rounds(klass, died, start, length)
    place = np.where(place >= start, place + turns % rounds * length, place)
    length *= rounds
    profile = pack_profile(died, size, start, length, rounds)
    now = (clock - start) % length + start
    told = np.where(life < 0, 0, -1 - (now << CLOCK_BITS | np.minimum(life, length)))
    row = profile.row_of[place[is_matched]]
    told[is_matched] = np.where(row < 0, -1 - length, row + 1)
    hints[born] = told
    words = np.zeros(ROWS + profile.rows.size, np.int64)
    words[[PLAN_BYTES, LENGTH]] = profile.rows[:, END].max(initial=0), length
    words[[N_PIECES, N_RECURRING]] = profile.n_pieces, profile.n_recurring
    words[ROWS:] = profile.rows.ravel()
    return Foresight(hints, tuple(words.tolist()))


def _quietest(start: int, length: int, live: np.ndarray) -> tuple[int, int]:
    """Begin an iteration where fewest bytes are live, so that least crosses its borders.

    Args:
        start, length: an iteration that is followed by itself.
        live: shape (n,); bytes in use before each request.
    """
    return start + int(live[start : start + length].argmin()), length


def _rounds(klass: np.ndarray, died: np.ndarray, start: int, length: int) -> int:
    """How many iterations are planned as one: two if something is there twice at times.

    What one hands to the next after that has made its own takes turns between two places.

    Args:
        klass: shape (n,); what each request asks for.
        died: shape (n,); the request before which each is free again.
        start, length: the iteration.
    """
    end = start + length
    life = (died - np.arange(len(died)))[start:end]
    again = klass[end : end + length]
    is_twice = bool(((life > length) & (life <= 2 * length)).any())
    return 2 if is_twice and np.array_equal(again, klass[start:end]) else 1


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


PLANNED = Mechanism(
    "planned",
    "STAlloc (EuroSys 2026): a static plan from a profiled iteration, with a fallback",
    allocate,
    free,
    trim,
    params=(
        Param(
            "look",
            64,
            1,
            4096,
            "requests of an iteration, or of what comes instead, passed over",
            log=True,
        ),
    ),
    honours=Honours(
        returns=True,
        knows="one iteration of the program and all before it, profiled in an earlier run, or all "
        "of it where nothing repeats",
    ),
    own=own,
    foresight=foresight,
)

"""Planned: where everything of a training iteration goes is worked out before it runs.

One iteration is profiled beforehand: the stretch of the program that repeats, or the whole program
if nothing does. Its allocations are packed offline, those that outlive it for all of its length.
At run time requests are matched with the profile in order. A request that is next, or soon, in the
profile goes to its planned place if that is free; what deviates is served by best fit in a region
of its own.

Source: STAlloc (EuroSys 2026): profiling, the static plan and the dynamic allocator behind it; the
plan itself is a skyline packing, as in packing_skyline.py.
Differs: STAlloc reserves idle planned memory for dynamic requests too; here they have their own.
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
from ..traces.jit import inline, kernel
from ..traces.program import Op
from ..traces.units import MiB
from .iteration import find_iteration
from .packing import pack
from .packing_buffers import Buffers

LOOK = 0  # parameter
FREE_BLOCKS, LIVE, PLAN_BYTES, BASE, REGION = range(5)  # words of `own`: two trees, the plan, then
# the region of what deviates
PLAN_UNIT = 512
PAGE = 2 * MiB
MALLOC, FREE, COMPLETE = int(Op.MALLOC), int(Op.FREE), int(Op.COMPLETE)


def own(values: Mapping[str, int], lanes: int) -> int:
    """Two trees, two words about the plan, and a region."""
    return REGION + REGION_WORDS


@inline
def _planned(m, offset, size):
    """A block at its planned place; 0 if that is taken, or there is no room for the plan."""
    if m.own[BASE] == 0:
        a = driver_malloc(m, m.own[PLAN_BYTES])
        if a == REFUSED:
            return np.int64(0)
        m.own[BASE] = a
    a = m.own[BASE] + offset
    after = first_from(m, LIVE, a, 0)
    before = last_before(m, LIVE, a, 0)
    is_free = after == 0 or m.addr[after] >= a + size
    if not is_free or (before != 0 and m.addr[before] + m.size[before] > a):
        return np.int64(0)
    b = new_block(m)
    m.addr[b] = a
    m.size[b] = size
    m.lane[b] = LIVE
    m.key[b] = a
    m.tie[b] = 0
    insert(m, LIVE, b)
    return b


def allocate(m, size, lane):
    need = (size + PLAN_UNIT - 1) // PLAN_UNIT * PLAN_UNIT
    offset = m.hint[m.g[NOW]] - 1
    b = np.int64(0)
    if offset >= 0:
        b = _planned(m, offset, need)
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
def _match(wanted, profile, offset, look, hints, at):
    """Match requests with the profile's in order; a hint is the planned offset + 1, 0 = none.

    Args:
        wanted: shape (k,); class of each request of the program.
        profile, offset: shape (p,); class and planned offset of those profiled, -1 = not planned.
        look: how many of the profile's requests may be passed over to find the next.
        hints: shape (n events,), output.
        at: shape (k,); event of each request.
    """
    p = len(profile)
    q = 0
    for i in range(len(wanted)):
        for j in range(min(look, p)):
            k = q + j
            if k >= p:
                k -= p
            if profile[k] == wanted[i]:
                hints[at[i]] = offset[k] + 1
                q = k + 1 if k + 1 < p else 0
                break


def foresight(packed: Packed, values: Mapping[str, int]) -> Foresight:
    """Profile an iteration, pack it, and match the program's requests with it."""
    events = packed.events
    op, klass, slot = events & OP_MASK, (events >> OP_BITS) & 0xFFFFFFF, events >> 32
    is_malloc = (op == MALLOC) | (op == MALLOC_REVIVES)
    born = np.flatnonzero(is_malloc)
    hints = np.zeros(len(events), np.int64)
    if not len(born):
        return Foresight(hints)
    size = np.concatenate([[0], packed.program.req_size])[klass[born]]
    size = -(-size // PLAN_UNIT) * PLAN_UNIT
    death = deaths(is_malloc, (op == FREE) | (op == COMPLETE), slot)[born]
    found = find_iteration(events & 0xFFFFFFFF)
    start, length = (0, len(events)) if found is None else _quietest(*found, born, death, size)
    inside = (born >= start) & (born < start + length)
    lower, upper, profiled = born[inside] - start, death[inside] - start, size[inside]
    outlives = upper > length
    stays = outlives & (found is not None) & (upper - lower >= length)  # for several iterations
    lower = np.where(outlives & (found is not None), 0, lower)
    upper = np.minimum(upper, length)
    offset = np.full(len(lower), -1, np.int64)
    plan = pack(Buffers(lower[~stays], upper[~stays], profiled[~stays]), seconds=0.0)
    offset[~stays] = plan.offsets
    _match(klass[born], klass[born][inside], offset, values["look"], hints, born)
    return Foresight(hints, (0, 0, plan.height))


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

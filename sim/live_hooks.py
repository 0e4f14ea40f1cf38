"""Hooks of PyTorch's allocator as a live allocator: what live.py reaches through a LIVE buffer.

The functions of engine.py and reclaim.py, called for one request at a time on the same state as in
a replay. A request is a row of the plan there, and the plan grows: what is asked for the first time
is UNPREPARED, and Python, which knows how the policy rounds, says what is needed of it through
`learn`. Whoever calls the others holds the device's lock.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import Any

import numpy as np

from ..traces.jit import helper
from .apart import compile_apart, invokers, view_of_two
from .device import FIRST_ADDRESS
from .engine import malloc
from .live_pages import back_block, is_beyond, keep, sweep
from .live_plan import add_class, find_class
from .live_state import (
    ALLOCATE,
    BASE,
    FREE,
    LIVE_BLOCKS,
    MOST_LANES,
    PLAN_AT,
    REFUSED_PAGES,
    REFUSED_ROWS,
    REFUSED_SIZES,
    REFUSED_SPACE,
    REFUSED_STREAMS,
    SPACE_BYTES,
    STATE_AT,
    TRIM,
    UNKNOWN_FREES,
    UNPREPARED,
    WAITS,
    c_functions_of,
    live_at,
    lock_device,
    unlock_device,
)
from .live_streams import NO_STREAM, is_in_use_elsewhere, note_freed, number_of, wait_for_device
from .live_table import NOWHERE, SHARED, drop, find, put
from .policy import Policy
from .state import (
    DEAD,
    DRIVER_USED,
    HIGHEST_ID,
    ID_STEP,
    NOW,
    OOMS,
    SPARES,
    SPARES_NEEDED,
    SYNCS,
    UNMAPPED,
    state_of,
)

call2, call3 = invokers[2], invokers[3]


def malloc_of(policy: Policy) -> Any:
    """A policy's malloc as a C function of a state's and a plan's address and a class."""

    def live_malloc(s, klass):
        return malloc(policy, s, klass, False, False)

    # The whole key: what one file, or this package, decides in two ways has one digest.
    return compile_apart(live_malloc, "_" + sha256(policy.key.encode()).hexdigest()[:16])


def keep_blocks(at):
    """Leave mapped what is under any block."""
    p = live_at(at)
    s = view_of_two(p.word[STATE_AT], p.word[PLAN_AT])
    for b in range(ID_STEP, s.g[HIGHEST_ID] + 1, ID_STEP):
        state = state_of(s, b)
        if state != DEAD and state != UNMAPPED:
            keep(p, s.addr[b] - FIRST_ADDRESS, s.size[b])


@helper
def _return_memory(at):
    """Return all cached memory to the driver, and wait for the device."""
    p = live_at(at)
    s = view_of_two(p.word[STATE_AT], p.word[PLAN_AT])
    call2(p.word[TRIM], p.word[STATE_AT], p.word[PLAN_AT])
    if is_beyond(p, s.g[DRIVER_USED], 0):
        sweep(at)
    else:
        wait_for_device(p)


def give_back(at):
    """What torch.cuda.empty_cache() does."""
    p = live_at(at)
    view_of_two(p.word[STATE_AT], p.word[PLAN_AT]).g[NOW] += 1
    _return_memory(at)
    return np.int64(0)


@helper
def _obtain(at, klass):
    """A block in use with memory behind it; 0 if there is none."""
    p = live_at(at)
    s = view_of_two(p.word[STATE_AT], p.word[PLAN_AT])
    for attempt in range(2):
        if s.g[SPARES] <= s.g[SPARES_NEEDED]:
            p.word[REFUSED_ROWS] += 1
            break
        b = call3(p.word[ALLOCATE], p.word[STATE_AT], p.word[PLAN_AT], klass)
        if is_beyond(p, s.g[DRIVER_USED], 0):  # segments were returned on the way
            sweep(at)
        if b == 0:
            return b
        offset = s.addr[b] - FIRST_ADDRESS
        if offset + s.size[b] > p.word[SPACE_BYTES]:
            p.word[REFUSED_SPACE] += 1
        elif back_block(at, offset, s.size[b], s.g[DRIVER_USED]):
            return b
        else:
            p.word[REFUSED_PAGES] += 1
        call3(p.word[FREE], p.word[STATE_AT], p.word[PLAN_AT], b)
        if attempt == 0:
            _return_memory(at)
    s.g[OOMS] += 1  # of which the simulated allocator knows nothing
    return np.int64(0)


def serve(at, size, stream):
    """Serve one request of the device whose state is at an address.

    Returns:
        Address of the memory, 0 = out of memory, UNPREPARED = not known yet.
    """
    p = live_at(at)
    s = view_of_two(p.word[STATE_AT], p.word[PLAN_AT])
    number = number_of(p, stream)
    if number == NO_STREAM or number >= MOST_LANES:
        p.word[REFUSED_STREAMS] += 1
        return np.int64(0)
    klass = find_class(p, size, number)
    if klass == 0:
        return np.int64(UNPREPARED)
    s.g[NOW] += 1
    b = _obtain(at, klass)
    if b == 0:
        return b
    offset = s.addr[b] - FIRST_ADDRESS
    if is_in_use_elsewhere(p, offset, s.size[b], number):
        p.word[WAITS] += 1
        wait_for_device(p)
    p.word[LIVE_BLOCKS] += 1
    put(p.table, offset, b, size, number)
    return p.word[BASE] + offset


def take_back(at, address, stream):
    """Free what serve() gave out at an address."""
    p = live_at(at)
    s = view_of_two(p.word[STATE_AT], p.word[PLAN_AT])
    s.g[NOW] += 1
    entry = find(p.table, address - p.word[BASE])
    if entry == NOWHERE:
        p.word[UNKNOWN_FREES] += 1
        return np.int64(0)
    b = p.table[entry + 1]
    if p.table[entry + 3] == SHARED:  # nobody says when the other streams are done
        s.g[SYNCS] += 1
        wait_for_device(p)
    drop(p.table, entry)
    p.word[LIVE_BLOCKS] -= 1
    note_freed(p, s.addr[b] - FIRST_ADDRESS, s.size[b], stream)
    call3(p.word[FREE], p.word[STATE_AT], p.word[PLAN_AT], b)
    return np.int64(0)


def learn(at, size, stream, need, segment, least_rest, ceiling, is_small):
    """Make a request known: 1 = it is, 0 = there is no room. The device's lock is taken here.

    Args:
        at: address of the device's LIVE buffer.
        size, stream: as in serve().
        need, segment, least_rest, ceiling, is_small: as in live_plan.add_class().
    """
    lock_device(at)
    p = live_at(at)
    s = view_of_two(p.word[STATE_AT], p.word[PLAN_AT])
    number = number_of(p, stream)
    # Another thread may have asked for the same meanwhile.
    is_known = find_class(p, size, number) != 0
    if not is_known:
        is_known = add_class(s, p, size, number, need, segment, least_rest, ceiling, is_small)
    if not is_known:
        p.word[REFUSED_SIZES] += 1
    unlock_device(at)
    return np.int64(is_known)


@cache
def hook_functions() -> dict[str, Any]:
    """The C functions by name, each with its `address`."""
    return c_functions_of(
        (serve, "i8", ("i8", "i8", "i8")),
        (take_back, "i8", ("i8", "i8", "i8")),
        (give_back, "i8", ("i8",)),
        (keep_blocks, "", ("i8",)),
        (learn, "i8", ("i8",) * 8),
    )

"""A mechanism as a live allocator: what the C functions of live.py reach through its LIVE buffer.

The statistics are counted as in `mechanism_replay.py`, whose loop this replaces. Whoever calls
holds the device's lock.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..traces.jit import helper
from .apart import invokers
from .device import FIRST_ADDRESS
from .ground import DEAD, USED, ground_at
from .live_pages import back_block, is_beyond, keep, sweep
from .live_state import (
    ALLOCATE,
    BASE,
    FREE,
    KEEPS_STREAMS,
    LIVE_BLOCKS,
    REFUSED_PAGES,
    REFUSED_ROWS,
    REFUSED_SPACE,
    REFUSED_STREAMS,
    SPACE_BYTES,
    STATE_AT,
    TRIM,
    UNKNOWN_FREES,
    WAITS,
    c_functions_of,
    live_at,
)
from .live_streams import NO_STREAM, is_in_use_elsewhere, note_freed, number_of, wait_for_device
from .live_table import NOWHERE, SHARED, drop, find, put
from .mechanism_replay import count_served
from .state import (
    ALLOC_RETRIES,
    ALLOCATED,
    DRIVER_USED,
    HIGHEST_ID,
    N_LANES,
    NOW,
    OOMS,
    REQUESTED,
    SPARES,
    SPARES_NEEDED,
    SYNCS,
)

call1, call2, call3 = (invokers[n] for n in range(1, 4))


def keep_blocks(at):
    """Leave mapped what is under any block."""
    p = live_at(at)
    m = ground_at(p.word[STATE_AT])
    for b in range(1, m.g[HIGHEST_ID] + 1):
        if m.state[b] != DEAD and m.addr[b] >= FIRST_ADDRESS:
            keep(p, m.addr[b] - FIRST_ADDRESS, m.size[b])


@helper
def _return_memory(at):
    """Wait for the device and return memory to the driver: bytes it got."""
    p = live_at(at)
    m = ground_at(p.word[STATE_AT])
    m.g[SYNCS] += 1
    given = call1(p.word[TRIM], p.word[STATE_AT])
    if is_beyond(p, m.g[DRIVER_USED], 0):
        sweep(at)
    else:
        wait_for_device(p)
    return given


def give_back(at):
    """Return memory that nobody holds to the driver: bytes it got."""
    return _return_memory(at)


@helper
def _obtain(at, size, lane):
    """A block in use with memory behind it; 0 if there is none."""
    p = live_at(at)
    m = ground_at(p.word[STATE_AT])
    b = call3(p.word[ALLOCATE], p.word[STATE_AT], size, lane)
    if b == 0:
        return b
    m.state[b] = USED
    offset = m.addr[b] - FIRST_ADDRESS
    if offset + m.size[b] > p.word[SPACE_BYTES]:
        p.word[REFUSED_SPACE] += 1
    elif back_block(at, offset, m.size[b], m.g[DRIVER_USED]):
        return b
    else:
        p.word[REFUSED_PAGES] += 1
    call2(p.word[FREE], p.word[STATE_AT], b)
    return np.int64(0)


def serve(at, size, stream):
    """Serve one request of the device whose state is at an address.

    Returns:
        Address of the memory, 0 = out of memory.
    """
    p = live_at(at)
    m = ground_at(p.word[STATE_AT])
    m.g[NOW] += 1
    number = number_of(p, stream)
    if number == NO_STREAM or (p.word[KEEPS_STREAMS] != 0 and number >= m.opt[N_LANES]):
        p.word[REFUSED_STREAMS] += 1
        return np.int64(0)
    lane = number if p.word[KEEPS_STREAMS] != 0 else np.int64(0)
    b = np.int64(0)
    for attempt in range(2):
        if m.g[SPARES] <= m.g[SPARES_NEEDED]:
            p.word[REFUSED_ROWS] += 1
            break
        b = _obtain(at, size, lane)
        if b != 0 or attempt == 1 or _return_memory(at) == 0:
            break
        m.g[ALLOC_RETRIES] += 1
    if b == 0:
        m.g[OOMS] += 1
        return b
    offset = m.addr[b] - FIRST_ADDRESS
    if is_in_use_elsewhere(p, offset, m.size[b], number):
        p.word[WAITS] += 1
        wait_for_device(p)
    count_served(m, b, size)
    p.word[LIVE_BLOCKS] += 1
    put(p.table, offset, b, size, number)
    return p.word[BASE] + offset


def take_back(at, address, stream):
    """Free what serve() gave out at an address."""
    p = live_at(at)
    m = ground_at(p.word[STATE_AT])
    m.g[NOW] += 1
    entry = find(p.table, address - p.word[BASE])
    if entry == NOWHERE:
        p.word[UNKNOWN_FREES] += 1
        return np.int64(0)
    b = p.table[entry + 1]
    asked = p.table[entry + 2]
    if p.table[entry + 3] == SHARED:  # nobody says when the other streams are done
        m.g[SYNCS] += 1
        wait_for_device(p)
    drop(p.table, entry)
    p.word[LIVE_BLOCKS] -= 1
    m.g[ALLOCATED] -= m.size[b]
    m.g[REQUESTED] -= asked
    note_freed(p, m.addr[b] - FIRST_ADDRESS, m.size[b], stream)
    call2(p.word[FREE], p.word[STATE_AT], b)
    return np.int64(0)


@cache
def mechanism_functions() -> dict[str, Any]:
    """The C functions by name, each with its `address`."""
    return c_functions_of(
        (serve, "i8", ("i8", "i8", "i8")),
        (take_back, "i8", ("i8", "i8", "i8")),
        (give_back, "i8", ("i8",)),
        (keep_blocks, "", ("i8",)),
    )

"""The simulated driver: gives out addresses and physical memory, or answers as recorded."""

from __future__ import annotations

import numpy as np

from ..traces.event import Action
from ..traces.jit import inline
from .apart import apart
from .device import ALIGNMENT
from .state import (
    ACCESS_BYTES,
    ACCESSES,
    BOUND,
    CAPACITY,
    CREATE_BYTES,
    CREATES,
    DEVICE_ALLOCS,
    DEVICE_FREES,
    DIVERGED,
    DRIVER_USED,
    FREE_BYTES,
    FREES,
    GRANULARITY,
    HELD,
    HUGE,
    LANE_WORDS,
    LOG_CAPACITY,
    LOG_ROWS,
    LOG_WORDS,
    MALLOC_BYTES,
    MALLOCS,
    MAP_BYTES,
    MAPS,
    NEXT_ADDRESS,
    NOW,
    PEAK_RESERVED,
    POOL,
    POOL_WORDS,
    RELEASE_BYTES,
    RELEASES,
    RESERVED,
    SCRIPT_NEXT,
    SCRIPT_ROWS,
    SCRIPTED,
    SPARES_NEEDED,
    TRACK,
    UNMAP_BYTES,
    UNMAPS,
)
from .stats import RESERVED_BYTES, change

SEGMENT_ALLOC = int(Action.SEGMENT_ALLOC)
SEGMENT_FREE = int(Action.SEGMENT_FREE)
SEGMENT_MAP = int(Action.SEGMENT_MAP)
SEGMENT_UNMAP = int(Action.SEGMENT_UNMAP)
REFUSED = -1


@apart
def log(s, action, addr, size, lane):
    """Append a row to the run's log; rows beyond its capacity are only counted."""
    k = s.g[LOG_ROWS]
    s.g[LOG_ROWS] = k + 1
    if k < s.opt[LOG_CAPACITY]:
        s.log[k * LOG_WORDS] = s.g[NOW]
        s.log[k * LOG_WORDS + 1] = action
        s.log[k * LOG_WORDS + 2] = addr
        s.log[k * LOG_WORDS + 3] = size
        s.log[k * LOG_WORDS + 4] = lane


@inline
def next_scripted(s):
    """First unconsumed row of the recorded script that belongs to the current op; -1 if none."""
    k = s.g[SCRIPT_NEXT]
    while k < s.opt[SCRIPT_ROWS] and s.script[4 * k] < s.g[NOW]:
        k += 1
    s.g[SCRIPT_NEXT] = k
    if k < s.opt[SCRIPT_ROWS] and s.script[4 * k] == s.g[NOW]:
        return k
    return np.int64(-1)


@inline
def fresh_address(s, size, alignment):
    """Synthetic address of a new segment or reservation: increasing, never used again."""
    a = (s.g[NEXT_ADDRESS] + alignment - 1) // alignment * alignment
    s.g[NEXT_ADDRESS] = (a + size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    return a


@inline
def take_memory(s, size, quantum):
    """Take physical memory in pieces of `quantum` bytes; False if the device is full."""
    step = s.opt[GRANULARITY]
    taken = size // quantum * ((quantum + step - 1) // step * step)
    if s.g[DRIVER_USED] + taken > s.opt[CAPACITY]:
        return False
    s.g[DRIVER_USED] += taken
    return True


@inline
def grant_memory(s, size, quantum):
    """Take physical memory because the recording did, whatever the capacity."""
    step = s.opt[GRANULARITY]
    s.g[DRIVER_USED] += size // quantum * ((quantum + step - 1) // step * step)


@inline
def give_memory(s, size, quantum):
    step = s.opt[GRANULARITY]
    s.g[DRIVER_USED] -= size // quantum * ((quantum + step - 1) // step * step)


@apart
def driver_malloc(s, size, try_op):
    """cudaMalloc: address of a new segment, or REFUSED."""
    if s.opt[SCRIPTED] != 0:
        k = next_scripted(s)
        if k >= 0:
            if s.script[4 * k + 1] == SEGMENT_ALLOC and s.script[4 * k + 3] == size:
                s.g[SCRIPT_NEXT] = k + 1
                grant_memory(s, size, size)
                return s.script[4 * k + 2]
            return np.int64(REFUSED)
        if try_op:
            return np.int64(REFUSED)
        s.g[DIVERGED] += 1
        grant_memory(s, size, size)
    elif not take_memory(s, size, size):
        return np.int64(REFUSED)
    return fresh_address(s, size, ALIGNMENT)


@apart
def driver_map(s, size, page, try_op):
    """cuMemCreate and cuMemMap of whole pages: True if the device had room."""
    if s.opt[SCRIPTED] != 0:
        k = next_scripted(s)
        if k >= 0:
            if s.script[4 * k + 1] == SEGMENT_MAP:
                s.g[SCRIPT_NEXT] = k + 1
                grant_memory(s, size, page)
                return True
            return False
        if try_op:
            return False
        s.g[DIVERGED] += 1
        grant_memory(s, size, page)
        return True
    return take_memory(s, size, page)


@inline
def map_address(s, otherwise):
    """Address of the recorded map the current op does next; `otherwise` if there is none."""
    if s.opt[SCRIPTED] != 0:
        k = next_scripted(s)
        if k >= 0 and s.script[4 * k + 1] == SEGMENT_MAP:
            return s.script[4 * k + 2]
    return otherwise


@inline
def reserve_address(s, size):
    """Base of a new expandable reservation of `size` virtual bytes."""
    a = map_address(s, np.int64(0))
    if a == 0:
        a = fresh_address(s, size, ALIGNMENT)
    return a


@inline
def script_gave_back(s):
    """A simulated release consumes the next recorded release of the current op, if there is one."""
    if s.opt[SCRIPTED] != 0:
        k = next_scripted(s)
        if k >= 0 and s.script[4 * k + 1] in (SEGMENT_FREE, SEGMENT_UNMAP):
            s.g[SCRIPT_NEXT] = k + 1


@inline
def account_reserved(s, lane, change_bytes):
    """Book memory obtained from (positive) or returned to (negative) the driver."""
    r = s.g[RESERVED] + change_bytes
    s.g[RESERVED] = r
    s.pool[s.lanes[lane * LANE_WORDS + POOL] * POOL_WORDS + HELD] += change_bytes
    if change_bytes > 0:
        s.g[DEVICE_ALLOCS] += 1
        if r > s.g[PEAK_RESERVED]:
            s.g[PEAK_RESERVED] = r
            if r > s.opt[BOUND]:
                s.g[SPARES_NEEDED] = HUGE  # so the loop stops before its next event
    else:
        s.g[DEVICE_FREES] += 1
    if s.opt[TRACK] != 0:
        change(s, RESERVED_BYTES, lane, change_bytes)


@inline
def count_malloc(s, size):
    """One cudaMalloc."""
    s.g[MALLOCS] += 1
    s.g[MALLOC_BYTES] += size


@inline
def count_free(s, size):
    """One cudaFree."""
    s.g[FREES] += 1
    s.g[FREE_BYTES] += size


@inline
def count_map(s, size, page):
    """Back `size` bytes by pages: cuMemCreate and cuMemMap for each, cuMemSetAccess for all.

    Source: CUDACachingAllocator.cpp, ExpandableSegment::map, mapAndSetAccess.
    """
    s.g[CREATES] += size // page
    s.g[CREATE_BYTES] += size
    s.g[MAPS] += size // page
    s.g[MAP_BYTES] += size
    s.g[ACCESSES] += 1
    s.g[ACCESS_BYTES] += size


@inline
def count_unmap(s, size, page):
    """Give pages back: cuMemUnmap and cuMemRelease for each.

    Source: CUDACachingAllocator.cpp, ExpandableSegment::unmapHandles.
    """
    s.g[UNMAPS] += size // page
    s.g[UNMAP_BYTES] += size
    s.g[RELEASES] += size // page
    s.g[RELEASE_BYTES] += size

"""A policy called by a running program: C functions as PyTorch's CUDAPluggableAllocator takes them.

    void* alloc(ssize_t size, int device, cudaStream_t stream)
    void  free(void* ptr, ssize_t size, int device, cudaStream_t stream)

and what PyTorch asks of an allocator besides: empty the cache, record a stream, begin a private
pool. They need no interpreter and may be called from any thread at the same time: PyTorch calls
them outside its own lock, so each device has one here. Only a device's first request asks Python,
which prepares it. The policy is reached through addresses in the device's state, so these functions
are compiled once for all policies.

The statistics are counted as in `mechanism_replay.py`, whose loop this replaces.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..traces.jit import c_function, helper, inline
from .apart import invokers
from .device import FIRST_ADDRESS
from .ground import USED, ground_at
from .live_errors import throw_no_pools, throw_out_of_memory
from .live_pages import (
    WORDS_AT,
    back_block,
    is_beyond,
    is_in_use_elsewhere,
    note_freed,
    sweep,
    wait_for_device,
)
from .live_state import (
    ALLOCATE,
    BASE,
    FIRST_DEVICE,
    FREE,
    GROUND_AT,
    KEEPS_STREAMS,
    LIVE_BLOCKS,
    LOCK,
    MOST_DEVICES,
    MOST_STREAMS,
    N_STREAMS,
    POOLS,
    REFUSED_PAGES,
    REFUSED_ROWS,
    REFUSED_SPACE,
    REFUSED_STREAMS,
    SPACE_BYTES,
    TRIM,
    UNKNOWN_FREES,
    WAITS,
    WAKE,
    YIELD,
    c_signature,
    live_at,
    root,
    try_lock,
    unlock,
)
from .live_table import NOWHERE, SHARED, drop, find, put
from .mechanism_replay import count_served
from .state import (
    ALLOC_RETRIES,
    ALLOCATED,
    N_LANES,
    NOW,
    OOMS,
    REQUESTED,
    SPARES,
    SPARES_NEEDED,
    SYNCS,
)

call0, call1, call2, call3 = (invokers[n] for n in range(4))
NO_STREAM = -1


@inline
def _state_of(device):
    """Address of a device's state, 0 = it has none yet."""
    if device < 0 or device >= MOST_DEVICES:
        return np.int64(0)
    return root()[FIRST_DEVICE + device]


@inline
def _lock(at):
    while not try_lock(at + WORDS_AT + 8 * LOCK):
        call0(root()[YIELD])


@inline
def _unlock(at):
    unlock(at + WORDS_AT + 8 * LOCK)


@helper
def _number_of(p, stream):
    """Number of a stream in the order of appearance; NO_STREAM if there are too many."""
    n = p.word[N_STREAMS]
    for k in range(n):
        if p.stream[k] == stream:
            return np.int64(k)
    if n == MOST_STREAMS:
        return np.int64(NO_STREAM)
    p.stream[n] = stream
    p.word[N_STREAMS] = n + 1
    return n


@helper
def _give_back(at):
    """Wait for the device and return memory to the driver: bytes it got."""
    p = live_at(at)
    m = ground_at(p.word[GROUND_AT])
    m.g[SYNCS] += 1
    given = call1(p.word[TRIM], p.word[GROUND_AT])
    if is_beyond(p, m, 0):
        sweep(p, m)
    else:
        wait_for_device(p)
    return given


@helper
def _obtain(at, size, lane):
    """A block in use with memory behind it; 0 if there is none."""
    p = live_at(at)
    m = ground_at(p.word[GROUND_AT])
    b = call3(p.word[ALLOCATE], p.word[GROUND_AT], size, lane)
    if b == 0:
        return b
    m.state[b] = USED
    if m.addr[b] + m.size[b] - FIRST_ADDRESS > p.word[SPACE_BYTES]:
        p.word[REFUSED_SPACE] += 1
    elif back_block(at, p, m, b):
        return b
    else:
        p.word[REFUSED_PAGES] += 1
    call2(p.word[FREE], p.word[GROUND_AT], b)
    return np.int64(0)


@helper
def serve(at, size, stream):
    """Serve one request of the device whose state is at an address; the caller holds its lock.

    Returns:
        Address of the memory, 0 = out of memory.
    """
    p = live_at(at)
    m = ground_at(p.word[GROUND_AT])
    m.g[NOW] += 1
    number = _number_of(p, stream)
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
        if b != 0 or attempt == 1 or _give_back(at) == 0:
            break
        m.g[ALLOC_RETRIES] += 1
    if b == 0:
        m.g[OOMS] += 1
        return b
    if is_in_use_elsewhere(p, m, b, number):
        p.word[WAITS] += 1
        wait_for_device(p)
    count_served(m, b, size)
    p.word[LIVE_BLOCKS] += 1
    offset = m.addr[b] - FIRST_ADDRESS
    put(p.table, offset, b, size, number)
    return p.word[BASE] + offset


@helper
def take_back(at, address, stream):
    """Free what serve() gave out at an address; the caller holds the device's lock."""
    p = live_at(at)
    m = ground_at(p.word[GROUND_AT])
    m.g[NOW] += 1
    entry = find(p.table, address - p.word[BASE])
    if entry == NOWHERE:
        p.word[UNKNOWN_FREES] += 1
        return
    b = p.table[entry + 1]
    asked = p.table[entry + 2]
    if p.table[entry + 3] == SHARED:  # nobody says when the other streams are done
        m.g[SYNCS] += 1
        wait_for_device(p)
    drop(p.table, entry)
    p.word[LIVE_BLOCKS] -= 1
    m.g[ALLOCATED] -= m.size[b]
    m.g[REQUESTED] -= asked
    number = _number_of(p, stream)
    if number == NO_STREAM:
        wait_for_device(p)
    else:
        note_freed(p, m, b, number)
    call2(p.word[FREE], p.word[GROUND_AT], b)


def alloc(size, device, stream):
    """PyTorch's alloc_fn."""
    d = np.int64(device)
    at = _state_of(d)
    if at == 0:
        at = call1(root()[WAKE], d)
    address = np.int64(0)
    if at != 0 and size > 0:
        _lock(at)
        address = serve(at, size, stream)
        _unlock(at)
    if address == 0 and size > 0:
        throw_out_of_memory(size)
    return address


def free(address, size, device, stream):
    """PyTorch's free_fn."""
    at = _state_of(np.int64(device))
    if at != 0 and address != 0:
        _lock(at)
        take_back(at, address, stream)
        _unlock(at)


def empty_cache():
    """PyTorch's reset_fn: give back what nobody holds, on every device."""
    for d in range(MOST_DEVICES):
        at = _state_of(np.int64(d))
        if at != 0:
            _lock(at)
            _give_back(at)
            _unlock(at)


def record_stream(address, stream):
    """PyTorch's record_stream_fn: another stream uses this memory too."""
    for d in range(MOST_DEVICES):
        at = _state_of(np.int64(d))
        if at != 0:
            _lock(at)
            p = live_at(at)
            entry = find(p.table, address - p.word[BASE])
            if entry != NOWHERE and p.stream[max(p.table[entry + 3], 0)] != stream:
                p.table[entry + 3] = SHARED
            _unlock(at)


def begin_pool(device, first, second, which):
    """PyTorch's begin_allocate_to_pool: a graph is captured, or a private pool is used."""
    at = _state_of(np.int64(device))
    if at != 0:
        live_at(at).word[POOLS] += 1
    throw_no_pools()


_loaded: dict[str, Any] = {}


def c_functions() -> dict[str, Any]:
    """The C functions by name, each with its `address`; publish_root() comes first."""
    if not _loaded:
        for function, returns, takes in (
            (alloc, "i8", ("i8", "i4", "i8")),
            (free, "", ("i8", "i8", "i4", "i8")),
            (empty_cache, "", ()),
            (record_stream, "", ("i8", "i8")),
            (begin_pool, "", ("i4", "i8", "i8", "i8")),
        ):
            _loaded[function.__name__] = c_function(c_signature(returns, takes))(function)
    return _loaded

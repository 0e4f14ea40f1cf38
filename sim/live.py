"""A policy called by a running program: C functions as PyTorch's CUDAPluggableAllocator takes them.

    void* alloc(ssize_t size, int device, cudaStream_t stream)
    void  free(void* ptr, ssize_t size, int device, cudaStream_t stream)

and what PyTorch asks of an allocator besides: empty the cache, record a stream, begin a private
pool. They need no interpreter and may be called from any thread at the same time: PyTorch calls
them outside its own lock, so each device has one here. Only a device's first request asks Python,
which prepares it. The policy is reached through addresses in the device's state, so these functions
are compiled once for all policies.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from ..traces.jit import helper, inline
from .apart import invokers
from .live_errors import throw_no_pools, throw_out_of_memory
from .live_state import (
    BASE,
    FIRST_DEVICE,
    GIVE_BACK,
    MOST_DEVICES,
    POOLS,
    PREPARE,
    SERVE,
    TAKE_BACK,
    UNPREPARED,
    WAKE,
    c_functions_of,
    live_at,
    lock_device,
    root,
    unlock_device,
)
from .live_table import NOWHERE, SHARED, find

call1, call2, call3 = (invokers[n] for n in range(1, 4))


@inline
def _state_of(device):
    """Address of a device's state, 0 = it has none yet."""
    if device < 0 or device >= MOST_DEVICES:
        return np.int64(0)
    return root()[FIRST_DEVICE + device]


@helper
def _served(at, size, stream):
    """Address of the memory for one request of the device whose state is at `at`; 0 = none."""
    p = live_at(at)
    while True:
        lock_device(at)
        address = call3(p.word[SERVE], at, size, stream)
        unlock_device(at)
        # Python is asked without the lock: whoever holds it must never wait for the interpreter.
        if address != UNPREPARED:
            return address
        if call2(p.word[PREPARE], size, stream) == 0:
            return np.int64(0)


def alloc(size, device, stream):
    """PyTorch's alloc_fn."""
    d = np.int64(device)
    at = _state_of(d)
    if at == 0:
        at = call1(root()[WAKE], d)
    address = np.int64(0)
    if at != 0 and size > 0:
        address = _served(at, size, stream)
    if address == 0 and size > 0:
        throw_out_of_memory(size)
    return address


def free(address, size, device, stream):
    """PyTorch's free_fn."""
    at = _state_of(np.int64(device))
    if at != 0 and address != 0:
        lock_device(at)
        call3(live_at(at).word[TAKE_BACK], at, address, stream)
        unlock_device(at)


def empty_cache():
    """PyTorch's reset_fn: give back what nobody holds, on every device."""
    for d in range(MOST_DEVICES):
        at = _state_of(np.int64(d))
        if at != 0:
            lock_device(at)
            call1(live_at(at).word[GIVE_BACK], at)
            unlock_device(at)


def record_stream(address, stream):
    """PyTorch's record_stream_fn: another stream uses this memory too."""
    for d in range(MOST_DEVICES):
        at = _state_of(np.int64(d))
        if at != 0:
            lock_device(at)
            p = live_at(at)
            entry = find(p.table, address - p.word[BASE])
            if entry != NOWHERE and p.stream[max(p.table[entry + 3], 0)] != stream:
                p.table[entry + 3] = SHARED
            unlock_device(at)


def begin_pool(device, first, second, which):
    """PyTorch's begin_allocate_to_pool: a graph is captured, or a private pool is used."""
    at = _state_of(np.int64(device))
    if at != 0:
        live_at(at).word[POOLS] += 1
    throw_no_pools()


@cache
def c_functions() -> dict[str, Any]:
    """The C functions by name, each with its `address`; publish_root() comes first."""
    return c_functions_of(
        (alloc, "i8", ("i8", "i4", "i8")),
        (free, "", ("i8", "i8", "i4", "i8")),
        (empty_cache, "", ()),
        (record_stream, "", ("i8", "i8")),
        (begin_pool, "", ("i4", "i8", "i8", "i8")),
    )

"""Memory behind a live policy's addresses: mapped page by page, where a block first needs it.

A policy gives out addresses as in a simulation: a segment's are never used again. One range of
addresses, far larger than the device, stands for all of them; pages are mapped under a block when
it is handed out, and unmapped once no block lies there and the simulated driver has taken the
memory back. So the pages mapped are never more than the policy holds of its simulated driver.
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import helper, inline
from .apart import invokers
from .live_state import (
    ACCESS_AT,
    BASE,
    CREATE,
    CUDA,
    HANDLE,
    HIGH_PAGE,
    KEEP,
    KIND,
    MAP,
    MAPPED,
    PAGE,
    PEAK_MAPPED,
    PROPERTIES_AT,
    RELEASE,
    SET_ACCESS,
    SPACE_BYTES,
    SWEEP,
    UNMAP,
    end_page,
    first_page,
    live_at,
)
from .live_streams import wait_for_device
from .memory import i8_at

PROT_NONE, PROT_READ_WRITE, MADV_DONTNEED = 0, 3, 4  # of Linux
STATUS = 0xFFFFFFFF  # the driver answers in 32 bits

call1, call2, call3, call4, call5 = (invokers[n] for n in range(1, 6))


@helper
def _unmap_run(p, start, end):
    """Unmap pages start..end, all mapped."""
    if p.word[KIND] == CUDA:
        call2(p.word[UNMAP], p.word[BASE] + start * PAGE, (end - start) * PAGE)
        for k in range(start, end):
            call1(p.word[RELEASE], p.page[k])
            p.page[k] = 0
    else:
        call3(p.word[UNMAP], p.word[BASE] + start * PAGE, (end - start) * PAGE, MADV_DONTNEED)
        call3(p.word[MAP], p.word[BASE] + start * PAGE, (end - start) * PAGE, PROT_NONE)
        for k in range(start, end):
            p.page[k] = 0
    p.word[MAPPED] -= end - start


@helper
def _create(at, p, k):
    """Give page k memory of its own, not accessible yet; whether the driver had some."""
    a = p.word[BASE] + k * PAGE
    if (call4(p.word[CREATE], p.word[HANDLE], PAGE, at + PROPERTIES_AT, 0) & STATUS) != 0:
        return False
    handle = i8_at(p.word[HANDLE], np.int64(0))[0]
    if (call5(p.word[MAP], a, PAGE, 0, handle, 0) & STATUS) != 0:
        call1(p.word[RELEASE], handle)
        return False
    p.page[k] = handle
    return True


@helper
def _map_run(at, p, start, end):
    """Map pages start..end, none mapped; whether the driver had memory for all, else none is."""
    a, size = p.word[BASE] + start * PAGE, (end - start) * PAGE
    done = start
    if p.word[KIND] == CUDA:
        while done < end and _create(at, p, done):
            done += 1
        is_done = done == end
        if is_done:
            is_done = (call4(p.word[SET_ACCESS], a, size, at + ACCESS_AT, 1) & STATUS) == 0
    else:
        is_done = (call3(p.word[MAP], a, size, PROT_READ_WRITE) & STATUS) == 0
        if is_done:
            for k in range(start, end):
                p.page[k] = 1
            done = end
    p.word[MAPPED] += done - start
    p.word[HIGH_PAGE] = max(p.word[HIGH_PAGE], done)
    if not is_done and done > start:
        _unmap_run(p, start, done)
    p.word[PEAK_MAPPED] = max(p.word[PEAK_MAPPED], p.word[MAPPED])
    return is_done


@inline
def keep(p, offset, size):
    """Leave mapped what is under a block: said of every block during a sweep."""
    for k in range(first_page(offset), min(end_page(offset, size), p.word[HIGH_PAGE])):
        p.kept[k] = p.word[SWEEP]


@helper
def sweep(at):
    """Unmap every page in which no block lies, of the device whose state is at an address."""
    p = live_at(at)
    wait_for_device(p)
    p.word[SWEEP] += 1
    number = p.word[SWEEP]
    call1(p.word[KEEP], at)
    high = p.word[HIGH_PAGE]
    k = np.int64(0)
    while k < high:
        start = k
        while k < high and p.page[k] != 0 and p.kept[k] != number:
            k += 1
        if k > start:
            _unmap_run(p, start, k)
        k += 1


@inline
def is_beyond(p, held, more):
    """So many more pages would be more than the policy holds of its driver, in bytes."""
    return (p.word[MAPPED] + more) * PAGE > held


@helper
def back_block(at, offset, size, held):
    """Map memory behind all of a block in use; whether there was enough.

    Args:
        at: address of the device's LIVE buffer.
        offset, size: of the block in the region, bytes.
        held: bytes the policy holds of its driver.
    """
    p = live_at(at)
    start, end = first_page(offset), end_page(offset, size)
    if start < 0 or end * PAGE > p.word[SPACE_BYTES]:
        return False
    lacks = np.int64(0)
    for k in range(start, end):
        lacks += p.page[k] == 0
    if lacks == 0:
        return True
    if is_beyond(p, held, lacks):
        sweep(at)
    k = start
    while k < end:
        if p.page[k] != 0:
            k += 1
            continue
        first = k
        while k < end and p.page[k] == 0:
            k += 1
        if not _map_run(at, p, first, k):
            return False
    return True

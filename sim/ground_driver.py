"""The simulated driver as mechanisms call it; the same rules and counters as in `driver.py`."""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline
from .device import ALIGNMENT
from .driver import count_free, count_malloc, count_map, count_unmap
from .state import (
    ACCESS_BYTES,
    ACCESSES,
    CAPACITY,
    DEVICE_ALLOCS,
    DEVICE_FREES,
    DRIVER_USED,
    GRANULARITY,
    MAP_BYTES,
    MAPS,
    NEXT_ADDRESS,
    PEAK_RESERVED,
    RESERVED,
    UNMAP_BYTES,
    UNMAPS,
)

REFUSED = -1
SPACE = 1 << 42  # bytes of addresses kept for memory that grows in place; no device has as much


@inline
def room(m):
    """Bytes that the driver could still give out; huge where it never runs out."""
    return max(np.int64(0), m.opt[CAPACITY] - m.g[DRIVER_USED])


@inline
def _physical(m, size):
    step = m.opt[GRANULARITY]
    return (size + step - 1) // step * step


@inline
def _take(m, size):
    """Take memory for `size` bytes from the device: True if it had room."""
    taken = _physical(m, size)
    if m.g[DRIVER_USED] + taken > m.opt[CAPACITY]:
        return False
    m.g[DRIVER_USED] += taken
    m.g[DEVICE_ALLOCS] += 1
    reserved = m.g[RESERVED] + size
    m.g[RESERVED] = reserved
    if reserved > m.g[PEAK_RESERVED]:
        m.g[PEAK_RESERVED] = reserved
    return True


@inline
def _give(m, size):
    """Give the memory behind `size` bytes back, as taken at once."""
    m.g[DRIVER_USED] -= _physical(m, size)
    m.g[DEVICE_FREES] += 1
    m.g[RESERVED] -= size


@inline
def driver_map(m, size, page):
    """Back `size` more bytes of reserved addresses by pages: True if the device had room."""
    if not _take(m, size):
        return False
    count_map(m, size, page)
    return True


@inline
def driver_unmap(m, size, page):
    """Give back the pages behind `size` bytes, as backed by one call of driver_map."""
    _give(m, size)
    count_unmap(m, size, page)


@inline
def reserve_addresses(m, size):
    """Addresses that nobody else gets; they cost nothing until memory is mapped behind them."""
    a = (m.g[NEXT_ADDRESS] + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    m.g[NEXT_ADDRESS] = (a + size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    return a


@inline
def driver_malloc(m, size):
    """cudaMalloc: the address of `size` new bytes, or REFUSED."""
    if not _take(m, size):
        return np.int64(REFUSED)
    count_malloc(m, size)
    return reserve_addresses(m, size)


@inline
def driver_free(m, size):
    """cudaFree of what driver_malloc gave for `size` bytes."""
    _give(m, size)
    count_free(m, size)


@inline
def map_again(m, size, page):
    """Show memory that is there at further addresses: cuMemMap a page, one cuMemSetAccess."""
    m.g[MAPS] += size // page
    m.g[MAP_BYTES] += size
    m.g[ACCESSES] += 1
    m.g[ACCESS_BYTES] += size


@inline
def unmap_again(m, size, page):
    """Undo map_again; the memory stays."""
    m.g[UNMAPS] += size // page
    m.g[UNMAP_BYTES] += size

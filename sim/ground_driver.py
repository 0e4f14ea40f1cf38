"""The simulated driver as mechanisms call it; the same rules and counters as in `driver.py`."""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline
from .device import ALIGNMENT
from .state import (
    CAPACITY,
    DEVICE_ALLOCS,
    DEVICE_FREES,
    DRIVER_USED,
    GRANULARITY,
    NEXT_ADDRESS,
    PEAK_RESERVED,
    RESERVED,
)

REFUSED = -1
SPACE = 1 << 44  # bytes of addresses kept for memory that grows in place


@inline
def room(m):
    """Bytes that the driver could still give out; huge where it never runs out."""
    return max(np.int64(0), m.opt[CAPACITY] - m.g[DRIVER_USED])


@inline
def _physical(m, size):
    step = m.opt[GRANULARITY]
    return (size + step - 1) // step * step


@inline
def driver_map(m, size):
    """Back `size` more bytes of reserved addresses by memory: True if the device had room."""
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
def driver_unmap(m, size):
    """Give the memory behind `size` bytes back, as mapped by one call of driver_map."""
    m.g[DRIVER_USED] -= _physical(m, size)
    m.g[DEVICE_FREES] += 1
    m.g[RESERVED] -= size


@inline
def reserve_addresses(m, size):
    """Addresses that nobody else gets; they cost nothing until memory is mapped behind them."""
    a = (m.g[NEXT_ADDRESS] + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    m.g[NEXT_ADDRESS] = (a + size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    return a


@inline
def driver_malloc(m, size):
    """cudaMalloc: the address of `size` new bytes, or REFUSED."""
    if not driver_map(m, size):
        return np.int64(REFUSED)
    return reserve_addresses(m, size)


@inline
def driver_free(m, size):
    """cudaFree of what driver_malloc gave for `size` bytes."""
    driver_unmap(m, size)

"""Addresses for programs that have none: every live allocation gets memory of its own.

They only tell allocations apart; nothing that follows from them is said about a real allocator.
"""

from __future__ import annotations

import numpy as np

from .distinct import distinct
from .errors import TraceError
from .jit import kernel
from .units import GiB

FIRST = 4 * GiB
LIMIT = 1 << 61


@kernel
def _place(alloc, is_alloc, klass, step, first, limit, addr):
    """Give every row an address; freed addresses are used again for the same size, newest first.

    Args:
        alloc: shape (n,) int64; allocation number of each row, numbered by first appearance.
        is_alloc: shape (n,) bool; the row is an allocation, else a free.
        klass: shape (n,) int64; which distinct size the row has.
        step: shape (sizes,) int64; bytes each distinct size takes.
        first, limit: addresses lie in [first, limit).
        addr: shape (n,) int64, output.

    Returns:
        Row at which the addresses ran out; -1 = never.
    """
    spare = np.full(len(step), -1, np.int64)  # newest freed allocation of each size
    older = np.full(len(alloc), -1, np.int64)  # the one freed before it
    at = np.zeros(len(alloc), np.int64)
    top = first
    for i in range(len(alloc)):
        a, k = alloc[i], klass[i]
        if is_alloc[i]:
            if spare[k] >= 0:
                at[a] = at[spare[k]]
                spare[k] = older[spare[k]]
            else:
                if step[k] >= limit - top:
                    return i
                at[a] = top
                top += step[k]
        else:
            older[a] = spare[k]
            spare[k] = a
        addr[i] = at[a]
    return -1


def made_up_addresses(alloc: np.ndarray, is_alloc: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return an address for each row of a well-formed list of allocations and frees.

    Args:
        alloc: shape (n,) int64; allocation number of each row, counted from 0 in order of
            allocation.
        is_alloc: shape (n,) bool; each number is allocated once and freed at most once, later.
        size: shape (n,) int64; bytes, the same in both rows of an allocation.

    Returns:
        Addresses, shape (n,) int64; allocations live at once do not overlap.

    Raises:
        TraceError: more is live at once than there are addresses.
    """
    sizes, klass = distinct(size)
    step = np.maximum((sizes + 511) // 512 * 512, 512)
    addr = np.zeros(len(alloc), np.int64)
    stop = _place(alloc.astype(np.int64), is_alloc, klass, step, FIRST, LIMIT, addr)
    if stop >= 0:
        raise TraceError(f"row {stop:,}: found more than {LIMIT:,} bytes live at once")
    return addr

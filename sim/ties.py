"""Ties: which of two free blocks of one size comes first.

The one with the lower address; but since 2.13 that of the older segment, and in 2.12 the older
block (release.py, tie_break). Segments of a run that began with nothing have ascending addresses,
so that nothing need be kept of their age there (start.py, set_options).

Source: c10/cuda/CUDACachingAllocator.cpp, BlockComparatorSize.
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline
from .assumed import ages_blocks, has_order
from .memory import is_less
from .state import NEXT_ORDER


@inline
def before(s, a, b):
    """Free-set order of one lane: smaller first, then older, then lower address."""
    # Without branches, whose outcome nothing foretells.
    if not has_order(s):
        return is_less(s.size[a], s.addr[a], s.size[b], s.addr[b])
    same_age = (s.order[a] == s.order[b]) & (s.addr[a] < s.addr[b])
    same_size = (s.size[a] == s.size[b]) & ((s.order[a] < s.order[b]) | same_age)
    return (s.size[a] < s.size[b]) | same_size


@inline
def order_of(s, b):
    """Creation counter of block b; 0 if addresses alone break ties."""
    return np.int64(s.order[b]) if has_order(s) else np.int64(0)


@inline
def set_order(s, b, order):
    """Give block b a creation counter, if that breaks ties."""
    if has_order(s):
        s.order[b] = order


@inline
def take_order(s):
    """Creation counter of a new segment or reservation."""
    if not has_order(s):
        return np.int64(0)
    s.g[NEXT_ORDER] += 1
    return s.g[NEXT_ORDER]


@inline
def set_order_of_piece(s, piece, b):
    """Give a block newly cut from block b its creation counter."""
    if ages_blocks(s):
        s.g[NEXT_ORDER] += 1
        s.order[piece] = s.g[NEXT_ORDER]
    else:
        set_order(s, piece, order_of(s, b))

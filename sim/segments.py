"""Fixed segments: one cudaMalloc each, returned whole or not at all."""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline
from .apart import apart
from .assumed import is_expandable
from .driver import (
    REFUSED,
    SEGMENT_ALLOC,
    SEGMENT_FREE,
    account_reserved,
    count_free,
    count_malloc,
    driver_malloc,
    give_memory,
    log,
    script_gave_back,
)
from .index import remove
from .spares import drop_id, new_id
from .state import (
    BIN_SHIFT,
    BINS,
    LANE_WORDS,
    MAX_SPLIT,
    TRACK,
    USED,
    is_split,
    lane_of,
)
from .stats import OVERSIZE_SEGMENTS, SEGMENTS, change
from .ties import take_order


@apart
def new_segment(s, lane, size, try_op):
    """Ask the driver for a segment of `size` bytes.

    Returns:
        A used block that is the whole segment, with a bin of its lane; 0 if the driver refused.

    Source: CUDACachingAllocator.cpp, alloc_block.
    """
    a = driver_malloc(s, size, try_op)
    if a == REFUSED:
        return np.int64(0)
    account_reserved(s, lane, size)
    count_malloc(s, size)
    if s.opt[TRACK] != 0:
        change(s, SEGMENTS, lane, 1)
        if size >= s.opt[MAX_SPLIT]:
            change(s, OVERSIZE_SEGMENTS, lane, 1)
    log(s, SEGMENT_ALLOC, a, size, lane)
    b = new_id(s)
    s.size[b] = size
    s.addr[b] = a
    s.order[b] = take_order(s)
    s.phase[b] = 0
    s.prev[b] = 0
    s.next[b] = 0
    s.tag[b] = (s.lanes[lane * LANE_WORDS + BINS] << BIN_SHIFT) | USED
    return b


@apart
def release_segment(s, b):
    """Return the segment that free block b is the whole of to the driver.

    Source: CUDACachingAllocator.cpp, release_block.
    """
    lane = lane_of(s, b)
    size = s.size[b]
    remove(s, b)
    give_memory(s, size, size)
    script_gave_back(s)
    account_reserved(s, lane, -size)
    count_free(s, size)
    if s.opt[TRACK] != 0:
        change(s, SEGMENTS, lane, -1)
        if size >= s.opt[MAX_SPLIT]:
            change(s, OVERSIZE_SEGMENTS, lane, -1)
    log(s, SEGMENT_FREE, s.addr[b], size, lane)
    drop_id(s, b)


@inline
def releasable(s, b):
    """A free block can be returned by itself if it is a whole fixed segment."""
    return not is_split(s, b) and not is_expandable(s, b)

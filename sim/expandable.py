"""Expandable segments: a virtual reservation whose pages are mapped and unmapped on demand.

Source: CUDACachingAllocator.cpp, ExpandableSegment, map_block, try_allocate_expandable_block,
find_expandable_block, unmap_block.
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline
from .apart import apart
from .assumed import has_holes, is_expandable
from .driver import (
    SEGMENT_MAP,
    SEGMENT_UNMAP,
    account_reserved,
    count_map,
    count_unmap,
    driver_map,
    give_memory,
    log,
    map_address,
    reserve_address,
    script_gave_back,
)
from .index import gather, insert, next_in_heap, rank, remove
from .spares import drop_id, new_id
from .state import (
    BIN_SHIFT,
    BINS,
    FREE,
    FRONTIER,
    IS_EXPANDABLE,
    LANE_WORDS,
    NEED,
    PAGE,
    REFUSES_SMALL_RESERVE,
    RESERVE_BYTES,
    STATE_MASK,
    UNMAPPED,
    USED,
    lane_of,
    page_of,
    state_of,
)
from .ties import before, set_order_of_piece, take_order


@inline
def home(s, lane, following, size):
    """Bin of a free block of `size` bytes of a lane whose right neighbour is `following`."""
    if has_holes(s) and state_of(s, following) == UNMAPPED:
        return s.lanes[lane * LANE_WORDS + FRONTIER]
    return rank(s, lane, size)


@apart
def place(s, b):
    """Put a block into the free set, wherever it belongs."""
    insert(s, b, home(s, lane_of(s, b), np.int64(s.next[b]), s.size[b]))


@apart
def insert_unmapped(s, b):
    """Mark b unmapped and enter it in its lane's list, ascending address."""
    lane = lane_of(s, b)
    s.tag[b] = (s.tag[b] & ~STATE_MASK) | UNMAPPED
    x, left = np.int64(s.unmapped[lane]), np.int64(0)
    while x != 0 and s.addr[x] < s.addr[b]:
        left = x
        x = np.int64(s.sibling[x])
    s.sibling[b] = x
    if left == 0:
        s.unmapped[lane] = b
    else:
        s.sibling[left] = b


@apart
def remove_unmapped(s, b):
    """Take b out of its lane's list; its tag is left for the caller to set."""
    lane = lane_of(s, b)
    x, left = np.int64(s.unmapped[lane]), np.int64(0)
    while x != b:
        left = x
        x = np.int64(s.sibling[x])
    if left == 0:
        s.unmapped[lane] = s.sibling[b]
    else:
        s.sibling[left] = s.sibling[b]


@inline
def cut(s, b, size):
    """Cut the first `size` bytes off block b as a new block in front of it; returns the new one."""
    piece = new_id(s)
    set_order_of_piece(s, piece, b)
    s.size[piece] = size
    s.addr[piece] = s.addr[b]
    s.phase[piece] = s.phase[b]
    s.tag[piece] = s.tag[b] & ~STATE_MASK
    left = np.int64(s.prev[b])
    s.prev[piece] = left
    s.next[left] = piece
    s.next[piece] = b
    s.prev[b] = piece
    s.size[b] -= size
    s.addr[b] += size
    return piece


@inline
def absorb(s, b, x):
    """Block b takes over its neighbour x, which is in no free set or list any more."""
    if s.prev[b] == x:
        s.addr[b] = s.addr[x]
        left = np.int64(s.prev[x])
        s.prev[b] = left
        s.next[left] = b
    else:
        right = np.int64(s.next[x])
        s.next[b] = right
        s.prev[right] = b
    s.size[b] += s.size[x]
    drop_id(s, x)


@apart
def map_pages(s, b, wanted, try_op):
    """Map enough pages at the start of unmapped block b to hold `wanted` bytes.

    Returns:
        The free block that now covers the pages, merged with its free neighbours; 0 if the device
        was full (nothing has changed then).
    """
    lane = lane_of(s, b)
    page = page_of(s, b)
    size = (wanted + page - 1) // page * page
    start = s.addr[b]
    if s.prev[b] == 0 and s.next[b] == 0:
        # A reservation leaves no trace until its first page tells where it lies; the request it
        # was made for may have failed.
        start = map_address(s, start)
    if not driver_map(s, size, page, try_op):
        return np.int64(0)
    remove_unmapped(s, b)
    s.addr[b] = start
    s.phase[b] = start % page
    s.tag[b] = (s.tag[b] & ~STATE_MASK) | USED
    if size < s.size[b]:
        # b becomes the mapped front; what is left is a new block, as in PyTorch
        rest = new_id(s)
        set_order_of_piece(s, rest, b)
        s.size[rest] = s.size[b] - size
        s.addr[rest] = start + size
        s.phase[rest] = s.phase[b]
        s.tag[rest] = s.tag[b]
        right = np.int64(s.next[b])
        s.prev[rest] = b
        s.next[rest] = right
        s.prev[right] = rest
        s.next[b] = rest
        s.size[b] = size
        insert_unmapped(s, rest)
    left = np.int64(s.prev[b])
    if left != 0 and state_of(s, left) == FREE:
        remove(s, left)
        absorb(s, b, left)
    right = np.int64(s.next[b])
    if right != 0 and state_of(s, right) == FREE:
        remove(s, right)
        absorb(s, b, right)
    place(s, b)
    account_reserved(s, lane, size)
    count_map(s, size, page)
    log(s, SEGMENT_MAP, start, size, lane)
    return b


@apart
def new_reservation(s, lane, needed):
    """Reserve virtual memory; returns its one unmapped block, 0 if it could never hold `needed`."""
    page = s.lanes[lane * LANE_WORDS + PAGE]
    size = (s.opt[RESERVE_BYTES] + page - 1) // page * page
    order = take_order(s)
    a = reserve_address(s, size)
    if s.opt[REFUSES_SMALL_RESERVE] != 0 and size < needed:
        return np.int64(0)  # made and given up at once: its age and address are spent
    b = new_id(s)
    s.size[b] = size
    s.addr[b] = a
    s.order[b] = order
    s.phase[b] = a % page
    s.prev[b] = 0
    s.next[b] = 0
    s.tag[b] = (s.lanes[lane * LANE_WORDS + BINS] << BIN_SHIFT) | IS_EXPANDABLE
    insert_unmapped(s, b)
    return b


@inline
def find_growable(s, lane, needed):
    """Lowest run of free and unmapped blocks that can hold `needed` bytes; 0 if there is none."""
    x = np.int64(s.unmapped[lane])
    while x != 0:
        first = x
        left = np.int64(s.prev[x])
        if left != 0 and state_of(s, left) == FREE:
            first = left
        total, y = np.int64(0), first
        while total < needed and y != 0:
            if state_of(s, y) == USED:
                break
            total += s.size[y]
            y = np.int64(s.next[y])
        if total >= needed:
            return first
        x = np.int64(s.sibling[x])
    return np.int64(0)


@apart
def grow_segment(s, q, lane, try_op):
    """Obtain a used block for request class q by mapping pages; 0 if the device is full.

    What was mapped before a failure stays, as free memory.
    """
    needed = s.classes[q + NEED]
    b = find_growable(s, lane, needed)
    if b == 0:
        b = new_reservation(s, lane, needed)
        if b == 0:
            return b
    if state_of(s, b) == UNMAPPED:
        b = map_pages(s, b, min(s.size[b], needed), try_op)
        if b == 0:
            return b
    while s.size[b] < needed:
        u = np.int64(s.next[b])
        b = map_pages(s, u, min(needed - s.size[b], s.size[u]), try_op)
        if b == 0:
            return b
    remove(s, b)
    return b


@apart
def unmap(s, b):
    """Return the whole pages inside free block b to the driver."""
    lane = lane_of(s, b)
    page = page_of(s, b)
    offset = s.addr[b] - s.phase[b]
    start = (offset + page - 1) // page * page + s.phase[b]
    end = (offset + s.size[b]) // page * page + s.phase[b]
    if start >= end:
        return
    remove(s, b)
    left, right = np.int64(0), np.int64(0)
    if start > s.addr[b]:
        left = cut(s, b, start - s.addr[b])
    if s.addr[b] + s.size[b] > end:
        # the piece after the hole is the new block, the middle keeps its identity
        right = new_id(s)
        set_order_of_piece(s, right, b)
        s.size[right] = s.addr[b] + s.size[b] - end
        s.addr[right] = end
        s.phase[right] = s.phase[b]
        s.tag[right] = s.tag[b] & ~STATE_MASK
        following = np.int64(s.next[b])
        s.prev[right] = b
        s.next[right] = following
        s.prev[following] = right
        s.next[b] = right
        s.size[b] = end - start
    x = np.int64(s.prev[b])
    s.tag[b] = (s.tag[b] & ~STATE_MASK) | UNMAPPED
    if x != 0 and state_of(s, x) == UNMAPPED:
        remove_unmapped(s, x)
        absorb(s, b, x)
    x = np.int64(s.next[b])
    if x != 0 and state_of(s, x) == UNMAPPED:
        remove_unmapped(s, x)
        absorb(s, b, x)
    insert_unmapped(s, b)
    if left != 0:
        place(s, left)
    if right != 0:
        place(s, right)
    give_memory(s, end - start, page)
    script_gave_back(s)
    account_reserved(s, lane, start - end)
    count_unmap(s, end - start, page)
    log(s, SEGMENT_UNMAP, start, end - start, lane)
    if s.prev[b] == 0 and s.next[b] == 0:
        remove_unmapped(s, b)
        drop_id(s, b)


@inline
def reach(s, b):
    """Size that free block b could grow to: its own plus the hole directly after it."""
    following = np.int64(s.next[b])
    if following != 0 and state_of(s, following) == UNMAPPED:
        return s.size[b] + s.size[following]
    return s.size[b]


@apart
def next_frontier(s, lane, size, after):
    """Least frontier block of at least `size` bytes, after block `after` if that is not 0."""
    root = np.int64(s.root[s.lanes[lane * LANE_WORDS + FRONTIER]])
    best, x = np.int64(0), root
    while x != 0:
        if s.size[x] >= size and (after == 0 or before(s, after, x)):
            if best == 0 or before(s, x, best):
                best = x
        x = next_in_heap(s, x, root)
    return best


@inline
def prefer_reach(s, lane, size, found):
    """Choose between the best fit off the frontier and the frontier's blocks, as PyTorch walks.

    A block in front of unmapped space counts with the size it could grow to: from the least block
    that fits, the walk moves on while the next one could grow less. Blocks off the frontier end it.

    Source: CUDACachingAllocator.cpp, get_free_block.
    """
    b = np.int64(s.root[s.lanes[lane * LANE_WORDS + FRONTIER]])
    if b == 0:
        return found
    if s.child[b] != 0:
        return walk_frontier(s, lane, size, found)
    # One reservation that is free at its end, as is usual: the walk has two blocks at most.
    if s.size[b] < size:
        return found
    if found != 0 and (s.size[found] < reach(s, b) or before(s, found, b)):
        return found
    return b


@apart
def walk_frontier(s, lane, size, found):
    """The walk of prefer_reach over any number of frontier blocks."""
    b = next_frontier(s, lane, size, np.int64(0))
    if b == 0 or (found != 0 and before(s, found, b)):
        return found
    while True:
        x = next_frontier(s, lane, size, b)
        if found != 0 and (x == 0 or before(s, found, x)):
            x = found
        if x == 0 or reach(s, x) >= reach(s, b):
            return b
        if x == found:
            return x
        b = x


@apart
def best_fixed(s, lane, size):
    """Least free block of at least `size` bytes that is not expandable; 0 if there is none.

    For lanes that keep expandable memory from before the setting was switched off: PyTorch skips
    such blocks (get_free_block).
    """
    best = np.int64(0)
    for k in range(gather(s, lane, 0)):
        x = np.int64(s.scratch[k])
        if s.size[x] >= size and not is_expandable(s, x):
            if best == 0 or before(s, x, best):
                best = x
    return best

"""Span: memory cut into blocks that know their neighbours, split and coalesced at will.

One contiguous region that grows at its end, or several segments that do not touch. Free blocks of
every lane are in a tree of their own, with word `lane` of the policy's own words for its root.
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import helper, inline
from .free_tree import insert, remove
from .ground import FREE, USED, drop_block, new_block
from .ground_driver import (
    REFUSED,
    SPACE,
    driver_free,
    driver_malloc,
    driver_map,
    driver_unmap,
    reserve_addresses,
)
from .memory import highest_bit
from .state import GRANULARITY, NEXT_ORDER

# The order of a tree of free blocks. BY_CLASS + k is by classes, 2 ** k of them to a doubling of
# the size, and in a class the block freed last comes first.
BY_SIZE, BY_ADDRESS, BY_CLASS = 0, 1, 2
FIRST_TIE = -(1 << 62)  # before every block of a key


@inline
def size_class(size, bits):
    """Log-linear class of a size of at least 2 ** bits bytes."""
    e = highest_bit(size)
    return ((e - 1) << bits) + (size >> (e - bits))


@inline
def enter(m, b, order):
    """Put a block marked free into its lane's tree."""
    m.key[b] = 0
    m.tie[b] = m.addr[b]
    if order == BY_SIZE:
        m.key[b] = m.size[b]
    elif order >= BY_CLASS:
        m.g[NEXT_ORDER] += 1
        m.key[b] = size_class(m.size[b], order - BY_CLASS)
        m.tie[b] = -m.g[NEXT_ORDER]
    insert(m, np.int64(m.lane[b]), b)


@inline
def new_piece(m, addr, size, lane):
    """A used block without neighbours; lane is also the tree it will be in when free."""
    b = new_block(m)
    m.addr[b] = addr
    m.size[b] = size
    m.lane[b] = lane
    m.prev[b] = 0
    m.next[b] = 0
    m.mark[b] = 0
    m.state[b] = USED
    return b


@helper
def cut(m, b, size, order):
    """Keep the first `size` bytes of used block b; the rest becomes a free block."""
    rest = new_piece(m, m.addr[b] + size, m.size[b] - size, np.int64(m.lane[b]))
    after = np.int64(m.next[b])
    m.size[b] = size
    m.next[b] = rest
    m.prev[rest] = b
    m.next[rest] = after
    if after != 0:
        m.prev[after] = rest
    m.state[rest] = FREE
    enter(m, rest, order)
    return rest


@inline
def take(m, b):
    """Make free block b a used one."""
    remove(m, np.int64(m.lane[b]), b)
    m.state[b] = USED


@inline
def join(m, a, b):
    """Join block b to its left neighbour a; neither is in a tree."""
    after = np.int64(m.next[b])
    m.size[a] += m.size[b]
    m.next[a] = after
    if after != 0:
        m.prev[after] = a
    drop_block(m, b)


@helper
def release(m, b, order):
    """Make used block b free and coalesce it with its free neighbours of the same lane.

    Returns:
        The free block that holds its memory now.
    """
    lane = m.lane[b]
    after, before = np.int64(m.next[b]), np.int64(m.prev[b])
    if after != 0 and m.state[after] == FREE and m.lane[after] == lane:
        remove(m, np.int64(m.lane[after]), after)
        join(m, b, after)
    if before != 0 and m.state[before] == FREE and m.lane[before] == lane:
        remove(m, np.int64(m.lane[before]), before)
        join(m, before, b)
        b = before
    m.state[b] = FREE
    enter(m, b, order)
    return b


# --- one region, words of `own` from `at` ---
BASE, END, LAST, REGION_WORDS = 0, 1, 2, 3  # addresses, mapped so far; LAST: the topmost block


@inline
def whole_pages(m, page):
    """A page as the driver can give it out: a multiple of its granularity."""
    step = m.opt[GRANULARITY]
    return (page + step - 1) // step * step


@helper
def grow(m, at, lane, need, page):
    """Map pages behind the region's end until its last block is free and has `need` bytes.

    It may have them already, where a policy does not look at all blocks that fit.

    Returns:
        That block, made a used one; 0 if the driver refused.
    """
    if m.own[at + BASE] == 0:
        m.own[at + BASE] = m.own[at + END] = reserve_addresses(m, np.int64(SPACE))
    page = whole_pages(m, page)
    last = m.own[at + LAST]
    have = np.int64(0)
    if last != 0 and m.state[last] == FREE and m.lane[last] == lane:
        have = m.size[last]
    more = (max(need - have, np.int64(0)) + page - 1) // page * page
    if more != 0 and not driver_map(m, more, page):
        return np.int64(0)
    if have != 0:
        take(m, last)
        m.size[last] += more
    else:
        b = new_piece(m, m.own[at + END], more, lane)
        m.prev[b] = last
        if last != 0:
            m.next[last] = b
        last = b
        m.own[at + LAST] = b
    m.own[at + END] += more
    return last


@inline
def cut_in_region(m, at, b, size, order):
    """As `cut`, for a block of a region that grows; a block cut to its own size stays whole."""
    if m.size[b] > size:
        rest = cut(m, b, size, order)
        if m.own[at + LAST] == b:
            m.own[at + LAST] = rest


@inline
def release_in_region(m, at, b, order):
    """As `release`, for a block of a region that grows."""
    b = release(m, b, order)
    if m.next[b] == 0:
        m.own[at + LAST] = b
    return b


@inline
def shrink_region(m, at, lane, page, order):
    """Unmap the whole pages of a last block that is free; returns the bytes given back."""
    last = m.own[at + LAST]
    if last == 0 or m.state[last] != FREE or m.lane[last] != lane:
        return np.int64(0)
    page = whole_pages(m, page)
    start = m.addr[last] - m.own[at + BASE]
    size = m.own[at + END] - m.own[at + BASE] - (start + page - 1) // page * page
    if size <= 0:
        return np.int64(0)
    take(m, last)
    driver_unmap(m, size, page)
    m.own[at + END] -= size
    m.size[last] -= size
    if m.size[last] > 0:
        m.state[last] = FREE
        enter(m, last, order)
    else:
        before = np.int64(m.prev[last])
        m.own[at + LAST] = before
        if before != 0:
            m.next[before] = 0
        drop_block(m, last)
    return size


# --- segments: one driver call each, returned whole or not at all ---


@helper
def new_segment(m, lane, size):
    """A used block that is a whole new segment; 0 if the driver refused."""
    a = driver_malloc(m, size)
    if a == REFUSED:
        return np.int64(0)
    return new_piece(m, a, size, lane)


@inline
def is_whole(m, b):
    """Block b is all of its segment."""
    return m.prev[b] == 0 and m.next[b] == 0


@inline
def drop_segment(m, b):
    """Return the segment that free block b is the whole of; returns its bytes."""
    size = m.size[b]
    take(m, b)
    driver_free(m, size)
    drop_block(m, b)
    return size


@helper
def drop_whole_segments(m, root):
    """Return every segment that is one free block of a tree; returns the bytes given back."""
    given = np.int64(0)
    node = m.own[root]
    while node != 0 and m.left[node] != 0:
        node = np.int64(m.left[node])
    while node != 0:
        # found before the removal, which turns the tree but keeps its order
        after = np.int64(m.right[node])
        if after != 0:
            while m.left[after] != 0:
                after = np.int64(m.left[after])
        else:
            child = node
            after = np.int64(m.up[node])
            while after != 0 and m.right[after] == child:
                child = after
                after = np.int64(m.up[after])
        if is_whole(m, node):
            given += drop_segment(m, node)
        node = after
    return given

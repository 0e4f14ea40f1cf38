"""Giving memory back: completed frees, whole segments, whole pages.

Source: CUDACachingAllocator.cpp, synchronize_and_free_events, release_cached_blocks,
release_blocks, release_available_cached_blocks, garbage_collect_cached_blocks.
"""

from __future__ import annotations

import numpy as np

from ..traces.event import Action
from ..traces.jit import inline
from .apart import apart
from .assumed import has_holes, is_expandable, tracks
from .driver import log
from .expandable import home, unmap
from .index import gather, insert, move, remove, sort_blocks, stays
from .segments import releasable, release_segment
from .spares import drop_id
from .state import (
    ALLOCATED,
    BIN_SHIFT,
    CLOCK,
    END_LANE,
    FIRST_LANE,
    FIRST_PENDING,
    FREEABLE,
    FRONTIER,
    GC_BYTES,
    HELD,
    ID_STEP,
    LANE,
    LANE_WORDS,
    LAST_PENDING,
    LATEST_PEAK,
    MAX_SPLIT,
    N_POOLS,
    NEED,
    PEAK_ACTIVE,
    PEAK_ALLOCATED,
    PENDING,
    POOL,
    POOL_WORDS,
    REQUESTED,
    RESERVED,
    SYNCS,
    UNMAPPED,
    is_free,
    is_split,
    lane_of,
    state_of,
)
from .stats import track_free_completed, track_free_requested
from .ties import order_of

FREE_COMPLETED = int(Action.FREE_COMPLETED)
DEFAULT_SMALL, DEFAULT_LARGE = 0, 1  # rows of the pool table


@inline
def coalesce(s, b, size):
    """Put a used block of `size` bytes into the free set, joined with its free neighbours.

    Returns:
        the free block; and the change of the number and bytes of free blocks beside it.

    Source: CUDACachingAllocator.cpp, free_block, try_merge_blocks. Differs: where PyTorch keeps
    the freed block and drops the neighbour, the neighbour stays here and takes over what the
    freed block would have kept (its creation counter), as it may not need to move in the index.
    """
    left, right = np.int64(s.prev[b]), np.int64(s.next[b])
    left_free, right_free = is_free(s, left), is_free(s, right)
    if not (left_free | right_free):
        g = np.int64(s.tag[b]) >> BIN_SHIFT  # a used block keeps the bin that its size has
        if has_holes(s) and state_of(s, right) == UNMAPPED:
            g = s.lanes[lane_of(s, b) * LANE_WORDS + FRONTIER]
        insert(s, b, g)
        return b, np.int64(0), np.int64(0)
    total, addr, order, lane = size, s.addr[b], order_of(s, b), lane_of(s, b)
    into, following = right, right
    net_count = np.int64(0)
    if right_free:
        total += s.size[right]
        net_count -= 1
        if left_free:
            following = np.int64(s.next[right])
            remove(s, right)
            drop_id(s, right)
    if left_free:
        into = left
        addr = s.addr[left]
        total += s.size[left]
        net_count -= 1
    s.next[left] = following
    s.prev[following] = left
    drop_id(s, b)
    # Of b's lane, which is known before `into` is.
    g = home(s, lane, following if left_free else np.int64(s.next[right]), total)
    if not stays(s, into, total, addr, order, g):
        move(s, into, total, addr, order, g)
    return into, net_count, size - total


@inline
def free_block(s, b, size):
    """Complete the free of used block b of `size` bytes: it becomes reusable."""
    asked = s.asked[b]
    s.g[REQUESTED] -= asked
    if tracks(s):
        lane = lane_of(s, b)
        expandable = is_expandable(s, b)
        b, net_count, net_bytes = coalesce(s, b, size)
        if is_split(s, b):
            net_count += 1
            net_bytes += s.size[b]
        track_free_completed(s, lane, size, asked, expandable, net_count, net_bytes)
    else:
        coalesce(s, b, size)


@inline
def free(s, b):
    """Free a block that no other stream uses."""
    size = s.size[b]
    s.g[ALLOCATED] -= size
    if tracks(s):
        track_free_requested(s, b)
    free_block(s, b, size)


@inline
def _note_peaks(s):
    """What is pending is about to change."""
    s.g[PEAK_ALLOCATED] = max(s.g[PEAK_ALLOCATED], s.g[LATEST_PEAK])
    s.g[PEAK_ACTIVE] = max(s.g[PEAK_ACTIVE], s.g[LATEST_PEAK] + s.g[PENDING])
    s.g[LATEST_PEAK] = 0


@inline
def add_pending(s, slot):
    """The block of a slot is the last one that pends."""
    last = s.g[LAST_PENDING]
    s.earlier[slot] = last
    s.later[slot] = 0
    if last == 0:
        s.g[FIRST_PENDING] = slot + 1
    else:
        s.later[last - 1] = slot + 1
    s.g[LAST_PENDING] = slot + 1


@apart
def free_later(s, b, slot):
    """Free a block that other streams still use: it pends until complete() or a synchronize."""
    _note_peaks(s)
    s.g[ALLOCATED] -= s.size[b]
    s.g[PENDING] += s.size[b]
    if tracks(s):
        track_free_requested(s, b)
    add_pending(s, slot)


@apart
def complete(s, slot):
    """Complete the pending free of a slot's block."""
    b = np.int64(s.slot[slot])
    s.slot[slot] = 0
    left, right = s.earlier[slot], s.later[slot]
    if left == 0:
        s.g[FIRST_PENDING] = right
    else:
        s.later[left - 1] = right
    if right == 0:
        s.g[LAST_PENDING] = left
    else:
        s.earlier[right - 1] = left
    _note_peaks(s)
    s.g[PENDING] -= s.size[b]
    free_block(s, b, s.size[b])


@apart
def synchronize(s, pool):
    """Wait for every stream: all pending frees complete, of one pool or (pool < 0) of all."""
    s.g[SYNCS] += 1
    after = s.g[FIRST_PENDING]
    while after != 0:
        slot = after - 1
        after = np.int64(s.later[slot])
        b = np.int64(s.slot[slot])
        lane = lane_of(s, b)
        if pool < 0 or s.lanes[lane * LANE_WORDS + POOL] >> 1 == pool:
            log(s, FREE_COMPLETED, s.addr[b], s.asked[b], lane)
            complete(s, slot)


@apart
def sorted_pool(s, row):
    """Gather the free blocks of a pool into s.scratch in free-set order; returns their number."""
    n = np.int64(0)
    for lane in range(s.pool[row * POOL_WORDS + FIRST_LANE], s.pool[row * POOL_WORDS + END_LANE]):
        start = n
        n = gather(s, lane, start)
        sort_blocks(s, start, n)
    return n


@apart
def release_blocks(s, row):
    """Return every whole fixed segment of a pool, then every whole free page."""
    n = sorted_pool(s, row)
    kept = np.int64(0)
    for k in range(n):
        b = np.int64(s.scratch[k])
        if is_expandable(s, b):
            s.scratch[kept] = b
            kept += 1
        elif releasable(s, b):
            release_segment(s, b)
    for k in range(kept):
        unmap(s, np.int64(s.scratch[k]))


@apart
def release_pool(s, pool):
    """Release the cache of a freeable private pool; emptied, the pool is no more."""
    release_blocks(s, 2 * pool)
    release_blocks(s, 2 * pool + 1)
    if s.pool[2 * pool * POOL_WORDS + HELD] + s.pool[(2 * pool + 1) * POOL_WORDS + HELD] == 0:
        s.pool[2 * pool * POOL_WORDS + FREEABLE] = 0


@apart
def release_freeable_pools(s):
    """Release the caches of private pools that nobody uses any more."""
    for pool in range(1, s.opt[N_POOLS]):
        if s.pool[2 * pool * POOL_WORDS + FREEABLE] != 0:
            release_pool(s, pool)


@apart
def release_everything(s):
    """Synchronize and return all cached memory."""
    synchronize(s, np.int64(-1))
    release_blocks(s, np.int64(DEFAULT_LARGE))
    release_blocks(s, np.int64(DEFAULT_SMALL))
    release_freeable_pools(s)


@apart
def release_oversize(s, q):
    """Return oversize blocks until the request could be served; True if enough came free.

    What an unsuccessful attempt returned stays returned. An oversize block with neighbours (a
    start layout recorded under another max_split_size) is passed over like an expandable one.
    """
    wanted = max(s.classes[q + NEED], s.opt[MAX_SPLIT])
    n = gather(s, s.classes[q + LANE], np.int64(0))
    sort_blocks(s, np.int64(0), n)
    k = np.int64(0)
    while k < n and s.size[s.scratch[k]] < wanted:
        k += 1
    if k < n:
        b = np.int64(s.scratch[k])
        if releasable(s, b):
            release_segment(s, b)
            return True
    released = np.int64(0)
    k -= 1
    while k >= 0 and released < wanted:
        b = np.int64(s.scratch[k])
        size = s.size[b]
        if size < s.opt[MAX_SPLIT]:
            break
        if releasable(s, b):
            released += size
            release_segment(s, b)
        k -= 1
    return released >= wanted


@apart
def collect_garbage(s):
    """Return the oldest whole segments of the default large pool, if above the threshold."""
    threshold = s.opt[GC_BYTES] - 1
    if s.g[RESERVED] <= threshold:
        return
    target = s.g[RESERVED] - threshold
    clock = s.pool[DEFAULT_LARGE * POOL_WORDS + CLOCK]
    n = sorted_pool(s, np.int64(DEFAULT_LARGE))
    count, ages = np.int64(0), np.int64(0)
    for k in range(n):
        b = np.int64(s.scratch[k])
        if not is_split(s, b):
            count += 1
            ages += clock - s.born[b // ID_STEP]
    freed = np.int64(0)
    went_on = True
    while freed < target and went_on and count > 0:
        limit = ages / count  # fixed for the pass
        went_on = False
        for k in range(n):
            b = np.int64(s.scratch[k])
            if b == 0 or not releasable(s, b):
                continue
            age = clock - s.born[b // ID_STEP]
            if age >= limit:
                freed += s.size[b]
                ages -= age
                count -= 1
                went_on = True
                release_segment(s, b)
                s.scratch[k] = 0

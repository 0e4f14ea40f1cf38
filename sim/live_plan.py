"""A plan that grows: a running program's requests become known one after another.

Best fit wants the sizes of a lane ranked (index.py). A replay knows them all beforehand; here a
size takes its place among those of its lane when it is first asked for: the bins of larger ones
move up by one, and every block of the lane is put where it belongs by now. Which bins there are
decides nothing as long as each request's size begins one, so every answer is that of a plan which
knew all.

A lane that needs more bins than it has room for moves to twice the room. Whoever calls holds the
device's lock; the memory of bins and classes is there from the beginning, and taken when touched.
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline
from .expandable import home
from .index import UNIT_BITS, clear, end_bins, enter, rank
from .live_state import (
    KNOWN_WORDS,
    MOST_CLASSES,
    MOST_LANES,
    MOST_STREAMS,
    N_BINS,
    N_CLASSES,
)
from .state import (
    ASKED,
    BIN_SHIFT,
    BINS,
    CEILING,
    CELL_BIN,
    CELL_BITS,
    CELL_LIMIT,
    CELLS,
    CLASS_WORDS,
    DEAD,
    END_BIN,
    END_LANE,
    FIRST_BIN,
    FREE,
    FRONTIER,
    HIGHEST_ID,
    HUGE,
    ID_STEP,
    KIND_MASK,
    LANE,
    LANE_WORDS,
    LEAST_REST,
    NEED,
    POOL,
    POOL_WORDS,
    ROOM,
    SEGMENT,
    STATE_MASK,
    TABLE_UNITS,
    UNMAPPED,
    lane_of,
    state_of,
)

MOST_BINS = 1 << 22  # of a device
FEW_BINS = 64  # that a lane has room for at first
RANK_BITS = 8  # cells per octave = 2 ** these
LANE_CELLS = ((31 - RANK_BITS) << RANK_BITS) + (TABLE_UNITS >> (31 - RANK_BITS)) + 1
MASK = 2 * MOST_CLASSES - 1  # of the table of known requests
UNIT = 1 << UNIT_BITS


@inline
def _key(size, number):
    return size * MOST_STREAMS + number + 1


@inline
def _home_of(key):
    """Where a request's entry would be if nobody were in the way."""
    return ((((key ^ (key >> 21)) & 0x7FFFFFFF) * 40503) >> 5) & MASK


@inline
def find_class(p, size, number):
    """Class of requests of `size` bytes on the stream of a number; 0 if there was none so far."""
    key = _key(size, number)
    h = _home_of(key)
    while p.known[h * KNOWN_WORDS] != key:
        if p.known[h * KNOWN_WORDS] == 0:
            return np.int64(0)
        h = (h + 1) & MASK
    return p.known[h * KNOWN_WORDS + 1]


@inline
def _remember(p, size, number, klass):
    h = _home_of(_key(size, number))
    while p.known[h * KNOWN_WORDS] != 0:
        h = (h + 1) & MASK
    p.known[h * KNOWN_WORDS] = _key(size, number)
    p.known[h * KNOWN_WORDS + 1] = klass


@inline
def _place_of(s, base, n, need):
    """How many of a lane's n sizes, which begin at limit `base`, are less than `need`."""
    low, high = np.int64(0), n
    while low < high:
        middle = (low + high) >> 1
        if s.limits[base + middle] < need:
            low = middle + 1
        else:
            high = middle
    return low


@inline
def _make_room(s, p, lane, room):
    """Give a lane, whose bins are empty, room for more of them; whether there was some."""
    to, row = p.word[N_BINS], lane * LANE_WORDS
    if to + room > MOST_BINS:
        return False
    p.word[N_BINS] = to + room
    end_bins(s, to, to + room)
    old, n = s.lanes[row + BINS], s.lanes[row + FRONTIER] - s.lanes[row + BINS] - 1
    for k in range(n):
        s.limits[to + k] = s.limits[old + k]
    for g in range(to, to + room):
        s.lane_of_bin[g] = lane
    s.lanes[row + BINS] = to
    s.lanes[row + FRONTIER] = to + max(n, 0) + 1
    s.lanes[row + ROOM] = room
    return True


@inline
def _rank_cells(s, row):
    """Work a lane's rank table out again; as plan.py does for all sizes at once."""
    base, n = s.lanes[row + BINS], s.lanes[row + FRONTIER] - s.lanes[row + BINS] - 1
    bits, first = s.lanes[row + CELL_BITS], s.lanes[row + CELLS]
    k = np.int64(0)
    for c in range(LANE_CELLS):
        e = max((c >> bits) - 1, 0)
        least = ((c - (e << bits)) << e) * UNIT
        while k < n and s.limits[base + k] <= least:
            k += 1
        limit = min((s.limits[base + k] + UNIT - 1) // UNIT, CELL_LIMIT)
        s.cells[first + c] = ((base + k + 1) << CELL_BIN) - limit


@inline
def _put_blocks(s, lane):
    """Put every block of a lane, whose bins are empty, where it belongs."""
    for b in range(ID_STEP, s.g[HIGHEST_ID] + 1, ID_STEP):
        state = state_of(s, b)
        if state == DEAD or state == UNMAPPED or lane_of(s, b) != lane:
            continue
        kept = np.int64(s.tag[b]) & (KIND_MASK | STATE_MASK)
        if state == FREE:
            g = home(s, lane, np.int64(s.next[b]), s.size[b])
            s.child[b] = 0
            s.sibling[b] = 0
            s.back[b] = 0
            enter(s, b, g)
        else:
            g = rank(s, lane, s.size[b])
        s.tag[b] = (g << BIN_SHIFT) | kept


@inline
def _add_size(s, p, lane, need, at):
    """Let a bin of a lane begin at `need`, of which `at` sizes are less; whether there was room."""
    row = lane * LANE_WORDS
    before = s.lanes[row + BINS]
    n = s.lanes[row + FRONTIER] - before - 1
    for g in range(before, before + n + 2):
        clear(s, g)
    if n + 3 > s.lanes[row + ROOM] and not _make_room(s, p, lane, 2 * s.lanes[row + ROOM]):
        _put_blocks(s, lane)
        return False
    base = s.lanes[row + BINS]
    for k in range(n, at, -1):
        s.limits[base + k] = s.limits[base + k - 1]
    s.limits[base + at] = need
    s.limits[base + n + 1] = HUGE
    s.limits[base + n + 2] = 0
    s.lanes[row + FRONTIER] = base + n + 2
    _rank_cells(s, row)
    for k in range(1, p.word[N_CLASSES]):
        q = k * CLASS_WORDS
        if s.classes[q + LANE] == lane:
            first = s.classes[q + FIRST_BIN] - before
            s.classes[q + FIRST_BIN] = base + first + (1 if first > at else 0)
            s.classes[q + END_BIN] = base + n + 2
    _put_blocks(s, lane)
    return True


@inline
def add_class(s, p, size, number, need, segment, least_rest, ceiling, is_small):
    """Make a request known, and its class.

    Args:
        s: the policy's state and plan; modified in place.
        p: the LIVE buffer's fields; modified in place.
        size, number: bytes asked for, and the number of the stream, less than MOST_LANES.
        need, segment, least_rest, ceiling: as in the class table.
        is_small: 1: it is served from the small pool.

    Returns:
        Whether there was room.
    """
    lane = number + (0 if is_small != 0 else MOST_LANES)
    row = lane * LANE_WORDS
    if s.lanes[row + ROOM] == 0:
        if not _make_room(s, p, lane, np.int64(FEW_BINS)):
            return False
        s.limits[s.lanes[row + BINS]] = HUGE
        end = s.lanes[row + POOL] * POOL_WORDS + END_LANE
        s.pool[end] = max(s.pool[end], lane + 1)
    base = s.lanes[row + BINS]
    n = s.lanes[row + FRONTIER] - base - 1
    at = _place_of(s, base, n, need)
    if at == n or s.limits[base + at] != need:
        if not _add_size(s, p, lane, need, at):
            return False
    if p.word[N_CLASSES] == MOST_CLASSES:  # begin again: nothing else refers to a class
        p.word[N_CLASSES] = 1
        for k in range((MASK + 1) * KNOWN_WORDS):
            p.known[k] = 0
    klass = p.word[N_CLASSES]
    p.word[N_CLASSES] = klass + 1
    q = klass * CLASS_WORDS
    s.classes[q + NEED] = need
    s.classes[q + ASKED] = size
    s.classes[q + SEGMENT] = segment
    s.classes[q + LEAST_REST] = least_rest
    s.classes[q + LANE] = lane
    s.classes[q + FIRST_BIN] = s.lanes[row + BINS] + 1 + at
    s.classes[q + END_BIN] = s.lanes[row + FRONTIER]
    s.classes[q + CEILING] = ceiling
    _remember(p, size, number, klass)
    return True

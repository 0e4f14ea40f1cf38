"""The free sets: exact best fit in constant time, practically, plus O(log n) amortised.

Only request sizes matter for best fit, and a program's are known before it runs. The bin of a block
is the number of distinct request sizes of its lane that the block can hold; for a request of rank
j every block in bins >= j fits and none below does, so the answer is the least block of the first
non-empty bin >= j. A bitmap finds the bin, and a second one its words that are not empty, one word
of it for 4,096 bins. An intrusive pairing heap in free-set order holds the blocks of a bin
(Fredman, Sedgewick, Sleator, Tarjan: The pairing heap, 1986).
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline
from .apart import apart
from .assumed import keeps_ages
from .memory import count_leading_zeros, count_trailing_zeros
from .state import (
    BIN_SHIFT,
    BINS,
    CELL_BIN,
    CELL_BITS,
    CELL_ZEROS,
    CELLS,
    CLOCK,
    END_BIN,
    FIRST_BIN,
    FREE,
    FRONTIER,
    ID_STEP,
    KIND_MASK,
    LANE_WORDS,
    POOL,
    POOL_WORDS,
    STATE_MASK,
    TOP_UNITS,
    lane_of,
)
from .ties import before, order_of, set_order

UNIT_BITS = 9  # sizes are multiples of 512 bytes
_ONE = np.uint64(1)
_ZERO = np.uint64(0)


@inline
def rank(s, lane, size):
    """Bin of a block of `size` bytes: a log-linear table, then a step or, rarely, several."""
    row = lane * LANE_WORDS
    units = min(size >> UNIT_BITS, s.lanes[row + TOP_UNITS])
    bits = s.lanes[row + CELL_BITS]
    # 0 for sizes below the first octave
    e = s.lanes[row + CELL_ZEROS] - count_leading_zeros(units | (1 << bits))
    cell = s.cells[s.lanes[row + CELLS] + (e << bits) + (units >> e)]
    # Without a branch, as most cells hold one limit at most; in one load, as what follows waits.
    g = (cell + units) >> CELL_BIN
    while s.limits[g] <= size:
        g += 1
    return g


@inline
def end_bins(s, before, after):
    """Let searches end behind `after` bins instead of behind `before`, which are fewer."""
    s.bits0[(before >> 6) + 1] = _ZERO
    k = (after >> 6) + 1  # as in state_memory.py, open_state
    s.bits0[k] = _ONE
    s.bits1[k >> 6] |= _ONE << np.uint64(k & 63)


@inline
def first_bin(s, j):
    """First non-empty bin >= j; one beyond all bins if there is none."""
    k = j >> 6
    w = s.bits0[k] >> np.uint64(j & 63)
    if w != _ZERO:
        return j + count_trailing_zeros(w)
    return _climb(s, k + 1)


@inline
def _climb(s, k):
    # Summary bits are set at insertion and cleared here, when their word is found empty. The bin
    # beyond all others is never empty, so that the search ends.
    m = k >> 6
    w = s.bits1[m] >> np.uint64(k & 63) << np.uint64(k & 63)
    while True:
        while w != _ZERO:
            k = (m << 6) + count_trailing_zeros(w)
            below = s.bits0[k]
            if below != _ZERO:
                return (k << 6) + count_trailing_zeros(below)
            s.bits1[m] &= ~(_ONE << np.uint64(k & 63))
            w &= w - _ONE
        m += 1
        w = s.bits1[m]


@inline
def find(s, q):
    """Least free block (in free-set order) that holds request class q; 0 if there is none.

    Blocks in front of unmapped space (the frontier bin) are never returned.
    """
    g = first_bin(s, s.classes[q + FIRST_BIN])
    if g >= s.classes[q + END_BIN]:
        return np.int64(0)
    return np.int64(s.root[g])  # of bin 0, which is always empty, if there is no such bin


@inline
def meld(s, a, b):
    """Join two heaps; the lesser root becomes the parent."""
    if before(s, b, a):
        a, b = b, a
    c = np.int64(s.child[a])
    s.sibling[b] = c
    s.back[c] = b
    s.child[a] = b
    s.back[b] = a
    return a


@apart
def merge_pairs(s, x):
    """Join a list of sibling heaps in two passes; returns the root."""
    done = np.int64(0)
    while x != 0:
        a = x
        b = np.int64(s.sibling[a])
        if b == 0:
            s.sibling[a] = done
            done = a
            x = np.int64(0)
        else:
            x = np.int64(s.sibling[b])
            m = meld(s, a, b)
            s.sibling[m] = done
            done = m
    root = done
    if root != 0:
        x = np.int64(s.sibling[root])
        while x != 0:
            following = np.int64(s.sibling[x])
            root = meld(s, root, x)
            x = following
        s.sibling[root] = 0
        s.back[root] = 0
    return root


@inline
def _stamp(s, b):
    # A block's garbage-collection age counts from when it last entered the free set.
    if keeps_ages(s):
        pool = s.lanes[lane_of(s, b) * LANE_WORDS + POOL]
        s.born[b // ID_STEP] = s.pool[pool * POOL_WORDS + CLOCK]


@inline
def enter(s, b, g):
    """Put block b, whose links are all 0, into bin g."""
    r = np.int64(s.root[g])
    if r == 0:
        s.root[g] = b
        k = g >> 6
        s.bits0[k] |= _ONE << np.uint64(g & 63)
        s.bits1[k >> 6] |= _ONE << np.uint64(k & 63)
    else:
        m = meld(s, r, b)
        s.root[g] = m
        s.back[m] = 0
        s.sibling[m] = 0


@inline
def clear(s, g):
    """Leave bin g empty; what links its blocks have is left to the caller."""
    s.root[g] = 0
    s.bits0[g >> 6] &= ~(_ONE << np.uint64(g & 63))


@inline
def insert(s, b, g):
    """Put block b into bin g as a free block."""
    s.tag[b] = (g << BIN_SHIFT) | (s.tag[b] & KIND_MASK) | FREE
    s.child[b] = 0
    s.sibling[b] = 0
    s.back[b] = 0
    _stamp(s, b)
    enter(s, b, g)


@inline
def remove(s, b):
    """Take block b out of its bin; it becomes used and keeps the bin in its tag."""
    t = np.int64(s.tag[b])
    s.tag[b] = t & ~STATE_MASK
    if (s.back[b] | s.child[b]) == 0:
        clear(s, t >> BIN_SHIFT)
    else:
        _unlink(s, b, t >> BIN_SHIFT)


@inline
def _unlink(s, b, g):
    """Take block b out of the heap of bin g, which holds others."""
    parent = np.int64(s.back[b])
    below = np.int64(s.child[b])
    if below != 0 and s.sibling[below] != 0:
        below = merge_pairs(s, below)
    if parent == 0:
        s.root[g] = below
        s.back[below] = 0
        return
    following = np.int64(s.sibling[b])
    if s.child[parent] == b:
        s.child[parent] = following
    else:
        s.sibling[parent] = following
    s.back[following] = parent
    if below != 0:
        m = meld(s, np.int64(s.root[g]), below)
        s.root[g] = m
        s.back[m] = 0
        s.sibling[m] = 0


@inline
def move(s, b, size, addr, order, g):
    """Free block b changes to a new size, address and order, and its bin to g."""
    t = np.int64(s.tag[b])
    if (s.back[b] | s.child[b]) == 0:
        clear(s, t >> BIN_SHIFT)
    else:
        _unlink(s, b, t >> BIN_SHIFT)
        s.child[b] = 0
        s.sibling[b] = 0
        s.back[b] = 0
    s.size[b] = size
    s.addr[b] = addr
    set_order(s, b, order)
    s.tag[b] = (g << BIN_SHIFT) | (t & (KIND_MASK | STATE_MASK))
    _stamp(s, b)
    enter(s, b, g)


@inline
def stays(s, b, size, addr, order, g):
    """Change free block b where it is, if it keeps its place in the index; True if it did.

    A block that got smaller keeps it as the least of its bin, one that got larger if it has none
    below it.
    """
    link = s.back[b] if size < s.size[b] else s.child[b]
    # One branch instead of three: together they are easier to foresee.
    if (link != 0) | (g != s.tag[b] >> BIN_SHIFT) | (order_of(s, b) != order):
        return False
    s.size[b] = size
    s.addr[b] = addr
    _stamp(s, b)
    return True


@inline
def next_in_heap(s, x, root):
    """Preorder successor of x in the heap under root; 0 at the end."""
    if s.child[x] != 0:
        return np.int64(s.child[x])
    while True:
        if x == root:
            return np.int64(0)
        if s.sibling[x] != 0:
            return np.int64(s.sibling[x])
        while s.child[s.back[x]] != x:
            x = np.int64(s.back[x])
        x = np.int64(s.back[x])


@apart
def gather(s, lane, n):
    """Append the lane's free blocks to s.scratch from position n, unordered; returns the new n."""
    row = lane * LANE_WORDS
    end = s.lanes[row + FRONTIER]
    g = first_bin(s, s.lanes[row + BINS])
    while g <= end:
        root = np.int64(s.root[g])
        x = root
        while x != 0:
            s.scratch[n] = x
            n += 1
            x = next_in_heap(s, x, root)
        g = first_bin(s, g + 1)
    return n


@apart
def sort_blocks(s, start, end):
    """Sort s.scratch[start:end] into free-set order (shell sort; lists are short)."""
    gap = np.int64(1)
    while gap < (end - start) // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(start + gap, end):
            b = np.int64(s.scratch[i])
            j = i
            while j >= start + gap and before(s, b, np.int64(s.scratch[j - gap])):
                s.scratch[j] = s.scratch[j - gap]
                j -= gap
            s.scratch[j] = b
        gap //= 3

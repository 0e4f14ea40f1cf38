"""Fast packing: fill the lowest valley of the skyline with the most wanted buffer. Compiled.

The skyline starts flat. Of the buffers that live within the lowest stretch of it, the one with the
highest priority is laid there; where none does, the stretch rises to its lower neighbour. With the
longest lifespan as priority this is the best-fit of Sekiyama et al., Profile-guided memory
optimization for deep neural networks, 2018. A tree over the buffers, sorted by their beginning,
finds the most wanted one, so that a million buffers take seconds.
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline, kernel

STRETCHES, TODO = 0, 1  # where `_fill` stands
STEPS = 30_000  # done at a time, a few tenths of a second of a hard packing


@inline
def _push(heap, n, height, place):
    """Add a stretch to the heap of stretches, lowest first, then earliest."""
    k = n
    while k > 0:
        up = (k - 1) >> 1
        if heap[up, 0] < height or (heap[up, 0] == height and heap[up, 1] < place):
            break
        heap[k, 0] = heap[up, 0]
        heap[k, 1] = heap[up, 1]
        k = up
    heap[k, 0] = height
    heap[k, 1] = place


@inline
def _drop_first(heap, n):
    """Remove the lowest of n stretches."""
    height = heap[n - 1, 0]
    place = heap[n - 1, 1]
    n -= 1
    k = 0
    while 2 * k + 1 < n:
        down = 2 * k + 1
        if down + 1 < n and (
            heap[down + 1, 0] < heap[down, 0]
            or (heap[down + 1, 0] == heap[down, 0] and heap[down + 1, 1] < heap[down, 1])
        ):
            down += 1
        if height < heap[down, 0] or (height == heap[down, 0] and place < heap[down, 1]):
            break
        heap[k, 0] = heap[down, 0]
        heap[k, 1] = heap[down, 1]
        k = down
    heap[k, 0] = height
    heap[k, 1] = place


@inline
def _wanted(tree, width, low, high, end):
    """Return the buffer in rows low..high-1 of highest priority that ends by `end`, or -1.

    Args:
        tree: shape (2 * width, 2) int64; node k has its children in 2k and 2k + 1, row r of the
            buffers is leaf width + r. Columns: highest priority below (0 = none), earliest end.
    """
    stack = np.empty(160, np.int64)
    stack[0] = 1
    n = 1
    best = 0
    found = -1
    while n > 0:
        n -= 1
        node = stack[n]
        if tree[node, 0] <= best or tree[node, 1] > end:
            continue
        span = width
        begin = node
        while begin < width:
            begin <<= 1
        depth = node
        while depth > 1:
            depth >>= 1
            span >>= 1
        begin -= width
        if begin >= high or begin + span <= low:
            continue
        if node >= width:
            best = tree[node, 0]
            found = node - width
            continue
        near = 2 * node
        if tree[near, 0] < tree[near + 1, 0]:
            near += 1
        stack[n] = near ^ 1
        stack[n + 1] = near  # looked at first
        n += 2
    return found


def fill_skyline(
    first: np.ndarray, last: np.ndarray, size: np.ndarray, priority: np.ndarray, count: int
) -> np.ndarray:
    """Pack buffers; return their offsets.

    Compiled code does some steps at a time: Ctrl-C is heard between two pieces.

    Args:
        first, last: shape (n,) int64, half-open sections; sorted by first.
        size: bytes.
        priority: shape (n,) int64, > 0; highest first.
        count: number of sections.
    """
    offset = np.zeros(len(first), np.int64)
    at = np.array([1, len(first)], np.int64)
    tree, row, end, before, height, heap = _begin(first, last, priority, count)
    while at[TODO]:
        _fill(first, last, size, count, STEPS, at, tree, row, end, before, height, heap, offset)
    return offset


@kernel
def _begin(first, last, priority, count):
    """Return what `_fill` goes on from; arguments as for `fill_skyline`."""
    n = len(first)
    width = 1
    while width < n:
        width *= 2
    tree = np.zeros((2 * width, 2), np.int64)
    for k in range(width + n, 2 * width):
        tree[k, 1] = count + 1
    for i in range(n):
        tree[width + i, 0] = priority[i]
        tree[width + i, 1] = last[i]
    for k in range(width - 1, 0, -1):
        tree[k, 0] = max(tree[2 * k, 0], tree[2 * k + 1, 0])
        tree[k, 1] = min(tree[2 * k, 1], tree[2 * k + 1, 1])
    row = np.zeros(count + 2, np.int64)  # first buffer that begins in this section or later
    for i in range(n):
        row[first[i] + 1] += 1
    for s in range(count + 1):
        row[s + 1] += row[s]

    # Stretches of equal height: where they end, what lies before, how high; -1 = not a beginning.
    end = np.zeros(count + 1, np.int64)
    before = np.zeros(count + 1, np.int64)
    height = np.zeros(count + 1, np.int64)
    for s in range(1, count + 1):
        height[s] = -1
    heap = np.zeros((count + 3 * n + 8, 2), np.int64)
    end[0] = count
    return tree, row, end, before, height, heap


@kernel
def _fill(first, last, size, count, steps, at, tree, row, end, before, height, heap, offset):
    """Lay buffers or raise stretches, so many steps at the most; called again, it goes on.

    Args:
        first, last, size, count: as for `fill_skyline`.
        steps: how many.
        at: shape (2,) int64; stretches in the heap, buffers to lay.
        tree, row, end, before, height, heap: of `_begin`.
        offset: shape (n,) int64, output.
    """
    width = len(tree) // 2
    n_heap = at[STRETCHES]
    todo = at[TODO]
    while todo > 0 and steps > 0:
        steps -= 1
        h = heap[0, 0]
        a = heap[0, 1]
        if height[a] != h:  # it has risen or was merged since
            _drop_first(heap, n_heap)
            n_heap -= 1
            continue
        b = end[a]
        i = _wanted(tree, width, row[a], row[b], b)
        if i < 0:
            left = height[before[a]] if a > 0 else -1
            right = height[b] if b < count else -1
            _drop_first(heap, n_heap)
            n_heap -= 1
            up = right if left < 0 or 0 <= right < left else left
            height[a] = up
            if up == right:
                height[b] = -1
                end[a] = end[b]
                if end[b] < count:
                    before[end[b]] = a
            if up == left:
                height[a] = -1
                a = before[a]
                end[a] = end[b] if up == right else b
                if end[a] < count:
                    before[end[a]] = a
            _push(heap, n_heap, up, a)
            n_heap += 1
            continue
        todo -= 1
        offset[i] = h
        node = width + i
        tree[node, 0] = 0
        tree[node, 1] = count + 1
        node >>= 1
        while node > 0:
            tree[node, 0] = max(tree[2 * node, 0], tree[2 * node + 1, 0])
            tree[node, 1] = min(tree[2 * node, 1], tree[2 * node + 1, 1])
            node >>= 1
        f = first[i]
        g = last[i]
        top = h + size[i]
        if g < b:
            end[g] = b
            height[g] = h
            before[g] = f
            if b < count:
                before[b] = g
            _push(heap, n_heap, h, g)
            n_heap += 1
        elif b < count:
            before[b] = f
        end[f] = g
        if f > a:
            end[a] = f
            before[f] = a
        height[f] = top
        _push(heap, n_heap, top, f)
        n_heap += 1
    at[STRETCHES] = n_heap
    at[TODO] = todo

"""First fit: place buffers in a given order, each at the lowest offset where it fits. Compiled."""

from __future__ import annotations

import numpy as np

from ..traces.jit import kernel


@kernel
def first_fit(first, last, size, there, order, offset):
    """Place buffers one by one.

    What is placed is kept sorted by offset; a buffer looks at it from below until a gap is wide
    enough. Quadratic in the number of buffers, with a small constant.

    Args:
        first, last: shape (n,) int64, half-open sections.
        size: bytes.
        there: the buffers that are placed already, by ascending offset.
        order: the buffers to place, first to last.
        offset: shape (n,) int64; set for the buffers of `order`.

    Returns:
        The height of the packing, in bytes.
    """
    # Columns: offset, first, last, top. Rows in use: the first n_placed.
    placed = np.empty((len(there) + len(order), 4), np.int64)
    n_placed = 0
    height = 0
    for turn in range(len(there) + len(order)):
        if turn < len(there):
            i = there[turn]
            floor = offset[i]
        else:
            i = order[turn - len(there)]
            floor = 0
            for k in range(n_placed):
                if placed[k, 0] >= floor + size[i]:
                    break  # all further ones start even higher: the gap above the floor is free
                if placed[k, 1] < last[i] and first[i] < placed[k, 2] and placed[k, 3] > floor:
                    floor = placed[k, 3]
            offset[i] = floor
        k = n_placed
        while k > 0 and placed[k - 1, 0] > floor:
            for c in range(4):
                placed[k, c] = placed[k - 1, c]
            k -= 1
        placed[k, 0] = floor
        placed[k, 1] = first[i]
        placed[k, 2] = last[i]
        placed[k, 3] = floor + size[i]
        height = max(height, placed[k, 3])
        n_placed += 1
    return height

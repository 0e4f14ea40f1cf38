"""Binary buddies: sizes are powers of two, and only the two halves of a block ever join again.

Source: Knuth, The Art of Computer Programming, vol. 1, 2.5, algorithms R and S. Of the smallest
blocks that fit the lowest is taken; Knuth leaves that open. Memory comes in segments, each the root
of a tree of buddies.
"""

from __future__ import annotations

import numpy as np

from ..sim.free_tree import first_from, remove
from ..sim.ground import FREE
from ..sim.mechanism import Honours, Mechanism
from ..sim.memory import highest_bit
from ..sim.param import Param
from ..sim.span import BY_SIZE, cut, drop_whole_segments, enter, join, new_segment, take
from ..traces.units import GiB, KiB, MiB

MIN_BLOCK, SEGMENT = 0, 1  # parameters
TREE = 0


def allocate(m, size, lane):
    need = np.int64(1) << (highest_bit(max(size, m.param[MIN_BLOCK]) - 1) + 1)
    b = first_from(m, TREE, need, 0)
    if b != 0:
        take(m, b)
    else:
        b = new_segment(m, TREE, max(need, m.param[SEGMENT]))
        m.mark[b] = m.addr[b]  # where its segment begins
    if b != 0:
        while m.size[b] > need:
            m.mark[cut(m, b, m.size[b] // 2, BY_SIZE)] = m.mark[b]
    return b


def free(m, b):
    while True:
        size = m.size[b]
        is_left = (m.addr[b] - m.mark[b]) & size == 0
        other = np.int64(m.next[b] if is_left else m.prev[b])
        if other == 0 or m.state[other] != FREE or m.size[other] != size:
            break
        remove(m, TREE, other)
        if is_left:
            join(m, b, other)
        else:
            join(m, other, b)
            b = other
    m.state[b] = FREE
    enter(m, b, BY_SIZE)


def trim(m):
    return drop_whole_segments(m, TREE)


BUDDY = Mechanism(
    "buddy",
    "Knuth, The Art of Computer Programming, vol. 1, 2.5, algorithms R and S",
    allocate,
    free,
    trim,
    params=(
        Param("min_block", 512, 256, 64 * KiB, "the smallest block there is", "bytes", True),
        Param("segment", 64 * MiB, 2 * MiB, 4 * GiB, "the least to ask the driver for", "bytes",
              True),
    ),
    honours=Honours(returns=True),
)  # fmt: skip

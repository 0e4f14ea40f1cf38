"""Clairvoyant best fit: knows when each block will be free, and puts it beside what goes with it.

Of the smallest free block that fits, and those that are larger than the request by no more than the
slack, it takes the one whose left neighbour is freed nearest in time to the request; of equals the
smallest, then the lowest. So blocks that die together lie together, and leave one large hole. No
allocator knows this: its row says what knowing it would be worth.

Source: Belady's rule (1966) carried over from replacement to placement; the neighbour's remaining
lifetime as in Maas et al.: Learning-based memory allocation for C++ server workloads (ASPLOS 2020).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..sim.engine import MALLOC_REVIVES, OP_MASK
from ..sim.free_tree import first_from
from ..sim.mechanism import Foresight, Honours, Mechanism
from ..sim.packing import Packed
from ..sim.param import Param
from ..sim.span import BY_SIZE, cut_in_region, grow, release_in_region, shrink_region, take
from ..sim.state import HUGE, NOW
from ..traces.program import Op
from .planned import deaths
from .whole_device import PAGE, REGION, REGION_PARAMS, TREE, region_own, rounded

LOOK, SLACK = len(REGION_PARAMS), len(REGION_PARAMS) + 1  # parameters


def allocate(m, size, lane):
    need = rounded(m, size)
    death = m.hint[m.g[NOW]]
    best = np.int64(0)
    least = np.int64(HUGE)
    b = first_from(m, TREE, need, 0)
    for _ in range(m.param[LOOK]):
        if b == 0 or (best != 0 and m.size[b] - need > need * m.param[SLACK] // 100):
            break
        apart = np.int64(HUGE - 1)
        if m.prev[b] != 0:
            apart = abs(m.mark[m.prev[b]] - death)
        if apart < least:
            least = apart
            best = b
        b = first_from(m, TREE, m.key[b], m.tie[b] + 1)
    if best != 0:
        take(m, best)
    else:
        best = grow(m, REGION, TREE, need, m.param[PAGE])
    if best != 0:
        cut_in_region(m, REGION, best, need, BY_SIZE)
        m.mark[best] = death
    return best


def free(m, b):
    release_in_region(m, REGION, b, BY_SIZE)


def trim(m):
    return shrink_region(m, REGION, TREE, m.param[PAGE], BY_SIZE)


def foresight(packed: Packed, values: Mapping[str, int]) -> Foresight:
    """For each request the event at which its block is free again."""
    op = packed.events & OP_MASK
    is_malloc = (op == int(Op.MALLOC)) | (op == MALLOC_REVIVES)
    is_free = (op == int(Op.FREE)) | (op == int(Op.COMPLETE))
    return Foresight(deaths(is_malloc, is_free, packed.events >> 32))


CLAIRVOYANT = Mechanism(
    "clairvoyant",
    "Belady's rule (1966) for placement; Maas et al. (ASPLOS 2020) for lifetimes of neighbours",
    allocate,
    free,
    trim,
    params=(
        *REGION_PARAMS,
        Param("look", 16, 1, 256, "free blocks that it chooses between", log=True),
        Param("slack", 25, 0, 400, "how much larger than the request they may be", "%"),
    ),
    honours=Honours(returns=True, knows="when every block will be free"),
    own=region_own,
    foresight=foresight,
)

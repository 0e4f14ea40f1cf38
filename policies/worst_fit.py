"""Worst fit: the largest free block; of equals the lowest.

One region over the whole device, mapped page by page as it is needed; or segments.
What is not mapped yet does not count as free, or every request would be served from there.
"""

from __future__ import annotations

from ..sim.free_tree import first_fit, largest
from ..sim.mechanism import Honours, Mechanism
from ..sim.span import BY_ADDRESS
from .whole_device import FIT_PARAMS, TREE, give_back, hand_out, region_own, rounded, take_back


def allocate(m, size, lane):
    need = rounded(m, size)
    b = first_fit(m, TREE, max(need, largest(m, TREE)))
    return hand_out(m, b, need, BY_ADDRESS)


def free(m, b):
    take_back(m, b, BY_ADDRESS)


def trim(m):
    return give_back(m, BY_ADDRESS)


WORST_FIT = Mechanism(
    "worst_fit",
    "Wilson, Johnstone, Neely, Boles: Dynamic storage allocation (1995), 3.4, worst fit",
    allocate,
    free,
    trim,
    params=FIT_PARAMS,
    honours=Honours(returns=True),
    own=region_own,
)

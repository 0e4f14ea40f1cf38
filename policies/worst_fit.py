"""Worst fit: the largest free block; of equals the lowest.

One region over the whole device, mapped page by page as it is needed. What is not mapped yet does
not count as free, or every request would be served from there.
"""

from __future__ import annotations

from ..sim.free_tree import first_fit, largest
from ..sim.mechanism import Honours, Mechanism
from ..sim.span import BY_ADDRESS, cut_in_region, grow, release_in_region, shrink_region, take
from .whole_device import PAGE, REGION, REGION_PARAMS, region_own, rounded


def allocate(m, size, lane):
    need = rounded(m, size)
    b = first_fit(m, lane, max(need, largest(m, lane)))
    if b != 0:
        take(m, b)
    else:
        b = grow(m, REGION, lane, need, m.param[PAGE])
    if b != 0:
        cut_in_region(m, REGION, b, need, BY_ADDRESS)
    return b


def free(m, b):
    release_in_region(m, REGION, b, BY_ADDRESS)


def trim(m):
    return shrink_region(m, REGION, 0, m.param[PAGE], BY_ADDRESS)


WORST_FIT = Mechanism(
    "worst_fit",
    "Wilson, Johnstone, Neely, Boles: Dynamic storage allocation (1995), 3.4, worst fit",
    allocate,
    free,
    trim,
    params=REGION_PARAMS,
    honours=Honours(returns=True),
    own=region_own,
)

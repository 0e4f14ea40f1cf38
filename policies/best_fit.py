"""Best fit: the smallest free block that holds the request; of equals the lowest.

One region over the whole device, mapped page by page as it is needed.
"""

from __future__ import annotations

from ..sim.free_tree import first_from
from ..sim.mechanism import Honours, Mechanism
from ..sim.span import BY_SIZE, cut_in_region, grow, release_in_region, shrink_region, take
from .whole_device import PAGE, REGION, REGION_PARAMS, region_own, rounded


def allocate(m, size, lane):
    need = rounded(m, size)
    b = first_from(m, lane, need, 0)
    if b != 0:
        take(m, b)
    else:
        b = grow(m, REGION, lane, need, m.param[PAGE])
    if b != 0:
        cut_in_region(m, REGION, b, need, BY_SIZE)
    return b


def free(m, b):
    release_in_region(m, REGION, b, BY_SIZE)


def trim(m):
    return shrink_region(m, REGION, 0, m.param[PAGE], BY_SIZE)


BEST_FIT = Mechanism(
    "best_fit",
    "Knuth, The Art of Computer Programming, vol. 1, 2.5, best-fit method",
    allocate,
    free,
    trim,
    params=REGION_PARAMS,
    honours=Honours(returns=True),
    own=region_own,
)

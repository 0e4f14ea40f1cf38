"""First fit: the lowest free block that holds the request.

One region over the whole device, mapped page by page as it is needed.
"""

from __future__ import annotations

from ..sim.free_tree import first_fit
from ..sim.mechanism import Honours, Mechanism
from ..sim.span import BY_ADDRESS, cut_in_region, grow, release_in_region, shrink_region, take
from .whole_device import PAGE, REGION, REGION_PARAMS, region_own, rounded


def allocate(m, size, lane):
    need = rounded(m, size)
    b = first_fit(m, lane, need)
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


FIRST_FIT = Mechanism(
    "first_fit",
    "Knuth, The Art of Computer Programming, vol. 1, 2.5, algorithm A",
    allocate,
    free,
    trim,
    params=REGION_PARAMS,
    honours=Honours(returns=True),
    own=region_own,
)

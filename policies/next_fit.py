"""Next fit: first fit that starts where the last request was served, and wraps around once.

One region over the whole device, mapped page by page as it is needed.
"""

from __future__ import annotations

from ..sim.free_tree import first_fit, first_fit_from
from ..sim.mechanism import Honours, Mechanism
from ..sim.span import BY_ADDRESS, cut_in_region, grow, release_in_region, shrink_region, take
from .whole_device import PAGE, REGION, REGION_PARAMS, ROVER, region_own, rounded


def allocate(m, size, lane):
    need = rounded(m, size)
    b = first_fit_from(m, lane, need, 0, m.own[ROVER])
    if b == 0:
        b = first_fit(m, lane, need)
    if b != 0:
        take(m, b)
    else:
        b = grow(m, REGION, lane, need, m.param[PAGE])
    if b != 0:
        cut_in_region(m, REGION, b, need, BY_ADDRESS)
        m.own[ROVER] = m.addr[b] + need
    return b


def free(m, b):
    release_in_region(m, REGION, b, BY_ADDRESS)


def trim(m):
    return shrink_region(m, REGION, 0, m.param[PAGE], BY_ADDRESS)


NEXT_FIT = Mechanism(
    "next_fit",
    "Knuth, The Art of Computer Programming, vol. 1, 2.5, exercise 6 (a roving pointer)",
    allocate,
    free,
    trim,
    params=REGION_PARAMS,
    honours=Honours(returns=True),
    own=region_own,
)

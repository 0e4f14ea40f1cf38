"""Next fit: first fit that starts where the last request was served, and wraps around once.

One region over the whole device, mapped page by page as it is needed; or segments.
"""

from __future__ import annotations

from ..sim.free_tree import first_fit, first_fit_from
from ..sim.mechanism import Honours, Mechanism
from ..sim.span import BY_ADDRESS
from .whole_device import (
    FIT_PARAMS,
    ROVER,
    TREE,
    give_back,
    hand_out,
    region_own,
    rounded,
    take_back,
)


def allocate(m, size, lane):
    need = rounded(m, size)
    b = first_fit_from(m, TREE, need, 0, m.own[ROVER])
    if b == 0:
        b = first_fit(m, TREE, need)
    b = hand_out(m, b, need, BY_ADDRESS)
    if b != 0:
        m.own[ROVER] = m.addr[b] + need
    return b


def free(m, b):
    take_back(m, b, BY_ADDRESS)


def trim(m):
    return give_back(m, BY_ADDRESS)


NEXT_FIT = Mechanism(
    "next_fit",
    "Knuth, The Art of Computer Programming, vol. 1, 2.5, exercise 6 (a roving pointer)",
    allocate,
    free,
    trim,
    params=FIT_PARAMS,
    honours=Honours(returns=True),
    own=region_own,
)

"""First fit: the lowest free block that holds the request.

One region over the whole device, mapped page by page as it is needed; or segments.
"""

from __future__ import annotations

from ..sim.free_tree import first_fit
from ..sim.mechanism import Honours, Mechanism
from ..sim.span import BY_ADDRESS
from .whole_device import FIT_PARAMS, TREE, give_back, hand_out, region_own, rounded, take_back


def allocate(m, size, lane):
    need = rounded(m, size)
    return hand_out(m, first_fit(m, TREE, need), need, BY_ADDRESS)


def free(m, b):
    take_back(m, b, BY_ADDRESS)


def trim(m):
    return give_back(m, BY_ADDRESS)


FIRST_FIT = Mechanism(
    "first_fit",
    "Knuth, The Art of Computer Programming, vol. 1, 2.5, algorithm A",
    allocate,
    free,
    trim,
    params=FIT_PARAMS,
    honours=Honours(returns=True),
    own=region_own,
)

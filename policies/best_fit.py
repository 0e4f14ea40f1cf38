"""Best fit: the smallest free block that holds the request; of equals the lowest.

One region over the whole device, mapped page by page as it is needed; or segments.
"""

from __future__ import annotations

from ..sim.free_tree import first_from
from ..sim.mechanism import Honours, Mechanism
from ..sim.span import BY_SIZE
from .whole_device import FIT_PARAMS, TREE, give_back, hand_out, region_own, rounded, take_back


def allocate(m, size, lane):
    need = rounded(m, size)
    return hand_out(m, first_from(m, TREE, need, 0), need, BY_SIZE)


def free(m, b):
    take_back(m, b, BY_SIZE)


def trim(m):
    return give_back(m, BY_SIZE)


BEST_FIT = Mechanism(
    "best_fit",
    "Knuth, The Art of Computer Programming, vol. 1, 2.5, best-fit method",
    allocate,
    free,
    trim,
    params=FIT_PARAMS,
    honours=Honours(returns=True),
    own=region_own,
)

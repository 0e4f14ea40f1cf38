"""Two-level segregated fit: blocks in lists by size class, taken from a class where all fit.

A class is a power of two cut in equal parts. A request is served from the first class all of whose
blocks fit, the one freed last first; smaller blocks are not looked at, even if one would do.
One region over the whole device, mapped page by page as it is needed.

Source: Masmano, Ripoll, Crespo, Real: TLSF, a new dynamic memory allocator for real-time systems
(2004), 4: mapping_search, find_suitable_block, merge.
Differs: bitmaps and lists are one search tree here, which decides alike. The free end of the region
is used before the region grows, in whatever class it is.
"""

from __future__ import annotations

import numpy as np

from ..sim.free_tree import first_from
from ..sim.mechanism import Honours, Mechanism
from ..sim.memory import highest_bit
from ..sim.param import Param
from ..sim.span import (
    BY_CLASS,
    FIRST_TIE,
    cut_in_region,
    grow,
    release_in_region,
    shrink_region,
    size_class,
    take,
)
from .whole_device import PAGE, REGION, REGION_PARAMS, region_own, rounded

BITS = len(REGION_PARAMS)  # parameter


def allocate(m, size, lane):
    need = rounded(m, size)
    bits = m.param[BITS]
    # from here on every block of the class fits
    searched = need + (np.int64(1) << (highest_bit(need) - bits)) - 1
    b = first_from(m, lane, size_class(searched, bits), FIRST_TIE)
    if b != 0:
        take(m, b)
    else:
        b = grow(m, REGION, lane, need, m.param[PAGE])
    if b != 0:
        cut_in_region(m, REGION, b, need, BY_CLASS + bits)
    return b


def free(m, b):
    release_in_region(m, REGION, b, BY_CLASS + m.param[BITS])


def trim(m):
    return shrink_region(m, REGION, 0, m.param[PAGE], BY_CLASS + m.param[BITS])


TLSF = Mechanism(
    "tlsf",
    "Masmano, Ripoll, Crespo, Real: TLSF, a new dynamic memory allocator (2004)",
    allocate,
    free,
    trim,
    params=(
        *REGION_PARAMS,
        Param("class_bits", 5, 0, 6, "2 to this power classes to a doubling of the size"),
    ),
    honours=Honours(returns=True),
    own=region_own,
)

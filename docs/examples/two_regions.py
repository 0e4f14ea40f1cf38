"""Two regions: small requests never lie between large ones.

An allocator of its own, with a parameter to tune, written from docs/policies.md.
"""

from tightfit.sim.free_tree import first_from
from tightfit.sim.mechanism import Honours, Mechanism
from tightfit.sim.param import Param
from tightfit.sim.span import (
    BY_SIZE,
    REGION_WORDS,
    cut_in_region,
    grow,
    release_in_region,
    shrink_region,
    take,
)

BORDER = 0  # m.param[0]
PAGE = 2 << 20
SMALL, LARGE = 0, 1  # m.own[0] and m.own[1]: the trees of free blocks
REGIONS = 2  # from m.own[2] on: the two regions, REGION_WORDS each


def allocate(m, size, lane):
    tree = LARGE if size >= m.param[BORDER] else SMALL
    need = (size + 511) // 512 * 512
    b = first_from(m, tree, need, 0)  # the smallest free block that fits, of equals the lowest
    if b != 0:
        take(m, b)
    else:
        b = grow(m, REGIONS + tree * REGION_WORDS, tree, need, PAGE)
    if b != 0:
        cut_in_region(m, REGIONS + tree * REGION_WORDS, b, need, BY_SIZE)
    return b


def free(m, b):
    release_in_region(m, REGIONS + m.lane[b] * REGION_WORDS, b, BY_SIZE)


def trim(m):
    small = shrink_region(m, REGIONS, SMALL, PAGE, BY_SIZE)
    return small + shrink_region(m, REGIONS + REGION_WORDS, LARGE, PAGE, BY_SIZE)


TwoRegions = Mechanism(
    "two_regions",
    "an example of docs/policies.md, after dlmalloc's threshold for mmap",
    allocate,
    free,
    trim,
    params=(
        Param("border", 1 << 20, 4096, 1 << 30, "from here on a request is large", "bytes", True),
    ),
    honours=Honours(returns=True),
    own=lambda values, lanes: REGIONS + 2 * REGION_WORDS,
)

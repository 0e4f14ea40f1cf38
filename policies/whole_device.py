"""What the fits have in common: one region over the whole device, or segments of it.

With `segment` = 0 memory is one region that grows page by page; else it comes in cudaMallocs of at
least so many bytes, which do not touch and go back whole.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..sim.param import Param
from ..sim.span import (
    REGION_WORDS,
    cut,
    cut_in_region,
    drop_whole_segments,
    grow,
    new_segment,
    release,
    release_in_region,
    shrink_region,
    take,
)
from ..traces.jit import inline
from ..traces.units import GiB, KiB, MiB

QUANTUM, PAGE, SEGMENT = 0, 1, 2
REGION_PARAMS = (
    Param("quantum", 512, 256, 64 * KiB, "sizes round up to a multiple of it", "bytes", True),
    Param("page", 2 * MiB, 2 * MiB, GiB, "the region grows by multiples of it", "bytes", True),
)
FIT_PARAMS = (
    *REGION_PARAMS,
    Param("segment", 0, 0, 4 * GiB, "0 = one region; else memory comes in segments of at least it",
          "bytes"),
)  # fmt: skip

TREE = 0  # word of `own` with the root of the tree of free blocks
REGION = 1  # first word of `own` about the region
ROVER = REGION + REGION_WORDS  # where the last search ended, for next fit


def region_own(values: Mapping[str, int], lanes: int) -> int:
    """Words of `own` that such a policy needs."""
    return ROVER + 1


@inline
def rounded(m, size):
    quantum = m.param[QUANTUM]
    return (size + quantum - 1) // quantum * quantum


@inline
def hand_out(m, b, need, order):
    """Free block b, or new memory if it is 0, cut to size and used; 0 if the driver refused."""
    is_region = m.param[SEGMENT] == 0
    if b != 0:
        take(m, b)
    elif is_region:
        b = grow(m, REGION, TREE, need, m.param[PAGE])
    else:
        b = new_segment(m, TREE, max(need, m.param[SEGMENT]))
    if b != 0:
        if is_region:
            cut_in_region(m, REGION, b, need, order)
        elif m.size[b] > need:
            cut(m, b, need, order)
    return b


@inline
def take_back(m, b, order):
    """Make a used block free and coalesce it."""
    if m.param[SEGMENT] == 0:
        release_in_region(m, REGION, b, order)
    else:
        release(m, b, order)


@inline
def give_back(m, order):
    """Return the region's free end, or all segments that are free; returns the bytes."""
    if m.param[SEGMENT] == 0:
        return shrink_region(m, REGION, TREE, m.param[PAGE], order)
    return drop_whole_segments(m, TREE)

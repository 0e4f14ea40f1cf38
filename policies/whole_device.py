"""One region over the whole device: what the fits over it have in common."""

from __future__ import annotations

from collections.abc import Mapping

from ..sim.param import Param
from ..sim.span import REGION_WORDS
from ..traces.jit import inline
from ..traces.units import GiB, KiB, MiB

QUANTUM, PAGE = 0, 1
REGION_PARAMS = (
    Param("quantum", 512, 256, 64 * KiB, "sizes round up to a multiple of it", "bytes", True),
    Param("page", 2 * MiB, 2 * MiB, GiB, "the region grows by multiples of it", "bytes", True),
)

REGION = 1  # first word of `own` about the region; word 0 is the root of the tree of free blocks
ROVER = REGION + REGION_WORDS  # where the last search ended, for next fit


def region_own(values: Mapping[str, int], lanes: int) -> int:
    """Words of `own` that such a policy needs."""
    return ROVER + 1


@inline
def rounded(m, size):
    quantum = m.param[QUANTUM]
    return (size + quantum - 1) // quantum * quantum

"""Arenas: every stream cuts superblocks from a common arena, and returns them when they are whole.

Both the common arena and those of the streams are searched first fit in address order. Requests
from a superblock's size on come from the common arena.

Source: rmm/mr/device/detail/arena.hpp (RMM 22.02): arena::get_block, expand_arena, shrink_arena,
global_arena::get_block.
Differs: RMM takes half of the device at once and the rest later; here the common arena grows by
pages, or every program would reserve the whole device.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..sim.free_tree import first_fit
from ..sim.ground import USED
from ..sim.mechanism import Honours, Mechanism
from ..sim.param import Param
from ..sim.span import (
    BY_ADDRESS,
    REGION_WORDS,
    cut_in_region,
    grow,
    release_in_region,
    shrink_region,
    take,
)
from ..traces.jit import inline
from ..traces.units import GiB, KiB, MiB

SUPERBLOCK, PAGE = 0, 1  # parameters
REGION = 0  # words of `own` before the trees
COMMON = REGION_WORDS  # the common arena's tree; those of the streams follow
ALIGNMENT = 256


def own(values: Mapping[str, int], lanes: int) -> int:
    """The region, the common tree and one for each stream."""
    return REGION_WORDS + 1 + lanes


@inline
def _from_common(m, need):
    """A used block of the common arena; 0 if the driver refused."""
    b = first_fit(m, COMMON, need)
    if b != 0:
        take(m, b)
    else:
        b = grow(m, REGION, COMMON, need, m.param[PAGE])
    if b != 0:
        cut_in_region(m, REGION, b, need, BY_ADDRESS)
    return b


def allocate(m, size, lane):
    tree = COMMON + 1 + lane
    need = (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    b = np.int64(0)
    if need < m.param[SUPERBLOCK]:
        b = first_fit(m, tree, need)
    if b == 0:
        b = _from_common(m, max(need, m.param[SUPERBLOCK]))
        if b == 0:
            return b
        m.lane[b] = tree
        release_in_region(m, REGION, b, BY_ADDRESS)
        b = first_fit(m, tree, need)
    take(m, b)
    cut_in_region(m, REGION, b, need, BY_ADDRESS)
    return b


def free(m, b):
    b = release_in_region(m, REGION, b, BY_ADDRESS)
    if m.size[b] >= m.param[SUPERBLOCK]:
        take(m, b)
        m.state[b] = USED
        m.lane[b] = COMMON
        release_in_region(m, REGION, b, BY_ADDRESS)


def trim(m):
    return shrink_region(m, REGION, COMMON, m.param[PAGE], BY_ADDRESS)


ARENA = Mechanism(
    "arena",
    "RAPIDS RMM 22.02, rmm/mr/device/detail/arena.hpp",
    allocate,
    free,
    trim,
    params=(
        Param("superblock", 256 * KiB, 64 * KiB, 64 * MiB, "what a stream takes at least",
              "bytes", True),
        Param("page", 2 * MiB, 2 * MiB, GiB, "the arena grows by multiples of it", "bytes", True),
    ),
    honours=Honours(streams=True, returns=True),
    own=own,
)  # fmt: skip

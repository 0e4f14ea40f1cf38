"""Best fit with coalescing: TensorFlow's allocator, which XLA and JAX use too.

Regions grow by doubling. A chunk is split only if that leaves it a good fit, so the request may get
nearly twice what it asked for. Regions that are all free go back before it gives up.

Source: tensorflow/core/common_runtime/bfc_allocator.cc (2.7): AllocateRawInternal, FindChunkPtr,
Extend, DeallocateFreeRegions; with allow_growth and one region per cudaMalloc.
Differs: free regions are returned without first estimating whether that can be enough. TensorFlow
has no empty_cache: here it returns free regions too, and the regions after it grow from the first
size again, for else every call would lead to another doubling.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..sim.free_tree import first_from
from ..sim.ground_driver import room
from ..sim.mechanism import Honours, Mechanism
from ..sim.param import Param
from ..sim.span import BY_SIZE, cut, drop_whole_segments, new_segment, release, take
from ..sim.state import CAPACITY
from ..traces.jit import inline
from ..traces.units import GiB, MiB

FIRST_REGION, WASTE = 0, 1  # parameters
TREE, REGION_BYTES, BACKPEDALLED, REFUSED = 0, 1, 2, 3  # words of `own`
CHUNK = 256  # every size is a multiple


def own(values: Mapping[str, int], lanes: int) -> int:
    """A tree and three words."""
    return 4


@inline
def _whole_chunks(size):
    return (size + CHUNK - 1) // CHUNK * CHUNK


@inline
def _extend(m, need):
    """A used block that is a new region with room for `need` bytes; 0 if there is none."""
    available = room(m) // CHUNK * CHUNK
    if need > available:
        return np.int64(0)
    if m.own[REGION_BYTES] == 0:
        m.own[REGION_BYTES] = _whole_chunks(min(m.param[FIRST_REGION], m.opt[CAPACITY]))
    increased = False
    while m.own[REGION_BYTES] < need:
        m.own[REGION_BYTES] *= 2
        increased = True
    size = min(m.own[REGION_BYTES], available)
    b = new_segment(m, TREE, size)
    if b == 0 and m.own[BACKPEDALLED] == 0:
        m.own[BACKPEDALLED] = 1
        while b == 0:
            # in single precision, as the source has it
            size = _whole_chunks(np.int64(np.float32(size) * np.float32(0.9)))
            if size < need:
                break
            b = new_segment(m, TREE, size)
    if b != 0 and not increased:
        # what is more than the device has decides nothing, and would overflow one day
        m.own[REGION_BYTES] = 2 * min(m.own[REGION_BYTES], m.opt[CAPACITY] // 2)
    return b


def allocate(m, size, lane):
    need = _whole_chunks(size)
    b = first_from(m, TREE, need, 0)
    if b != 0:
        take(m, b)
    else:
        b = _extend(m, need)
    if b != 0 and (m.size[b] >= 2 * need or m.size[b] - need >= m.param[WASTE]):
        cut(m, b, need, BY_SIZE)
    m.own[REFUSED] = b == 0
    return b


def free(m, b):
    release(m, b, BY_SIZE)


def trim(m):
    given = drop_whole_segments(m, TREE)
    if given != 0 and m.own[REFUSED] == 0:  # empty_cache
        m.own[REGION_BYTES] = 0
    return given


BFC = Mechanism(
    "bfc",
    "TensorFlow 2.7, tensorflow/core/common_runtime/bfc_allocator.cc, with allow_growth",
    allocate,
    free,
    trim,
    params=(
        Param("first_region", 2 * MiB, MiB, 16 * GiB, "bytes of the first region", "bytes", True),
        Param("waste", 128 * MiB, MiB, GiB, "a rest of this size is always cut off", "bytes", True),
    ),
    honours=Honours(returns=True),
    own=own,
)

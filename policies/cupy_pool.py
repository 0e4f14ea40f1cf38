"""CuPy's memory pool: best fit over one cudaMalloc per miss, an arena for each stream.

Source: cupy/cuda/memory.pyx (CuPy 13), SingleDeviceMemoryPool: _malloc, _get_chunk, free,
free_all_blocks. Among chunks of one size CuPy's choice is arbitrary (a set's); here it is the
lowest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..sim.free_tree import first_from
from ..sim.mechanism import Honours, Mechanism
from ..sim.param import Param
from ..sim.span import BY_SIZE, cut, drop_whole_segments, new_segment, release, take
from ..sim.state import N_LANES
from ..traces.units import KiB

UNIT = 0


def own(values: Mapping[str, int], lanes: int) -> int:
    """One tree for each stream."""
    return lanes


def allocate(m, size, lane):
    unit = m.param[UNIT]
    need = (size + unit - 1) // unit * unit
    b = first_from(m, lane, need, 0)
    if b == 0:
        return new_segment(m, lane, need)
    take(m, b)
    if m.size[b] > need:
        cut(m, b, need, BY_SIZE)
    return b


def free(m, b):
    release(m, b, BY_SIZE)


def trim(m):
    given = np.int64(0)
    for lane in range(m.opt[N_LANES]):
        given += drop_whole_segments(m, lane)
    return given


CUPY_POOL = Mechanism(
    "cupy_pool",
    "CuPy 13, cupy/cuda/memory.pyx, SingleDeviceMemoryPool",
    allocate,
    free,
    trim,
    params=(
        Param("unit", 512, 256, 64 * KiB, "sizes round up to a multiple of it", "bytes", True),
    ),
    honours=Honours(streams=True, returns=True),
    own=own,
)

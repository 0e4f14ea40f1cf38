"""A model of cudaMallocAsync's default pool, as PyTorch uses it; not a claim about it.

The driver's algorithm is not published. This is best fit with coalescing over chunks of 32 MiB, the
step in which users see the pool grow, with memory of its own for each stream, and nothing returned
before memory runs out (PyTorch sets the release threshold so).

Source: CUDA C++ programming guide, stream ordered memory allocator, for what is promised;
Comfy-Org/ComfyUI#11154 for the step of 32 MiB.
Differs: the real pool may hand memory from one stream to another where it finds them in order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..sim.free_tree import first_from
from ..sim.mechanism import Honours, Mechanism
from ..sim.param import Param
from ..sim.span import BY_SIZE, cut, drop_whole_segments, new_segment, release, take
from ..sim.state import N_LANES
from ..traces.units import GiB, MiB

CHUNK = 0  # parameter
UNIT = 512


def own(values: Mapping[str, int], lanes: int) -> int:
    """One tree for each stream."""
    return lanes


def allocate(m, size, lane):
    need = (size + UNIT - 1) // UNIT * UNIT
    b = first_from(m, lane, need, 0)
    if b != 0:
        take(m, b)
    else:
        chunk = m.param[CHUNK]
        b = new_segment(m, lane, (need + chunk - 1) // chunk * chunk)
    if b != 0 and m.size[b] > need:
        cut(m, b, need, BY_SIZE)
    return b


def free(m, b):
    release(m, b, BY_SIZE)


def trim(m):
    given = np.int64(0)
    for lane in range(m.opt[N_LANES]):
        given += drop_whole_segments(m, lane)
    return given


CUDA_MALLOC_ASYNC = Mechanism(
    "cuda_malloc_async",
    "CUDA C++ programming guide, stream ordered memory allocator; ComfyUI#11154 for its step",
    allocate,
    free,
    trim,
    params=(
        Param("chunk", 32 * MiB, 2 * MiB, GiB, "the pool grows in steps of it", "bytes", True),
    ),
    honours=Honours(
        streams=True, returns=True, model="NVIDIA publishes no algorithm of cudaMallocAsync"
    ),
    own=own,
)

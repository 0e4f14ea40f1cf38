"""Rounding: PyTorch's allocator with coarser sizes, so that a freed block fits more requests.

A size rounds up to a multiple of the granularity or, if that is more, of a fraction of the power of
two below it. The first is what a block costs at least, the second bounds the waste of large ones.

Source: c10/core/AllocatorConfig.cpp, roundup_power2_next_division, without the thresholds that the
setting roundup_power2_divisions has.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..sim.param import Param
from ..traces.units import MiB
from .variant import Variant


def rounds(sizes: np.ndarray, values: Mapping[str, int]) -> np.ndarray:
    """Bytes of the blocks for some requests."""
    log2 = np.frexp(sizes.astype(np.float64))[1].astype(np.int64) - 1
    log2 -= (np.int64(1) << log2) > sizes  # a double can round a size up to a power of two
    step = np.maximum((np.int64(1) << log2) // values["divisions"], values["granularity"])
    return -(-sizes // step) * step


ROUNDING = Variant(
    "rounding",
    "c10/core/AllocatorConfig.cpp, roundup_power2_next_division, at every size",
    rounds=rounds,
    params=(
        Param("granularity", 512, 512, 2 * MiB, "every size is a multiple of it", "bytes", True),
        Param("divisions", 8, 1, 64, "steps between a power of two and the next", log=True),
    ),
)

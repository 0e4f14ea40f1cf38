"""Twins: every policy once more, in plain Python with lists, sharing no code with the kernels."""

from __future__ import annotations

from .arenas import Arena
from .fits import BestFit, FirstFit, NextFit, Tlsf, WorstFit
from .playing import Twin
from .segments import Bfc, Buddy, CudaMallocAsync, CupyPool
from .slabs import OneRegion, SizeClasses
from .stitched import Stitching
from .told import Clairvoyant, LifetimeClasses, Planned

TWINS: dict[str, type[Twin]] = {
    "best_fit": BestFit,
    "first_fit": FirstFit,
    "next_fit": NextFit,
    "worst_fit": WorstFit,
    "tlsf": Tlsf,
    "size_classes": SizeClasses,
    "buddy": Buddy,
    "bfc": Bfc,
    "cupy_pool": CupyPool,
    "arena": Arena,
    "one_region": OneRegion,
    "stitching": Stitching,
    "planned": Planned,
    "lifetime_classes": LifetimeClasses,
    "clairvoyant": Clairvoyant,
    "cuda_malloc_async": CudaMallocAsync,
}

"""The catalogue: every policy by name, one line each."""

from __future__ import annotations

from ..sim.mechanism import Mechanism
from .arena import ARENA
from .best_fit import BEST_FIT
from .bfc import BFC
from .buddy import BUDDY
from .clairvoyant import CLAIRVOYANT
from .cuda_malloc_async import CUDA_MALLOC_ASYNC
from .cupy_pool import CUPY_POOL
from .first_fit import FIRST_FIT
from .lifetime_classes import LIFETIME_CLASSES
from .next_fit import NEXT_FIT
from .one_region import ONE_REGION
from .planned import PLANNED
from .rounding import ROUNDING
from .size_classes import SIZE_CLASSES
from .stitching import STITCHING
from .tlsf import TLSF
from .variant import Variant
from .worst_fit import WORST_FIT

# Settings lines of the native allocator that have a name of their own.
NATIVE = {"pytorch": "", "expandable": "expandable_segments:True"}

# A policy with parameters that deserve a name of their own: policy, parameters.
PRESETS: dict[str, tuple[str, str]] = {
    f"{name}_segmented": (name, "segment=20MiB")
    for name in ("best_fit", "first_fit", "next_fit", "worst_fit")
}

MECHANISMS: dict[str, Mechanism] = {
    m.name: m
    for m in (
        BEST_FIT,
        FIRST_FIT,
        NEXT_FIT,
        WORST_FIT,
        TLSF,
        SIZE_CLASSES,
        BUDDY,
        BFC,
        CUPY_POOL,
        ARENA,
        ONE_REGION,
        STITCHING,
        LIFETIME_CLASSES,
        PLANNED,
        CLAIRVOYANT,
        CUDA_MALLOC_ASYNC,
    )
}

# Those that change PyTorch's decisions.
VARIANTS: dict[str, Variant] = {v.name: v for v in (ROUNDING,)}

POLICIES: dict[str, Mechanism | Variant] = {**MECHANISMS, **VARIANTS}

"""The native allocator's settings: one value per key of PYTORCH_CUDA_ALLOC_CONF."""

from __future__ import annotations

from dataclasses import dataclass

from ..traces.units import MiB

OFF = (1 << 63) - 1  # "no max_split_size": larger than any block


@dataclass(frozen=True)
class Settings:
    """Resolved settings of the native allocator; sizes in bytes.

    Source: c10/cuda/CUDAAllocatorConfig.h and c10/core/AllocatorConfig.h; defaults of 2.15.
    Keys that do not move device memory (pinned_*, release_lock_on_cudamalloc) are parsed, checked
    and kept in `conf` only.

    Attributes:
        conf: the line these settings were parsed from.
        roundup_divisions: 16 divisions; entry i serves sizes of [2**i, 2**(i+1)) MiB, entry 0 also
            everything below 1 MiB, entry 15 everything from 32 GiB.
        reserve_fraction, reserve_bytes: `expandable_segments_reserve`, at most one is not None.
    """

    conf: str = ""
    backend: str = "native"
    large_segment_size: int = 20 * MiB
    max_split_size: int = OFF
    max_non_split_rounding: int = 20 * MiB
    garbage_collection_threshold: float = 0.0
    roundup_divisions: tuple[int, ...] = (0,) * 16
    expandable_segments: bool = False
    per_process_memory_fraction: float = 1.0
    throw_on_cudamalloc_oom: bool = False
    graph_capture_record_stream_reuse: bool = False
    reserve_fraction: float | None = None
    reserve_bytes: int | None = None

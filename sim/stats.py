"""The full `memory_stats` counters, kept only when a run asks for them.

Source: c10/core/CachingDeviceAllocator.h, DeviceStats; torch/cuda/memory.py, memory_stats.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .apart import apart
from .state import (
    ALLOC_RETRIES,
    ASKED,
    DEVICE_ALLOCS,
    DEVICE_FREES,
    IS_EXPANDABLE,
    IS_SMALL,
    LANE_WORDS,
    MAX_SPLIT,
    OOM_REJECTIONS,
    OOMS,
    SYNCS,
    is_split,
    lane_of,
)

# Rows of s.stat: a statistic has three rows (all, small pool, large pool) of four values.
STATISTICS = (
    "allocation",
    "allocated_bytes",
    "active",
    "active_bytes",
    "requested_bytes",
    "segment",
    "reserved_bytes",
    "inactive_split",
    "inactive_split_bytes",
    "oversize_allocations",
    "oversize_segments",
)
(
    ALLOCATION, ALLOCATED_BYTES, ACTIVE, ACTIVE_BYTES, REQUESTED_BYTES, SEGMENTS, RESERVED_BYTES,
    INACTIVE_SPLIT, INACTIVE_SPLIT_BYTES, OVERSIZE_ALLOCATIONS, OVERSIZE_SEGMENTS,
) = range(11)  # fmt: skip
ROWS = ("all", "small_pool", "large_pool")
VALUES = ("current", "peak", "allocated", "freed")
N_STATS = len(STATISTICS) * len(ROWS) * len(VALUES)
_WITHOUT_POOLS = ("oversize_allocations", "oversize_segments")
_COUNTERS = {
    "num_alloc_retries": ALLOC_RETRIES,
    "num_ooms": OOMS,
    "num_sync_all_streams": SYNCS,
    "num_device_alloc": DEVICE_ALLOCS,
    "num_device_free": DEVICE_FREES,
    "num_oom_rejections": OOM_REJECTIONS,
}


@apart
def change(s, statistic, lane, amount):
    """Increase or decrease a statistic in its row "all" and in the row of the lane's pool."""
    row = 1 if s.lanes[lane * LANE_WORDS + IS_SMALL] != 0 else 2
    for k in range(2):
        i = (statistic * 3 + k * row) * 4
        s.stat[i] += amount
        if amount >= 0:
            s.stat[i + 2] += amount
            if s.stat[i] > s.stat[i + 1]:
                s.stat[i + 1] = s.stat[i]
        else:
            s.stat[i + 3] -= amount


@apart
def track_malloc(s, b, q, did_split):
    """Block b was handed out for request class q, after being split or not."""
    lane = lane_of(s, b)
    size = s.size[b]
    change(s, ALLOCATION, lane, 1)
    change(s, ALLOCATED_BYTES, lane, size)
    change(s, ACTIVE, lane, 1)
    change(s, ACTIVE_BYTES, lane, size)
    change(s, REQUESTED_BYTES, lane, s.classes[q + ASKED])
    if size >= s.opt[MAX_SPLIT]:
        change(s, OVERSIZE_ALLOCATIONS, lane, 1)
    if (s.tag[b] & IS_EXPANDABLE) != 0:
        return
    if did_split:
        rest = np.int64(s.next[b])
        if s.prev[b] != 0 or s.next[rest] != 0:  # the block was a piece before
            change(s, INACTIVE_SPLIT_BYTES, lane, -size)
        else:
            change(s, INACTIVE_SPLIT, lane, 1)
            change(s, INACTIVE_SPLIT_BYTES, lane, s.size[rest])
    elif is_split(s, b):
        change(s, INACTIVE_SPLIT, lane, -1)
        change(s, INACTIVE_SPLIT_BYTES, lane, -size)


@apart
def track_free_requested(s, b):
    lane = lane_of(s, b)
    change(s, ALLOCATION, lane, -1)
    change(s, ALLOCATED_BYTES, lane, -s.size[b])
    if s.size[b] >= s.opt[MAX_SPLIT]:
        change(s, OVERSIZE_ALLOCATIONS, lane, -1)


@apart
def track_free_completed(s, lane, size, asked, expandable, net_count, net_bytes):
    """A block of `size` bytes returned to the free set; net_*: change of inactive split memory."""
    change(s, ACTIVE, lane, -1)
    change(s, ACTIVE_BYTES, lane, -size)
    change(s, REQUESTED_BYTES, lane, -asked)
    if not expandable:
        change(s, INACTIVE_SPLIT, lane, net_count)
        change(s, INACTIVE_SPLIT_BYTES, lane, net_bytes)


def stat_index(statistic: int, row: int, value: int) -> int:
    """Index into the state's `stat` field."""
    return (statistic * 3 + row) * 4 + value


def flat_stats(stat: np.ndarray, g: Sequence[int], max_split_size: int) -> dict[str, int]:
    """Return the counters under the flat keys of `torch.cuda.memory_stats`.

    Args:
        stat: shape (>= N_STATS,) int64, the state's `stat` field.
        g: the state's counters.
        max_split_size: bytes; -1 when unlimited, as PyTorch prints it.
    """
    out: dict[str, int] = {}
    for k, name in enumerate(STATISTICS):
        for r, row in enumerate(ROWS):
            for v, value in enumerate(VALUES):
                amount = int(stat[stat_index(k, r, v)])
                if name in _WITHOUT_POOLS:
                    if r == 0:
                        out[f"{name}.{value}"] = amount
                else:
                    out[f"{name}.{row}.{value}"] = amount
    out.update({name: g[k] for name, k in _COUNTERS.items()})
    out["max_split_size"] = max_split_size
    return out

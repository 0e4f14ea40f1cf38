"""Run: the answer of one replay, the same from every engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..traces.program import Layout

# One row per thing the allocator did, in order: exactly what PyTorch's history would show.
RUN_EVENT = np.dtype(
    [
        ("op", "i8"),  # index of the program's op during which it happened
        ("action", "u1"),  # traces.event.Action
        ("addr", "u8"),  # for OOM the device's free bytes
        ("size", "i8"),  # requested for alloc/free_*, real for segment_*, rounded for oom
        ("stream", "i4"),  # index into Program.streams
        ("pool", "i4"),  # index into Program.pools
    ]
)


@dataclass
class Run:
    """What happened when a program met a policy on a device.

    Attributes:
        n_ops: ops carried out; less than the program's if it ended at an out-of-memory error.
        first_oom_op: index of the op that first ran out of memory, -1 if none did.
        first_oom_bytes: the rounded size it asked for.
        stats: flat `memory_stats` keys ("reserved_bytes.all.peak", "num_alloc_retries", ...).
        addr: shape (A,) uint64; address of each allocation; 0 = never served, or events not kept.
        events: RUN_EVENT rows; empty unless asked for.
        layout: final segments and blocks; None unless asked for.
        cut: it was ended as soon as more was reserved than asked about; what else it says is of
            the run until then.
        work: calls of the driver by name and their bytes (costs.py); the reference has none.
    """

    n_ops: int
    first_oom_op: int
    first_oom_bytes: int
    stats: dict[str, int]
    addr: np.ndarray
    events: np.ndarray = field(default_factory=lambda: np.zeros(0, RUN_EVENT))
    layout: Layout | None = None
    work: dict[str, int] = field(default_factory=dict)
    cut: bool = False

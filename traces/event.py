"""The vocabulary of a recording: what one trace entry says, column by column."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Action(IntEnum):
    """What an entry of a PyTorch allocation history reports.

    Source: c10/cuda/CUDACachingAllocator.h, TraceEntry::Action; the order is the enum's.
    """

    ALLOC = 0
    FREE_REQUESTED = 1
    FREE_COMPLETED = 2
    SEGMENT_ALLOC = 3
    SEGMENT_FREE = 4
    SEGMENT_MAP = 5
    SEGMENT_UNMAP = 6
    SNAPSHOT = 7
    OOM = 8
    ANNOTATE = 9
    OTHER = 10  # an action this reader does not know; its name stands in the entry's note


ACTION_NAMES = {a.name.lower(): a for a in Action if a is not Action.OTHER}


class BlockState(IntEnum):
    """State of a block in a snapshot's segments."""

    INACTIVE = 0  # cached and free for reuse
    ALLOCATED = 1  # "active_allocated"
    PENDING = 2  # "active_pending_free": freed, awaiting another stream


# One row per entry, oldest first. Every column is one array of this type.
ENTRY_COLUMNS = {
    "action": np.dtype("u1"),  # Action
    "addr": np.dtype("u8"),  # address; for OOM the device's free bytes (key `device_free`)
    "size": np.dtype("i8"),  # requested bytes for alloc/free_*, real for segment_*, rounded for oom
    "stream": np.dtype("u2"),  # index into Recording.streams
    "time_us": np.dtype("i8"),  # microseconds since the epoch; 0 where the release has no times
    "stack": np.dtype("u4"),  # index into Recording.stacks; 0 = none recorded
    "pool": np.dtype("u2"),  # index into Recording.pools; 0 = not recorded
    "note": np.dtype("u4"),  # index into Recording.notes; 0 = none
}

# One row per segment of the final state, in the order of the file.
SEGMENT_COLUMNS = {
    "address": np.dtype("u8"),
    "total_size": np.dtype("i8"),
    "allocated_size": np.dtype("i8"),  # as the file says; -1 = absent
    "active_size": np.dtype("i8"),  # as the file says; -1 = absent
    "requested_size": np.dtype("i8"),  # as the file says; -1 = absent
    "stream": np.dtype("u2"),
    "pool": np.dtype("u2"),
    "is_small": np.dtype("u1"),  # segment_type == "small"
    "is_expandable": np.dtype("u1"),
    "stack": np.dtype("u4"),
    "first_block": np.dtype("i8"),  # row of its first block; its blocks are consecutive rows
    "n_blocks": np.dtype("i8"),
}

# One row per block of the final state.
BLOCK_COLUMNS = {
    "address": np.dtype("u8"),  # computed by accumulation where the release does not record it
    "size": np.dtype("i8"),
    "requested_size": np.dtype("i8"),  # -1 = absent; stale for inactive blocks
    "state": np.dtype("u1"),  # BlockState
    "stack": np.dtype("u4"),
}


def empty_columns(columns: dict[str, np.dtype], n: int = 0) -> dict[str, np.ndarray]:
    """Return zeroed arrays of length n, one per declared column."""
    return {name: np.zeros(n, dtype) for name, dtype in columns.items()}

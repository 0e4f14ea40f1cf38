"""The words of a memory snapshot: keys, actions and states, numbered for the reader.

A string gets its number when it is first met; from then on a key is one small integer.
"""

from __future__ import annotations

import numpy as np

from .event import Action

KEYS = (
    "action", "addr", "device_free", "size", "stream", "time_us", "frames", "pool_id",
    "filename", "line", "name",
    "state", "requested_size", "address", "history", "real_size",
    "device", "total_size", "allocated_size", "active_size", "segment_type", "segment_pool_id",
    "is_expandable", "blocks", "cpp_frames",
)  # fmt: skip
(
    ACTION, ADDR, DEVICE_FREE, SIZE, STREAM, TIME_US, FRAMES, POOL_ID,
    FILENAME, LINE, NAME,
    STATE, REQUESTED_SIZE, ADDRESS, HISTORY, REAL_SIZE,
    DEVICE, TOTAL_SIZE, ALLOCATED_SIZE, ACTIVE_SIZE, SEGMENT_TYPE, SEGMENT_POOL_ID,
    IS_EXPANDABLE, BLOCKS, CPP_FRAMES,
) = range(1, len(KEYS) + 1)  # fmt: skip

# The documentation of PyTorch says awaiting, its code pending.
STATES = ("inactive", "active_allocated", "active_pending_free", "active_awaiting_free")
STATE_VALUES = (0, 1, 2, 2)  # BlockState of each
TYPES = ("large", "small")
ACTIONS = tuple(a.name.lower() for a in Action if a is not Action.OTHER)

FIRST_ACTION = 1 + len(KEYS)
FIRST_STATE = FIRST_ACTION + len(ACTIONS)
FIRST_TYPE = FIRST_STATE + len(STATES)
WORDS = (*KEYS, *ACTIONS, *STATES, *TYPES)

# Keys of a trace entry that have no column but are expected; others are news to a user.
EXPECTED_NOTES = {"compile_context", "user_metadata", "internal_metadata", "forward_frames"}


def word_table() -> tuple[np.ndarray, np.ndarray]:
    """Return all words as one run of bytes, and where each starts (one more offset at the end)."""
    encoded = [w.encode() for w in WORDS]
    offsets = np.cumsum([0, *(len(w) for w in encoded)]).astype(np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8).copy(), offsets


def mask(*keys: int) -> int:
    """Return the bit set of some keys."""
    return sum(1 << k for k in keys)

"""One device's recording in a program's terms: its streams and pools, signed addresses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .event import Action, BlockState

UNKNOWN = -1  # a pool, or a kind of memory, that the recording does not name
NEVER = int(np.iinfo(np.int64).max)  # as an entry: after the end; as a size: larger than any


@dataclass
class History:
    """One device's history in a program's terms.

    Attributes:
        action, addr, size, stream, pool, stack: one row per entry; addr and size int64, stream an
            index into the program's streams, pool into its pools or UNKNOWN.
        time: shape (n,) int64, microseconds; 0 where the release has none.
        segments, blocks: the final state, stream and pool likewise.
    """

    action: np.ndarray
    addr: np.ndarray
    size: np.ndarray
    stream: np.ndarray
    pool: np.ndarray
    stack: np.ndarray
    time: np.ndarray
    segments: dict[str, np.ndarray]
    blocks: dict[str, np.ndarray]


def _change(h: History) -> np.ndarray:
    """Return by how many bytes each entry changes the memory held from the driver."""
    sign = np.zeros(len(h.action), np.int64)
    sign[(h.action == Action.SEGMENT_ALLOC) | (h.action == Action.SEGMENT_MAP)] = 1
    sign[(h.action == Action.SEGMENT_FREE) | (h.action == Action.SEGMENT_UNMAP)] = -1
    return sign * h.size


def reserved_before(h: History) -> int:
    """Return the bytes held from the driver before the first entry."""
    return int(h.segments["total_size"].sum() - _change(h).sum())


def reserved_after(h: History) -> np.ndarray:
    """Return the bytes held from the driver after each entry."""
    return reserved_before(h) + np.cumsum(_change(h))


def completes_nothing(h: History) -> bool:
    """Return whether completed frees were left out of the recording.

    None is recorded, and the final state does not show the requested ones pending either.
    """
    requested = int((h.action == Action.FREE_REQUESTED).sum())
    pending = int((h.blocks["state"] == BlockState.PENDING).sum())
    return requested > pending and not (h.action == Action.FREE_COMPLETED).any()

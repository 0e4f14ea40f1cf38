"""Addresses as places: which segment, counted in order of appearance, and how far into it.

Two allocators that decide alike give every allocation the same place, wherever their segments lie.
An expandable reservation is one segment here, from its first mapping until nothing of it is mapped.
"""

from __future__ import annotations

from bisect import bisect_right, insort

import numpy as np

from ...traces.event import Action

# Columns of a table of places.
ACTION, SEGMENT, OFFSET, SIZE, STREAM, POOL = range(6)
RETURNS = (int(Action.SEGMENT_FREE), int(Action.SEGMENT_UNMAP))
SHOWN = tuple(
    int(a)
    for a in (
        Action.ALLOC, Action.FREE_REQUESTED, Action.FREE_COMPLETED, Action.SEGMENT_ALLOC,
        Action.SEGMENT_FREE, Action.SEGMENT_MAP, Action.SEGMENT_UNMAP, Action.OOM,
    )
)  # fmt: skip


class Places:
    """Segments seen so far; feed it the events in order."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.segments: dict[int, list[int]] = {}  # start -> number, end, bytes still there
        self.seen = 0

    def of(self, action: int, addr: int, size: int) -> tuple[int, int]:
        """Return (segment, offset) of an event; (-1, 0) where no segment holds the address."""
        if action == Action.OOM:
            return -1, 0
        if action == Action.SEGMENT_ALLOC:
            return self._begin(addr, size)
        at = bisect_right(self.starts, addr) - 1
        start = self.starts[at] if at >= 0 else 0
        segment = self.segments.get(start)
        if action == Action.SEGMENT_MAP:
            if segment is None or addr > segment[1]:
                return self._begin(addr, size)
            segment[1] = max(segment[1], addr + size)
            segment[2] += size
        elif segment is None or addr >= segment[1]:
            return -1, 0
        elif action in RETURNS:
            segment[2] -= size
            if segment[2] <= 0:
                self.starts.pop(at)
                del self.segments[start]
        return segment[0], addr - start

    def _begin(self, addr: int, size: int) -> tuple[int, int]:
        if addr not in self.segments:
            insort(self.starts, addr)
        self.segments[addr] = [self.seen, addr + size, size]
        self.seen += 1
        return self.seen - 1, 0


def table(
    action: np.ndarray, addr: np.ndarray, size: np.ndarray, stream: np.ndarray, pool: np.ndarray
) -> tuple[np.ndarray, Places]:
    """Return events as rows (action, segment, offset, size, stream, pool), and the places.

    Memory that is given back within one call is put in order of place: which of several segments
    goes first follows the slots of a hash table, and decides nothing.
    """
    places = Places()
    rows = np.empty((len(action), 6), np.int64)
    rows[:, ACTION], rows[:, SIZE], rows[:, STREAM], rows[:, POOL] = action, size, stream, pool
    where = [
        places.of(*event)
        for event in zip(action.tolist(), addr.tolist(), size.tolist(), strict=True)
    ]
    rows[:, [SEGMENT, OFFSET]] = np.array(where, np.int64).reshape(-1, 2)
    returned = np.isin(action, RETURNS)
    group = np.cumsum(~returned | ~np.append(False, returned[:-1]))
    keys = np.where(returned, rows[:, SEGMENT], 0), np.where(returned, rows[:, OFFSET], 0)
    return rows[np.lexsort((keys[1], keys[0], group))], places

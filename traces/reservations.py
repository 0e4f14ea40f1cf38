"""Expandable memory over time: what is mapped, and which reservation it lies in.

Pages are mapped into and unmapped from a reservation of addresses, which itself leaves no trace:
where one begins, and which mapped runs share one, has to be concluded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .errors import TraceError
from .event import Action
from .open_reservations import OpenReservations, Reservation
from .view import UNKNOWN, History


@dataclass(frozen=True)
class Evidence:
    """What requests and blocks say about the memory they lie in.

    Attributes:
        served_small: shape (k,); for each segment entry whether the next request served belongs
            to the small pool (1/0), UNKNOWN if none follows.
        addresses, first, is_small: shape (d,); addresses of blocks, ascending, the first entry
            at each, and whether that block belonged to the small pool.
        large_page: bytes mapped at a time for the large pool.
        peak: bytes; all memory held at once, at most.
    """

    served_small: np.ndarray
    addresses: np.ndarray
    first: np.ndarray
    is_small: np.ndarray
    large_page: int
    peak: int


class Table:
    """Rows of Extents under construction."""

    NAMES = ("address", "size", "stream", "pool", "is_small", "is_expandable", "reservation")

    def __init__(self) -> None:
        self.rows: list[list[int]] = []
        self.birth: dict[int, int] = {}  # row -> entry
        self.final: dict[int, int] = {}  # row -> final segment

    def add(self, *values: int) -> int:
        self.rows.append(list(values))
        return len(self.rows) - 1

    def columns(self) -> dict[str, np.ndarray]:
        data = np.array(self.rows, np.int64).reshape(-1, len(self.NAMES))
        return {name: data[:, k].copy() for k, name in enumerate(self.NAMES)}


class Reservations:
    """Expandable memory: what is mapped, and which reservation it belongs to."""

    def __init__(
        self,
        h: History,
        entries: np.ndarray,
        action: list[int],
        bounds: np.ndarray,
        pieces: np.ndarray,
        table: Table,
        defects: Counter[str],
    ) -> None:
        self.h, self.entries, self.action = h, entries, action
        self.bounds, self.pieces = bounds, pieces
        self.table, self.defects = table, defects
        self.open = OpenReservations(bounds)
        self.all: list[Reservation] = []
        self.start_rows: list[int] = []

    def _mapped_entries(self) -> list[int]:
        kinds = (Action.SEGMENT_MAP, Action.SEGMENT_UNMAP)
        return [j for j, a in enumerate(self.action) if a in kinds]

    def roll_back(
        self, final_begin: np.ndarray, final_end: np.ndarray, large_page: int
    ) -> np.ndarray:
        """Undo maps and unmaps; return for each piece whether it was mapped at the start.

        Also notes each piece's stream, pool and kind at the start as far as they show, and the
        entry that first unmaps it.
        """
        n = max(len(self.bounds) - 1, 0)
        s = self.h.segments
        mapped = np.zeros(n, bool)
        self.stream, self.pool, self.small = (np.full(n, UNKNOWN, np.int64) for _ in range(3))
        self.until = np.full(n, len(self.h.action), np.int64)
        low, high = (
            np.searchsorted(self.bounds, final_begin),
            np.searchsorted(self.bounds, final_end),
        )
        for k in np.flatnonzero(s["is_expandable"]).tolist():
            at = slice(int(low[k]), int(high[k]))
            mapped[at] = True
            self.stream[at], self.pool[at], self.small[at] = (
                s["stream"][k], s["pool"][k], s["is_small"][k],
            )  # fmt: skip
        for j in reversed(self._mapped_entries()):
            i = int(self.entries[j])
            at = slice(int(self.pieces[j, 0]), int(self.pieces[j, 1]))
            if self.action[j] == Action.SEGMENT_MAP:
                if not mapped[at].all():
                    self.defects["lost_segment_free"] += 1
                mapped[at] = False
            else:
                if mapped[at].any():
                    self.defects["lost_segment_alloc"] += 1
                mapped[at] = True
                self.stream[at], self.pool[at] = self.h.stream[i], self.h.pool[i]
                # Large memory is unmapped in whole large pages.
                self.small[at] = 1 if int(self.h.size[i]) % large_page else UNKNOWN
                self.until[at] = i
        return mapped

    def found_at_start(self, mapped: np.ndarray, evidence: Evidence, others: np.ndarray) -> None:
        """Gather the pieces mapped at the start into runs, and these into reservations.

        Two runs of one stream, pool and kind lie in one reservation unless other memory stands
        between them: PyTorch opens a second one only when the first, larger than the device, has
        no room. Where pool or kind is not known they must also be near: pages are mapped at the
        lowest address with room, so a hole was mapped once and is no larger than all memory held.

        Args:
            mapped: shape (p,) bool; pieces mapped at the start.
            evidence: what blocks say.
            others: addresses of the other segments at the start, ascending.
        """
        low = np.searchsorted(evidence.addresses, self.bounds[:-1])
        high = np.searchsorted(evidence.addresses, self.bounds[1:])
        for k in np.flatnonzero(mapped & (self.small == UNKNOWN) & (low < high)).tolist():
            at = int(low[k]) + int(evidence.first[low[k] : high[k]].argmin())
            if evidence.first[at] < self.until[k]:
                self.small[k] = evidence.is_small[at]
        last: Reservation | None = None
        for k in np.flatnonzero(mapped).tolist():
            begin, end = int(self.bounds[k]), int(self.bounds[k + 1])
            stream, pool, small = int(self.stream[k]), int(self.pool[k]), int(self.small[k])
            if last is None or not (
                last.stream == stream
                and (UNKNOWN in (pool, last.pool) or pool == last.pool)
                and (UNKNOWN in (small, last.small) or small == last.small)
                and (
                    UNKNOWN not in (pool, last.pool, small, last.small)
                    or begin - last.high <= evidence.peak
                )
                and np.searchsorted(others, last.high) == np.searchsorted(others, begin)
            ):
                last = self._opened(begin, stream, small, pool, -1)
            last.resolve(small, pool)
            if last.rows and last.high == begin:
                self.table.rows[last.rows[-1]][1] += end - begin
            else:
                row = self.table.add(begin, end - begin, stream, UNKNOWN, UNKNOWN, 1, 0)
                last.rows.append(row)
                self.start_rows.append(row)
            self.open.grow(last, last.low, end)
            last.mapped += end - begin

    def roll_forward(self, evidence: Evidence) -> None:
        """Give every map and unmap its reservation.

        New pages are always mapped at the lowest address of a hole, and in front of a hole lies
        mapped memory or the reservation's base: a map that begins in no open reservation opens
        one.
        """
        for j in self._mapped_entries():
            i = int(self.entries[j])
            address, size = int(self.h.addr[i]), int(self.h.size[i])
            stream, pool = int(self.h.stream[i]), int(self.h.pool[i])
            if self.action[j] == Action.SEGMENT_MAP:
                small = int(evidence.served_small[j])
                r = self._find(address, stream, small, pool, evidence.peak)
                if r is None:
                    r = self._opened(address, stream, small, pool, i)
                r.resolve(small, pool)
                row = self.table.add(address, size, stream, UNKNOWN, UNKNOWN, 1, 0)
                self.table.birth[row] = i
                r.rows.append(row)
                self.open.grow(r, address, address + size)
                r.mapped += size
            else:
                for r in self.open.holding(address)[:1]:
                    r.resolve(UNKNOWN, pool)
                    r.mapped -= size
                    if r.mapped <= 0:
                        self.open.remove(r)
            self._check_overlap(f"entry {i:,}")

    def _check_overlap(self, where: str) -> None:
        """Refuse memory mapped over memory so often that looking through it all takes too long."""
        if self.open.looks < 0:
            raise TraceError(
                f"{where}: found expandable memory mapped over memory that is mapped, again and "
                "again; expected every address to be mapped once at a time"
            )

    def _opened(self, at: int, stream: int, small: int, pool: int, birth: int) -> Reservation:
        r = Reservation(at, at, 0, stream, small, pool, birth, len(self.all))
        self.open.add(r)
        self.all.append(r)
        return r

    def _find(
        self, address: int, stream: int, small: int, pool: int, peak: int
    ) -> Reservation | None:
        """Return the open reservation a map begins in, or None if it opens one."""

        def fits(r: Reservation) -> bool:
            return (
                r.stream == stream
                and (UNKNOWN in (small, r.small) or small == r.small)
                and (UNKNOWN in (pool, r.pool) or pool == r.pool)
            )

        for r in self.open.holding(address, with_end=True):
            if fits(r):
                return r
        # The base of a reservation that was there before may lie below all that shows of it,
        # unless another one begins in between.
        for r in self.open.next_above(address):
            if r.birth < 0 and r.low <= address + peak and fits(r):
                return r
        return None

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Write each reservation's attributes into its rows; return those of the final segments."""
        s = self.h.segments
        n = len(s["address"])
        base, birth = np.zeros(n, np.int64), np.full(n, -1, np.int64)
        for k in np.flatnonzero(s["is_expandable"]).tolist():
            base[k] = address = int(s["address"][k])
            for r in self.open.holding(address):
                # The final state knows; it outranks what requests suggested.
                r.small, r.pool = int(s["is_small"][k]), int(s["pool"][k])
                base[k], birth[k] = r.low, r.birth
            self._check_overlap(f"segment {k:,}")
        for r in self.all:
            for row in r.rows:
                self.table.rows[row][3:7] = [r.pool, max(r.small, 0), 1, r.low]
        return base, birth

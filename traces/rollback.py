"""Driver memory over time: which segments existed when, rolled back from the final state.

A snapshot shows the segments of its last moment. Undoing the recorded segment entries backwards
gives those of the first. Non-expandable segments come and go whole; expandable memory is mapped
and unmapped by pieces of a reservation, which itself leaves no trace.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from .event import Action
from .reservations import Evidence, Reservations, Table
from .units import MiB
from .view import UNKNOWN, History


@dataclass
class Extents:
    """Memory obtained from the driver: one row per segment or mapped run, from birth to release.

    Attributes:
        address, size, stream, pool, is_small, is_expandable, reservation: columns, int64. Pool
            may be UNKNOWN; reservation as in a Layout.
        group: int64; the same for all rows of one reservation: its first row. Else the row itself.
        start: rows that existed when the recording began, by address.
        entries: indices of the segment entries, ascending.
        created: shape (k,) int32; row each segment entry creates, or -1.
        bounds: shape (p + 1,) int64; every address where memory begins or ends.
        pieces: shape (k, 2) int64; half-open range of pieces each segment entry covers.
        owner: shape (p,) int32; row each piece belongs to at the start, or -1.
        final_reservation: shape (segments,) int64; reservation of each final segment.
        final_birth: shape (segments,) int64; entry of each final segment's (or its reservation's)
            creation, -1 = before the recording.
        defects: kind of contradiction -> how often.
    """

    address: np.ndarray
    size: np.ndarray
    stream: np.ndarray
    pool: np.ndarray
    is_small: np.ndarray
    is_expandable: np.ndarray
    reservation: np.ndarray
    group: np.ndarray
    start: np.ndarray
    entries: np.ndarray
    created: np.ndarray
    bounds: np.ndarray
    pieces: np.ndarray
    owner: np.ndarray
    final_reservation: np.ndarray
    final_birth: np.ndarray
    defects: Counter[str]


def roll_back(h: History, evidence: Evidence) -> Extents:
    """Reconstruct the driver memory of a whole history.

    Args:
        h: the history.
        evidence: what requests and blocks say about the memory they lie in.
    """
    is_segment_entry = (h.action >= Action.SEGMENT_ALLOC) & (h.action <= Action.SEGMENT_UNMAP)
    entries = np.flatnonzero(is_segment_entry)
    action = h.action[entries].tolist()
    begin = h.addr[entries]
    end = begin + h.size[entries]
    final_begin = h.segments["address"].astype(np.int64)
    final_end = final_begin + h.segments["total_size"]
    bounds = np.unique(np.concatenate([begin, end, final_begin, final_end]))
    pieces = np.stack([np.searchsorted(bounds, begin), np.searchsorted(bounds, end)], axis=1)
    table = Table()
    created = np.full(len(entries), -1, np.int32)
    defects: Counter[str] = Counter()
    fixed = _roll_back_fixed(h, entries, action, table, defects)
    reservations = Reservations(h, entries, action, bounds, pieces, table, defects)
    mapped = reservations.roll_back(final_begin, final_end, evidence.large_page)
    others = np.array(sorted(table.rows[row][0] for row in fixed), np.int64)
    reservations.found_at_start(mapped, evidence, others)
    reservations.roll_forward(evidence)
    final_reservation, final_birth = reservations.finish()
    group = np.arange(len(table.rows))
    for r in reservations.all:
        group[r.rows] = r.rows[0]

    start_rows = np.array(fixed + reservations.start_rows, np.int64)
    columns = table.columns()
    start = start_rows[np.argsort(columns["address"][start_rows], kind="stable")]
    owner = np.full(max(len(bounds) - 1, 0), -1, np.int32)
    low = np.searchsorted(bounds, columns["address"][start])
    high = np.searchsorted(bounds, columns["address"][start] + columns["size"][start])
    for row, lo, hi in zip(start.tolist(), low.tolist(), high.tolist(), strict=True):
        owner[lo:hi] = row
    where = {int(entry): k for k, entry in enumerate(entries)}
    for row, entry in table.birth.items():
        created[where[entry]] = row
        if not columns["is_expandable"][row]:
            final = table.final.get(row)
            if final is not None:
                final_birth[final] = entry
    return Extents(
        **columns,
        group=group,
        start=start,
        entries=entries,
        created=created,
        bounds=bounds,
        pieces=pieces.astype(np.int64),
        owner=owner,
        final_reservation=final_reservation,
        final_birth=final_birth,
        defects=defects,
    )


def _roll_back_fixed(
    h: History,
    entries: np.ndarray,
    action: list[int],
    table: Table,
    defects: Counter[str],
) -> list[int]:
    """Undo cudaMalloc and cudaFree from the last to the first; return the rows at the start."""
    alive: dict[int, int] = {}
    s = h.segments
    for k in np.flatnonzero(s["is_expandable"] == 0).tolist():
        row = table.add(
            int(s["address"][k]), int(s["total_size"][k]), int(s["stream"][k]), int(s["pool"][k]),
            int(s["is_small"][k]), 0, 0,
        )  # fmt: skip
        alive[int(s["address"][k])] = row
        table.final[row] = k
    for j in range(len(entries) - 1, -1, -1):
        if action[j] not in (Action.SEGMENT_ALLOC, Action.SEGMENT_FREE):
            continue
        i = int(entries[j])
        address, size = int(h.addr[i]), int(h.size[i])
        stream, pool = int(h.stream[i]), int(h.pool[i])
        if action[j] == Action.SEGMENT_ALLOC:
            row = alive.pop(address, -1)
            if row < 0:
                # Nothing freed it, and yet it is gone.
                defects["lost_segment_free"] += 1
                row = table.add(address, size, stream, pool, int(size == 2 * MiB), 0, 0)
            elif table.rows[row][1] != size:
                defects["segment_size_changed"] += 1
            if table.rows[row][3] == UNKNOWN:
                table.rows[row][3] = pool
            table.birth[row] = i
        elif address in alive:
            # Alive after its release without an allocation between: the same segment, as far as
            # can be told.
            defects["lost_segment_alloc"] += 1
        else:
            alive[address] = table.add(address, size, stream, pool, int(size == 2 * MiB), 0, 0)
    return list(alive.values())

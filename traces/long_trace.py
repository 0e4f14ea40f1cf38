"""Long traces: a program's events in a file that need never be in memory as a whole.

docs/decisions/0008-long-traces.md describes the format.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .long_program import LongProgram
from .program import LAYOUT_BLOCK_COLUMNS, LAYOUT_SEGMENT_COLUMNS, Op

OP_MASK = 15  # of a word; the rest of it: event_words.py

SUFFIX = ".events"
MAGIC = b"tightfit-events\n"
VERSION = 1
FRONT = struct.Struct("<16sQQQ32s")  # magic, version, offset and length of the tables, their hash
EVENTS_AT = 4096  # bytes before the first event: a page
PIECE = 1 << 20  # events with a checksum of their own, unless the writer is told otherwise
HASH_BYTES = 32
_REQUESTS = {
    "req_size": np.dtype("<i8"), "req_stream": np.dtype("<i4"), "req_pool": np.dtype("<i4"),
    "streams": np.dtype("<i8"), "start_request": np.dtype("<i4"), "hashes": np.dtype("u1"),
    "entry_hashes": np.dtype("u1"),
}  # fmt: skip
TABLES = {
    **_REQUESTS,
    **{f"segments.{name}": d.newbyteorder("<") for name, d in LAYOUT_SEGMENT_COLUMNS.items()},
    **{f"blocks.{name}": d.newbyteorder("<") for name, d in LAYOUT_BLOCK_COLUMNS.items()},
}


@dataclass
class LongTrace:
    """A long trace, open for reading.

    Attributes:
        name: file name.
        program: everything but the events; its own columns of ops are empty.
        events: shape (n,) int64, words of `event_words`, those that place the start's allocations
            first; mapped from the file, so that a page is in memory only while it is used.
        prefix: how many those are.
        piece: events that have a checksum of their own, and are in memory together.
        entry: shape (n - prefix,) int64; as in Program; None = see entry_of.
        hashes: SHA-256 of each piece of events, then of each piece of entries.
        starts_as_recorded: the start layout is the recorded one.
        n_slots, max_live: as in sim.packing.Packed.
        settings: as in Recording.
        peak_requested_bytes: most bytes requested by active blocks at once.
        peak_wanted_bytes: the same with requests that failed when they were recorded.
        end_requested_bytes: what is requested by active blocks at the end.
    """

    name: str
    program: LongProgram
    events: np.ndarray
    prefix: int
    piece: int
    entry: np.ndarray | None
    hashes: list[bytes]
    starts_as_recorded: bool
    n_slots: int
    max_live: int
    settings: dict[str, Any]
    extra: dict[str, Any]
    peak_requested_bytes: int = 0
    peak_wanted_bytes: int = 0
    end_requested_bytes: int = 0
    _map: mmap.mmap | None = field(default=None, repr=False)

    def entry_of(self, op: int) -> int:
        """The recorded entry that op number `op` stands for; -1 = none of its own.

        Where no entries are kept, every op stands for one, and a FREE for two: requested and
        completed.
        """
        if self.entry is not None:
            return int(self.entry[op])
        frees = 0
        for first in range(self.prefix, self.prefix + op, self.piece):
            last = min(first + self.piece, self.prefix + op)
            frees += int(np.count_nonzero(self.events[first:last] & OP_MASK == Op.FREE))
            self.give_back(first, last)
        return op + frees

    def give_back(self, first: int, last: int) -> None:
        """Tell the system that the pages of events [first, last) are not needed now.

        They are read again, from its cache or the disk, should somebody use them.
        """
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            low = (EVENTS_AT + 8 * first) // mmap.PAGESIZE * mmap.PAGESIZE
            high = (EVENTS_AT + 8 * last) // mmap.PAGESIZE * mmap.PAGESIZE
            if high > low:
                self._map.madvise(mmap.MADV_DONTNEED, low, high - low)


def is_long(path: Path) -> bool:
    """Whether a file begins as a long trace does; of a pipe, that reading would take it away."""
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False

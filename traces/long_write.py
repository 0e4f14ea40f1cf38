"""Writing a long trace, piece by piece."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import IO, Any

import numpy as np

from .long_program import LongProgram
from .long_trace import EVENTS_AT, FRONT, MAGIC, PIECE, TABLES, VERSION


class LongWriter:
    """Writes a long trace, the events first.

    Args:
        out: a new file, open for writing.
        piece: events with a checksum of their own.
    """

    def __init__(self, out: IO[bytes], piece: int = PIECE) -> None:
        self.out, self.piece = out, piece
        self.n = self.entries = 0
        self._hashes: list[bytes] = []
        self._of_entries: list[bytes] = []
        self._digest, self._room = hashlib.sha256(), self.piece
        out.write(bytes(EVENTS_AT))

    def add(self, words: np.ndarray) -> None:
        """Append events."""
        self.n += len(words)
        self._write(words, self._hashes)

    def add_entries(self, entry: np.ndarray) -> None:
        """Append the recorded entry of each event, when all events are there."""
        if not self.entries:
            self._end_piece(self._hashes)
        self.entries += len(entry)
        self._write(entry, self._of_entries)

    def _write(self, words: np.ndarray, hashes: list[bytes]) -> None:
        words = np.ascontiguousarray(words, "<i8")
        while len(words):
            part, words = words[: self._room], words[self._room :]
            self.out.write(part.data)
            self._digest.update(part.data)
            self._room -= len(part)
            if not self._room:
                self._end_piece(hashes)

    def _end_piece(self, hashes: list[bytes]) -> None:
        if self._room < self.piece:
            hashes.append(self._digest.digest())
        self._digest, self._room = hashlib.sha256(), self.piece

    def finish(
        self,
        program: LongProgram,
        n_slots: int,
        max_live: int,
        prefix: int = 0,
        starts_as_recorded: bool = False,
        settings: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Write everything else; arguments as in LongTrace."""
        self._end_piece(self._of_entries if self.entries else self._hashes)
        columns = {
            "req_size": program.req_size,
            "req_stream": program.req_stream,
            "req_pool": program.req_pool,
            "streams": program.streams,
            "start_request": program.request,
            "hashes": np.frombuffer(b"".join(self._hashes), np.uint8),
            "entry_hashes": np.frombuffer(b"".join(self._of_entries), np.uint8),
            **{f"segments.{k}": v for k, v in program.start.segments.items()},
            **{f"blocks.{k}": v for k, v in program.start.blocks.items()},
        }
        header = {
            "device": program.device, "events": self.n, "prefix": prefix, "piece": self.piece,
            "has_entries": bool(self.entries), "starts_as_recorded": starts_as_recorded,
            "slots": n_slots, "most_live": max_live, "pools": program.pools,
            "complete": program.complete, "settings": settings or {}, "extra": extra or {},
            "findings": [asdict(f) for f in program.findings],
            "columns": {name: len(column) for name, column in columns.items()},
        }  # fmt: skip
        text = json.dumps(header, separators=(",", ":")).encode()
        raw = [np.ascontiguousarray(c, TABLES[name]).tobytes() for name, c in columns.items()]
        tables = b"".join([len(text).to_bytes(8, "little"), text, *raw])
        at = EVENTS_AT + 8 * (self.n + self.entries)
        self.out.write(tables)
        self.out.seek(0)
        digest = hashlib.sha256(tables).digest()
        self.out.write(FRONT.pack(MAGIC, VERSION, at, len(tables), digest))
        self.out.seek(0, os.SEEK_END)

"""Packing a program piece by piece: event words of ops whose whole is never in memory."""

from __future__ import annotations

import numpy as np

from .errors import TraceError
from .event_words import MOST_CLASSES, MOST_SLOTS, pack_rows
from .long_program import LongProgram
from .synthetic import Piece


class LongPacker:
    """Turns pieces of a program of one stream into event words, in order.

    What it keeps grows with the live allocations and the distinct sizes, not with the program. The
    words are those of sim.packing.pack, but for the numbers of the classes: here a size gets its
    class when it is first asked for.

    Attributes:
        max_live: most allocations held so far.
        peak_requested_bytes: most bytes in them.
    """

    def __init__(self) -> None:
        self.max_live = self.peak_requested_bytes = 0
        self._class_of: dict[int, int] = {}
        self._live = np.zeros(0, np.int64)  # numbers of the live allocations, ascending
        self._klass, self._slot = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._spare, self._state = np.zeros(1024, np.int64), np.array([0, 1], np.int64)
        self._n_allocs = self._requested = 0

    @property
    def n_slots(self) -> int:
        """Slots used, slot 0 included."""
        return int(self._state[1])

    def words(self, piece: Piece) -> np.ndarray:
        """The words of the next piece, shape (n,) int64.

        Raises:
            TraceError: there are more distinct sizes, or live allocations, than can be numbered.
        """
        born = len(piece.size)
        number = np.concatenate([self._live, self._n_allocs + np.arange(born)])
        klass = np.concatenate([self._klass, self._classes(piece.size)])
        slot = np.concatenate([self._slot, np.zeros(born, np.int64)])
        alloc = piece.alloc.astype(np.int64)
        new = alloc >= self._n_allocs
        at = np.where(new, alloc - self._n_allocs + len(self._live), 0)
        at[~new] = np.searchsorted(self._live, alloc[~new])
        room = self.n_slots + born + 1
        if room > len(self._spare):
            spare = np.zeros(2 * room, np.int64)
            spare[: len(self._spare)] = self._spare
            self._spare = spare
        words = np.zeros(len(alloc), np.int64)
        pack_rows(piece.is_malloc, at, klass, slot, self._spare, self._state, words)
        if self.n_slots >= MOST_SLOTS:
            raise TraceError(f"found {self.n_slots:,} allocations live at once, too many to number")
        self._count(piece.is_malloc, at, klass)
        lives = np.ones(len(number), bool)
        lives[at[~piece.is_malloc]] = False
        self._live, self._klass, self._slot = number[lives], klass[lives], slot[lives]
        self._n_allocs += born
        return words

    def _classes(self, size: np.ndarray) -> np.ndarray:
        found, inverse = np.unique(size, return_inverse=True)
        classes = [self._class_of.setdefault(s, len(self._class_of) + 1) for s in found.tolist()]
        if len(self._class_of) >= MOST_CLASSES - 1:
            raise TraceError(f"found {len(self._class_of):,} distinct sizes, too many to number")
        return np.array(classes, np.int64)[inverse]

    def _count(self, is_malloc: np.ndarray, at: np.ndarray, klass: np.ndarray) -> None:
        sizes = self._sizes()
        live = len(self._live) + np.cumsum(np.where(is_malloc, 1, -1))
        size = sizes[klass[at]]
        requested = self._requested + np.cumsum(np.where(is_malloc, size, -size))
        self.max_live = max(self.max_live, int(live.max(initial=0)))
        self.peak_requested_bytes = max(self.peak_requested_bytes, int(requested.max(initial=0)))
        self._requested = int(requested[-1]) if len(requested) else self._requested

    def _sizes(self) -> np.ndarray:
        """Bytes of each class, class 0 none."""
        return np.array([0, *self._class_of], np.int64)

    def program(self) -> LongProgram:
        """Everything about the program but its words."""
        n = len(self._class_of)
        return LongProgram(
            device=0,
            op=np.zeros(0, np.uint8),
            arg=np.zeros(0, np.int32),
            entry=np.zeros(0, np.int64),
            request=np.zeros(0, np.int32),
            req_size=self._sizes()[1:],
            req_stream=np.zeros(n, np.int32),
            req_pool=np.zeros(n, np.int32),
            streams=np.zeros(1, np.int64),
            pools=[(0, 0)],
        )

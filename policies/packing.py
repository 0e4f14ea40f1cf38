"""Packing: the smallest memory in which a program could have run, had it known its future.

No allocator knows what will be asked next; a packing does, and so bounds what any allocator and
any setting could reach. Fast heuristics first (packing_skyline, packing_firstfit), then the exact
search (packing_search) below ceilings between the bound and the best height known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .packing_bound import Sections, sections_of
from .packing_buffers import Buffers, lifetimes_of
from .packing_firstfit import first_fit
from .packing_peel import peel
from .packing_restarts import Restarts
from .packing_search import INFEASIBLE, SOLVED
from .packing_skyline import fill_skyline

__all__ = ["Buffers", "Packing", "lifetimes_of", "pack"]

MOST_FIRST_FIT = 30_000  # buffers; it is quadratic
MOST_SEARCHED = 30_000  # buffers left after peeling; a step of the search costs time for each
PATIENCE = 0.4  # share of the time left for the first attempt, which aims at the bound itself

Progress = Callable[[int, int, float], object]


@dataclass(frozen=True)
class Packing:
    """Where each buffer lies.

    Attributes:
        offsets: shape (n,) int64, bytes.
        height: bytes that this packing needs.
        bound: bytes; no packing needs less.
        interrupted: Ctrl-C ended the search; the packing is the best until then.
    """

    offsets: np.ndarray
    height: int
    bound: int
    interrupted: bool = False

    @property
    def proven(self) -> bool:
        """No packing is lower."""
        return self.height == self.bound


def pack(
    buffers: Buffers,
    capacity: int | None = None,
    seconds: float = 10.0,
    progress: Progress | None = None,
) -> Packing:
    """Pack buffers as low as time allows.

    Args:
        buffers: what to pack.
        capacity: bytes that are low enough; None = as low as possible.
        seconds: for the search; the fast heuristics always run, even if they take longer.
        progress: called now and then with (height, bound, seconds gone).
    """
    attempt = _Attempt(buffers, capacity, seconds, progress)
    interrupted = False
    try:
        attempt.heuristics()
        attempt.improve()
    except KeyboardInterrupt:
        if attempt.offsets is None:
            raise
        interrupted = True
    assert attempt.offsets is not None
    return Packing(attempt.offsets, attempt.height, attempt.bound, interrupted)


class _Attempt:
    """The state of one call: the best packing so far and what is proven."""

    def __init__(
        self, buffers: Buffers, capacity: int | None, seconds: float, progress: Progress | None
    ) -> None:
        self.buffers = buffers
        self.sections: Sections = sections_of(buffers)
        self.unit = int(np.gcd.reduce(buffers.size)) if len(buffers) else 1
        self.bound = self.sections.peak
        self.capacity = capacity
        self.offsets: np.ndarray | None = None
        self.height = 1 << 62
        self.start = time.monotonic()
        self.until = self.start + seconds
        self.progress = progress
        self.searches: dict[bytes, Restarts] = {}

    @property
    def is_done(self) -> bool:
        """Low enough, or nothing lower is possible."""
        return self.height <= max(self.bound, self.capacity or 0)

    @property
    def left(self) -> float:
        """Seconds until time is up."""
        return self.until - time.monotonic()

    def tick(self) -> None:
        """Tell whoever waits."""
        if self.progress is not None:
            self.progress(self.height, self.bound, time.monotonic() - self.start)

    def keep(self, offsets: np.ndarray) -> None:
        """Remember a packing if it is the lowest."""
        height = int((offsets + self.buffers.size).max(initial=0))
        if height < self.height:
            self.offsets, self.height = offsets, height
        self.tick()

    def heuristics(self) -> None:
        """Pack in several fast ways."""
        size, sections = self.buffers.size, self.sections
        if not len(size):
            self.keep(np.zeros(0, np.int64))
            return
        length = (sections.last - sections.first).astype(float)
        by_begin = np.argsort(sections.first, kind="stable")
        first = sections.first[by_begin].astype(np.int64)
        last = sections.last[by_begin].astype(np.int64)
        sizes = size[by_begin].astype(np.int64)
        wishes = [length * size, length + size / (1.0 + size.max()), size * 1.0]
        for wish in wishes:
            priority = np.empty(len(size), np.int64)
            priority[np.argsort(wish[by_begin], kind="stable")] = np.arange(1, len(size) + 1)
            offsets = np.empty(len(size), np.int64)
            offsets[by_begin] = fill_skyline(first, last, sizes, priority, sections.count)
            self.keep(offsets)
            if self.is_done or (self.left < 0 and len(size) > MOST_FIRST_FIT):
                return
        if len(size) <= MOST_FIRST_FIT:
            for wish in wishes:
                offsets = np.full(len(size), -1, np.int64)
                self.add_first_fit(offsets, np.argsort(-wish, kind="stable"))
                self.keep(offsets)
                if self.is_done:
                    return

    def add_first_fit(self, offsets: np.ndarray, order: np.ndarray) -> None:
        """Add the buffers of `order` to those that have an offset."""
        there = np.flatnonzero(offsets >= 0)
        there = there[np.argsort(offsets[there], kind="stable")]
        sections = self.sections
        first_fit(sections.first, sections.last, self.buffers.size, there, order, offsets)

    def improve(self) -> None:
        """Search below ceilings: first at the bound, then halving what is left open."""
        if self.capacity is not None:
            while not self.is_done and self.left > 0 and self.capacity >= self.bound:
                if not self.search(self.capacity, self.left):
                    return
            return
        low = self.bound - self.unit  # the highest ceiling at which a search has failed
        share = PATIENCE
        while not self.is_done and self.left > 0:
            ceiling = self.bound if low < self.bound else (low + self.height) // 2
            ceiling -= ceiling % self.unit
            if ceiling <= low or ceiling >= self.height:
                low = (
                    self.bound - self.unit
                )  # nothing between: begin again, with more time for each
                share = min(1.0, 2 * share)
                continue
            if not self.search(ceiling, max(0.05, share * self.left)):
                return
            if self.height > ceiling:
                low = max(ceiling, self.bound - self.unit)
                share = PATIENCE / 2

    def search(self, ceiling: int, seconds: float) -> bool:
        """Search below one ceiling; return False where there is too much to search."""
        peeled = peel(self.sections, self.buffers.size, ceiling, self.unit)
        rest = np.ones(len(self.buffers), bool)
        for rows in peeled:
            rest[rows] = False
        if rest.sum() > MOST_SEARCHED:
            return False
        key = np.packbits(rest).tobytes()
        if key not in self.searches:
            self.searches = {key: Restarts(self.buffers.take(rest))}  # one at a time: they are big
        result, found = self.searches[key].below(ceiling, seconds, self.tick)
        if result == INFEASIBLE:
            self.bound = max(self.bound, ceiling // self.unit * self.unit + self.unit)
        if result == SOLVED and found is not None:
            offsets = np.full(len(rest), -1, np.int64)
            offsets[rest] = found
            for rows in reversed(peeled):
                self.add_first_fit(offsets, rows)
            self.keep(offsets)
        return True

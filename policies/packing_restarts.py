"""Restarts of the exact search: several orders of trying, small budgets first.

How long a search takes depends wildly on the order in which candidates are tried, so many short
searches in different orders find what one long search would miss. What failed is remembered
across all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from .packing_board import CELL, FRAME, HUGE, TRAIL, Board, Paths
from .packing_bound import Sections, sections_of
from .packing_buffers import Buffers
from .packing_search import EDGES, FULL, INFEASIBLE, LEVEL, MORE, NODES, NOTHING, SOLVED, search

BUDGET = 2000  # goals of the shortest search
SLICE = 0.03  # seconds between two looks at the clock
NOISE = 0.5  # of the logarithm by which buffers are ordered, from the second round on
# Order of trying (see _priorities), and which candidates come first whatever the order says.
ORDERS = (("long", 0), ("large", LEVEL), ("tight", EDGES), ("short", 0))


def luby(k: int) -> int:
    """Return term k (from 1) of 1 1 2 1 1 2 4 ..., the best budgets when nothing is known.

    Source: Luby, Sinclair and Zuckerman, Optimal speedup of Las Vegas algorithms, 1993.
    """
    while True:
        bits = k.bit_length()
        if k == (1 << bits) - 1:
            return 1 << (bits - 1)
        k -= (1 << (bits - 1)) - 1


class Restarts:
    """The exact search on one set of buffers, for any number of ceilings.

    Args:
        buffers: what to pack.
        seed: of the orders; equal seeds give equal searches.
    """

    def __init__(self, buffers: Buffers, seed: int = 0) -> None:
        self.sections: Sections = sections_of(buffers)
        n = len(buffers)
        first, last = self.sections.first, self.sections.last
        self.unit = int(np.gcd.reduce(buffers.size)) if n else 1
        self.order = np.lexsort((buffers.size, -last, first))
        self.first = np.append(first[self.order], (HUGE, -1))
        self.last = np.append(last[self.order], (HUGE, -1))
        self.size = np.append(buffers.size[self.order] // self.unit, (0, 0))
        self.live = self.sections.live // self.unit
        self.rng = np.random.default_rng(seed)
        columns = np.stack([self.first, self.last, self.size])[:, :n]
        self.twin = np.append(False, (columns[:, 1:] == columns[:, :-1]).all(0))[:n]
        bits = self.rng.integers(0, 1 << 63, n, np.uint64)
        self.key = bits[np.cumsum(~self.twin) - 1]
        self.memo = np.zeros(1 << (20 if n > 64 else 12), np.uint64)
        self.nodes = 0

    def below(
        self, ceiling: int, seconds: float, tick: Callable[[], object] = lambda: None
    ) -> tuple[int, np.ndarray | None]:
        """Look for a packing no higher than a ceiling.

        Args:
            ceiling: bytes.
            seconds: when to give up.
            tick: called every few hundredths of a second.

        Returns:
            (SOLVED, offsets in bytes), (INFEASIBLE, None), or (MORE, None) when time is up.
        """
        height = ceiling // self.unit
        if self.sections.peak > height * self.unit:
            return INFEASIBLE, None
        until = time.monotonic() + seconds
        shortest = max(BUDGET, 4 * len(self.key))
        for ranks, mode, share in self._attempts():
            board, paths = self._begin(ranks, height)
            result, left, step = MORE, shortest * share, 64
            while left > 0:
                start = time.monotonic()
                if start >= until:
                    return MORE, None
                step = min(step, left)
                done = int(paths.control[NODES])
                result = search(board, paths, height, mode, step)
                done = int(paths.control[NODES]) - done
                self.nodes += done
                left -= done
                if result in (SOLVED, INFEASIBLE):
                    break
                if result == FULL:
                    paths = paths._replace(
                        trail=_longer(paths.trail),
                        cells=_longer(paths.cells),
                        frames=_longer(paths.frames),
                    )
                tick()
                step = int(np.clip(step * SLICE / max(1e-6, time.monotonic() - start), 16, 1 << 20))
            if result == SOLVED:
                offsets = np.zeros(len(self.key), np.int64)
                offsets[self.order] = board.offset * self.unit
                return SOLVED, offsets
            if result not in (MORE, FULL):
                return result, None
        raise AssertionError("attempts never end")

    def _attempts(self) -> Iterator[tuple[np.ndarray, int, int]]:
        """Yield (rank of each buffer, mode, budget) for ever."""
        priorities = self._priorities()
        attempt = 0
        while True:
            cycle, which = divmod(attempt, len(ORDERS))
            name, mode = ORDERS[which]
            wanted = priorities[name]
            if cycle:
                wanted = wanted + self.rng.normal(0, NOISE, len(wanted))
            ranks = np.empty(len(wanted), np.int64)
            ranks[np.argsort(-wanted, kind="stable")] = np.arange(len(wanted))
            yield ranks, mode, luby(cycle + 1)
            attempt += 1

    def _priorities(self) -> dict[str, np.ndarray]:
        """Return, per order, the logarithm of how early each buffer should be tried."""
        n = len(self.key)
        if not n:
            return {name: np.zeros(0) for name, _ in ORDERS}
        first, last = self.first[:n], self.last[:n]
        length = np.log(last - first)
        # The fullest section a buffer is in; reduceat over pairs needs an end behind the last.
        padded = np.append(self.live, 0)
        fullest = np.maximum.reduceat(padded, np.stack([first, last], 1).ravel())[::2]
        return {
            "long": length,
            "short": -length,
            "large": np.log(self.size[:n]),
            "tight": 2 * np.log(fullest) + 0.2 * length,
        }

    def _begin(self, ranks: np.ndarray, height: int) -> tuple[Board, Paths]:
        """Set up the board with nothing placed."""
        n, count = len(self.key), self.sections.count
        ring = np.arange(n + 2)
        board = Board(
            first=self.first,
            last=self.last,
            size=self.size,
            rank=ranks,
            key=self.key,
            twin=self.twin,
            offset=np.full(n, -1, np.int64),
            after=np.roll(ring, -1),
            before=np.roll(ring, 1),
            height=np.zeros(count, np.int64),
            slack=height - self.live,
            choices=np.zeros(count + 1, np.int64),
            valley=np.zeros(count + 1, np.int64),
        )
        paths = Paths(
            trail=np.zeros((n + count + 64, TRAIL), np.int64),
            cells=np.zeros((2 * (n + count) + 64, CELL), np.int64),
            frames=np.zeros((n + 64, FRAME), np.int64),
            memo=self.memo,
            control=np.array([0, 1, 0, 0, NOTHING, 0], np.int64),
        )
        paths.cells[0] = (0, count, -1, -1, 0, n)
        return board, paths


def _longer(rows: np.ndarray) -> np.ndarray:
    """Twice as many rows."""
    return np.concatenate([rows, np.zeros_like(rows)])

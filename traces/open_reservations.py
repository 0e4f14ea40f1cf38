"""Expandable reservations found by address, however many are open.

A tree over every address where memory begins or ends holds, at the address where a reservation
begins, how far it reaches: what holds an address is then found without asking all the others.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from .view import UNKNOWN

# Reservations that may be looked at: so many, and so many more per question. Address ranges of
# real ones do not overlap, so that a question looks at one or two.
LOOKS, LOOKS_PER_QUESTION = 1_000_000, 100
_ORDER = attrgetter("number")


@dataclass(eq=False)
class Reservation:
    """An expandable reservation while any of it is mapped.

    `number` says in which order reservations were opened.
    """

    low: int
    high: int
    mapped: int
    stream: int
    small: int
    pool: int
    birth: int
    number: int
    rows: list[int] = field(default_factory=list)

    def resolve(self, small: int, pool: int) -> None:
        """Take over what a member shows."""
        self.small = small if self.small == UNKNOWN else self.small
        self.pool = pool if self.pool == UNKNOWN else self.pool


class OpenReservations:
    """The reservations that are open at a moment.

    Attributes:
        looks: how many more may be looked at; less than 0 = give up.

    Args:
        bounds: every address at which one can begin or end, ascending.
    """

    def __init__(self, bounds: np.ndarray) -> None:
        self.bounds: list[int] = bounds.tolist()
        self.n_leaves = 1 << max(len(bounds) - 1, 0).bit_length()
        self.reach = [-1] * (2 * self.n_leaves)  # highest end below each node; -1 = none open
        self.at: dict[int, list[Reservation]] = {}  # leaf -> those that begin there
        self.looks = LOOKS

    def add(self, r: Reservation) -> None:
        leaf = self.n_leaves + bisect_left(self.bounds, r.low)
        self.at.setdefault(leaf, []).append(r)
        self._raise(leaf, r.high)

    def remove(self, r: Reservation) -> None:
        leaf = self.n_leaves + bisect_left(self.bounds, r.low)
        self.looks -= len(self.at[leaf])
        self.at[leaf].remove(r)
        self.reach[leaf] = max((other.high for other in self.at[leaf]), default=-1)
        if not self.at[leaf]:
            del self.at[leaf]
        while leaf > 1:
            leaf >>= 1
            self.reach[leaf] = max(self.reach[2 * leaf], self.reach[2 * leaf + 1])

    def grow(self, r: Reservation, low: int, high: int) -> None:
        """Let a reservation hold [low, high) as well."""
        if low < r.low:
            self.remove(r)
            r.low, r.high = low, max(r.high, high)
            self.add(r)
        elif high > r.high:
            r.high = high
            self._raise(self.n_leaves + bisect_left(self.bounds, r.low), high)

    def holding(self, address: int, with_end: bool = False) -> list[Reservation]:
        """Return those that hold an address, or also those that end there, first opened first."""
        self.looks += LOOKS_PER_QUESTION
        least = address if with_end else address + 1
        found: list[Reservation] = []
        node = self.n_leaves + bisect_right(self.bounds, address) - 1
        nodes = [node]
        while node > 1:
            if node & 1:
                nodes.append(node - 1)
            node >>= 1
        while nodes:
            node = nodes.pop()
            if self.reach[node] < least:
                continue
            if node < self.n_leaves:
                nodes += (2 * node, 2 * node + 1)
            else:
                self.looks -= len(self.at[node])
                found += [r for r in self.at[node] if r.high >= least]
        return sorted(found, key=_ORDER) if len(found) > 1 else found

    def next_above(self, address: int) -> list[Reservation]:
        """Return those that begin at the lowest address above one, first opened first."""
        self.looks += LOOKS_PER_QUESTION
        node = self.n_leaves + bisect_right(self.bounds, address) - 1
        while node > 1 and (node & 1 or self.reach[node + 1] < 0):
            node >>= 1
        if node <= 1:
            return []
        node += 1
        while node < self.n_leaves:
            node *= 2
            node += self.reach[node] < 0
        self.looks -= len(self.at[node])
        return sorted(self.at[node], key=_ORDER)

    def _raise(self, node: int, high: int) -> None:
        while node and self.reach[node] < high:
            self.reach[node] = high
            node >>= 1

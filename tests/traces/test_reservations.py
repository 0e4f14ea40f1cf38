"""Expandable reservations: found by address as looking at every one of them would find them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tightfit.traces import open_reservations
from tightfit.traces.errors import TraceError
from tightfit.traces.history import lift
from tightfit.traces.open_reservations import OpenReservations, Reservation
from tightfit.traces.program import Op
from tightfit.traces.units import MiB

from .recorded import by_hand

pytestmark = pytest.mark.interpreted


class Scanned:
    """The same, plainly: a list in the order of opening, and every question asks all."""

    def __init__(self) -> None:
        self.open: list[Reservation] = []

    def holding(self, address: int, with_end: bool) -> list[Reservation]:
        return [
            r for r in self.open if r.low <= address < r.high or (with_end and r.high == address)
        ]

    def next_above(self, address: int) -> list[Reservation]:
        lowest = min((r.low for r in self.open if r.low > address), default=-1)
        return [r for r in self.open if r.low == lowest]


@pytest.mark.parametrize("seed", range(60))
def test_the_tree_finds_what_a_scan_finds(seed: int) -> None:
    rng = random.Random(seed)
    bounds = sorted(rng.sample(range(1000), rng.choice((1, 2, 7, 33, 200))))
    tree, scanned = OpenReservations(np.array(bounds)), Scanned()
    for number in range(150):
        low, high = sorted(rng.choices(bounds, k=2))
        act = rng.random()
        if act < 0.4 or not scanned.open:
            r = Reservation(low, low, 0, 0, 0, 0, 0, number)
            tree.add(r)
            tree.grow(r, low, high)
            scanned.open.append(r)
        elif act < 0.7:
            r = rng.choice(scanned.open)
            want = min(r.low, low), max(r.high, high)
            tree.grow(r, low, high)
            assert (r.low, r.high) == want
        else:
            r = rng.choice(scanned.open)
            tree.remove(r)
            scanned.open.remove(r)
        address = rng.choice(bounds)
        for with_end in (False, True):
            assert tree.holding(address, with_end) == scanned.holding(address, with_end)
        assert tree.next_above(address) == scanned.next_above(address)


def test_maps_that_do_not_touch_are_found_without_looking_at_all_of_them() -> None:
    n = 2000
    tree = OpenReservations(np.arange(2 * n))
    for k in range(n):
        assert tree.holding(2 * k, with_end=True) == tree.next_above(2 * k) == []
        tree.add(Reservation(2 * k, 2 * k + 1, 1, 0, 0, 0, k, k))
    for k in range(n):
        assert [r.number for r in tree.holding(2 * k)] == [k]
    asked = 3 * n * open_reservations.LOOKS_PER_QUESTION
    assert open_reservations.LOOKS + asked - tree.looks <= 2 * n


def test_memory_mapped_over_memory_again_and_again_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(open_reservations, "LOOKS", 1000)
    monkeypatch.setattr(open_reservations, "LOOKS_PER_QUESTION", 2)
    n = 300
    # Each begins below all before it and ends above them: none joins another.
    entries = [("segment_map", 2 * (n - k) * MiB, 4 * (k + 1) * MiB) for k in range(n)]
    assert lift(by_hand(entries, []), 0).count(Op.MALLOC) == 0
    more = [("segment_map", 2 * n * MiB, 2 * MiB, {"stream": 1})] * n
    with pytest.raises(TraceError, match=r"entry \d+: found expandable memory mapped over memory"):
        lift(by_hand([*entries, *more, *entries], []), 0)

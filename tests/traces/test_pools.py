"""Private pools of released memory: reservations joined in one pass as they are one by one."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np

from tightfit.traces.pools import _join_reservations


def one_by_one(e: Any, unsure: list[int]) -> None:
    """Every run of the start beside the first of its stream, pool and kind."""
    first: dict[tuple[int, ...], int] = {}
    for row in e.start.tolist():
        if not e.is_expandable[row]:
            continue
        group = int(e.group[row])
        key = (int(e.stream[row]), int(e.pool[row]), int(e.is_small[row]))
        other = first.setdefault(key, group)
        if group != other and (group in unsure or other in unsure):
            both = (e.group == group) | (e.group == other)
            e.reservation[both] = e.reservation[both].min()
            e.group[both] = other


def test_reservations_are_joined_as_one_by_one() -> None:
    joined = 0
    for seed in range(500):
        rng = random.Random(seed)
        group: list[int] = []
        for row in range(rng.randrange(1, 14)):
            group.append(rng.choice(group) if group and rng.random() < 0.4 else row)
        groups = sorted(set(group))
        kind = {g: [rng.randrange(2) for _ in range(3)] + [rng.random() < 0.8] for g in groups}
        lowest = {g: rng.randrange(100) for g in groups}
        stream, pool, is_small, is_expandable = np.array([kind[g] for g in group], int).T
        start = np.array(rng.sample(range(len(group)), rng.randrange(len(group) + 1)), int)
        unsure = [g for g in groups if rng.random() < 0.5]
        fast, slow = (
            SimpleNamespace(
                start=start, stream=stream, pool=pool, is_small=is_small,
                is_expandable=is_expandable, group=np.array(group),
                reservation=np.array([lowest[g] for g in group]),
            )
            for _ in range(2)
        )  # fmt: skip
        given: Any = fast
        _join_reservations(given, np.array(unsure, int))
        one_by_one(slow, unsure)
        assert fast.group.tolist() == slow.group.tolist(), seed
        assert fast.reservation.tolist() == slow.reservation.tolist(), seed
        joined += fast.group.tolist() != group
    assert joined > 50

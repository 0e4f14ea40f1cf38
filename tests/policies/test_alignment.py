"""Requests are matched with those profiled as a walk through both would do it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tightfit.policies.alignment import DEVIATES, OUTSIDE, _opening, align

pytestmark = pytest.mark.interpreted
ROW = 16  # requests in a row that must be alike


def walk(wanted: list[int], start: int, length: int, look: int) -> tuple[list[int], list[int]]:
    """The same in the plainest way: slices of lists are compared, and nothing is remembered."""
    end, n = start + length, len(wanted)
    once = wanted[start:end]
    several = once * 3
    opening = 1
    while opening < length and any(
        several[k : k + opening] == once[:opening] for k in range(1, length)
    ):
        opening += 1
    many = min(ROW, length)

    def follows(i: int, k: int, count: int) -> bool:
        rest = wanted[i : i + count]
        return rest == (once * (2 + count // length))[k : k + len(rest)]

    found, turns = list(range(end)), [0] * end
    at, turn, gap = 0, 1, 0  # `at` counts from the iteration's first request

    def close(last: int) -> None:
        first = last - gap
        before = [
            p for p in range(start - ROW + 1) if wanted[p : p + ROW] == wanted[first : first + ROW]
        ]
        for i in range(first, last):
            turns[i] = turn
            found[i] = OUTSIDE
            if before and before[0] + gap <= start and first + ROW <= n:
                p = before[0]
                if wanted[p : p + gap] == wanted[first:last]:
                    found[i] = p + i - first

    for i in range(end, n):
        goes_to = at if gap == 0 and wanted[i] == once[at] else None
        if goes_to is None and follows(i, 0, max(opening, many)):
            goes_to = 0
            turn += at != 0
            close(i)
        elif goes_to is None and gap < look:
            for k in range(at, min(at + look, length)):
                if follows(i, k, many):
                    goes_to = k
                    break
        found.append(DEVIATES if goes_to is None else start + goes_to)
        turns.append(turn)
        if goes_to is None:
            gap += 1
        else:
            at, gap = (goes_to + 1) % length, 0
            turn += at == 0
    turn += gap != 0 and at != 0
    close(n)
    return found, turns


def repeating(seed: int) -> tuple[list[int], int, int]:
    """Something, an iteration again and again with deviations, and something else in between."""
    rng = random.Random(seed)
    layer = [rng.randrange(4) for _ in range(rng.choice((3, 7)))]
    once = [*layer * rng.randrange(2, 6), *[rng.randrange(6) for _ in range(rng.randrange(30))]]
    once = [9, *once] if seed % 2 else [*once, 9, *once[:20], 8]  # it begins as it goes on, or not
    other = [rng.randrange(12) for _ in range(rng.randrange(5, 40))]
    before = [rng.randrange(12) for _ in range(rng.randrange(25))] + other
    wanted = before + once
    for _ in range(12):
        step = list(once)
        chance = rng.random()
        if chance < 0.3:
            at = rng.randrange(len(step))
            step[at : at + rng.randrange(6)] = [rng.randrange(12) for _ in range(rng.randrange(20))]
        elif chance < 0.4:
            step = step[: rng.randrange(len(step))]
        wanted += step + other * (rng.random() < 0.3)
    return wanted, len(before), len(once)


def test_requests_are_matched_as_a_walk_matches_them() -> None:
    kinds: set[str] = set()
    for seed in range(60):
        wanted, start, length = repeating(seed)
        look = random.Random(seed).choice((1, 3, 64))
        found, turns = align(np.array(wanted), start, length, look)
        want = walk(wanted, start, length, look)
        assert found.tolist() == want[0], seed
        assert turns.tolist() == want[1], seed
        late = found[start + length :]
        for name, mask in {
            "within": late >= start,
            "before": (late >= 0) & (late < start),
            "deviates": late == DEVIATES,
            "outside": late == OUTSIDE,
        }.items():
            if mask.any():
                kinds.add(name)
    assert kinds == {"within", "before", "deviates", "outside"}


def test_an_iteration_is_known_by_as_few_requests_as_come_nowhere_else_in_it() -> None:
    rng = random.Random(1)
    for _ in range(200):
        once = [rng.randrange(2) for _ in range(rng.randrange(1, 24))]
        want = 1
        while want < len(once) and any(
            (once * 2)[k : k + want] == once[:want] for k in range(1, len(once))
        ):
            want += 1
        assert _opening(np.array([5, *once, 7]), 1, len(once)) == want, once


def test_an_iteration_does_not_begin_where_it_only_looks_as_if() -> None:
    layers = list(range(20))
    once = [*layers, 30, *layers, 40]
    wanted = once * 2 + [99] * 70 + [*layers, 40] + once
    found, turns = align(np.array(wanted), 0, 42, 64)
    inside = list(range(42))
    assert found.tolist() == inside * 2 + [OUTSIDE] * 91 + inside
    assert turns.tolist() == [0] * 42 + [1] * 42 + [2] * 133


def test_a_request_more_does_not_bring_the_others_out_of_step() -> None:
    once = list(range(40))
    wanted = once * 2 + once[:20] + [99] + once[20:] + once
    found, turns = align(np.array(wanted), 0, 40, 64)
    assert found.tolist() == once * 2 + once[:20] + [DEVIATES] + once[20:] + once
    assert turns.tolist() == [0] * 40 + [1] * 40 + [2] * 41 + [3] * 40


def test_one_request_alone_that_is_alike_is_not_matched() -> None:
    once = list(range(40))
    validation = [100, 7, 101, 12, 102, 20, 103]
    found, _ = align(np.array(once * 2 + validation + once), 0, 40, 64)
    assert found.tolist() == once * 2 + [OUTSIDE] * 7 + once


def test_a_validation_that_was_profiled_is_known_again() -> None:
    once, validation = list(range(40)), list(range(100, 120))
    wanted = validation + once * 2 + validation + once + validation[:-1] + [99]
    found, turns = align(np.array(wanted), 20, 40, 64)
    inside = [20 + k for k in once]
    assert found.tolist() == (
        list(range(20)) + inside * 2 + list(range(20)) + inside + [OUTSIDE] * 20
    )
    assert turns.tolist() == [0] * 60 + [1] * 40 + [2] * 60 + [3] * 20


def test_a_program_that_is_all_profiled_is_matched_with_itself() -> None:
    found, turns = align(np.array([1, 1, 1]), 0, 3, 64)
    assert found.tolist() == [0, 1, 2] and turns.tolist() == [0, 0, 0]

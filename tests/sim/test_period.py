"""Stretches that repeat are found, to the event, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from tightfit.sim.period import Period, find_period

RNG = np.random.default_rng(1)
ONCE = RNG.integers(0, 1 << 40, 900)
OTHER = RNG.integers(0, 1 << 40, 700)


@pytest.mark.parametrize("count", [4, 5, 40])
@pytest.mark.parametrize("before", [0, 333])
@pytest.mark.parametrize("after", [0, 120])
def test_a_repetition_is_found_whole(count: int, before: int, after: int) -> None:
    events = np.concatenate([OTHER[:before], np.tile(ONCE, count), OTHER[:after]])
    found = find_period(events)
    assert found is not None
    assert (found.start, found.length) == (before, 900)
    assert found.repeats == count


def test_of_nested_repetitions_the_outer_one_covers_more() -> None:
    layers = np.concatenate([OTHER[:200], np.tile(ONCE[:50], 12), OTHER[200:300]])
    found = find_period(np.tile(layers, 10))
    assert found == Period(0, len(layers), 10)


def test_one_event_that_differs_ends_a_stretch() -> None:
    events = np.tile(ONCE, 20)
    events[900 * 6 + 17] += 1
    found = find_period(events)
    assert found is not None
    assert found.start == 900 * 6 + 18
    assert found.start + found.length * found.repeats <= len(events)


@pytest.mark.parametrize("n", [0, 1, 40, 5000])
def test_what_does_not_repeat_has_no_period(n: int) -> None:
    assert find_period(RNG.integers(0, 1 << 40, n)) is None


def test_three_times_is_not_enough() -> None:
    assert find_period(np.tile(ONCE, 3)) is None

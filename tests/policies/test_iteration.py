"""An iteration is found where there is one, and nothing is taken for one that is not."""

from __future__ import annotations

import numpy as np
import pytest

from tightfit.policies.iteration import find_iteration

pytestmark = pytest.mark.interpreted


def waves(length: int, times: int, height: int = 100) -> list[int]:
    """Bytes in use that rise and fall in every iteration."""
    return [height * min(k, length - k) for k in range(length)] * times


def test_an_iteration_is_found_between_what_does_not_repeat() -> None:
    body = list(range(100, 140))
    klass = np.array([1, 2, 3, 4, 5] + body * 6 + [7, 8, 9])
    live = np.array([0] * 5 + waves(40, 6) + [0] * 3)
    found = find_iteration(klass, live)
    assert found is not None and found[1] == 40
    start, length = found
    assert klass[start : start + length].tolist() == klass[start + length :][:length].tolist()


def test_the_first_of_equal_iterations_is_taken() -> None:
    klass = np.array(list(range(30)) + list(range(100, 140)) * 6)
    found = find_iteration(klass, np.array([0] * 30 + waves(40, 6)))
    assert found is not None and 30 <= found[0] < 30 + 40


def test_a_step_is_found_and_not_a_layer_within_it() -> None:
    layer = list(range(200, 240))
    step = layer * 3 + list(range(300, 420))
    found = find_iteration(np.array(step * 5), np.array(waves(len(step), 5)))
    assert found is not None and found[1] == len(step)


def test_layers_are_no_iteration_of_a_program_that_is_one_step() -> None:
    # Twelve layers keep what they compute; it goes on the way back, which repeats too.
    layer, back = list(range(40)), list(range(100, 140))
    klass = np.array(layer * 12 + back * 12)
    live = np.concatenate([np.arange(480), np.arange(480)[::-1]])
    assert find_iteration(klass, live) is None
    # The same requests, if all goes after each layer.
    found = find_iteration(klass, np.array(waves(40, 24)))
    assert found is not None and found[1] == 40


def test_a_step_is_found_though_another_thing_is_done_now_and_then() -> None:
    step = list(range(200, 300))
    klass = np.array([r for k in range(3) for r in step * 3 + list(range(300 + k, 340 + k))])
    live = np.array((waves(100, 3) + waves(40, 1)) * 3)
    found = find_iteration(klass, live)
    assert found is not None and found[1] == 100


def test_of_steps_that_grow_one_of_those_is_taken_that_need_most() -> None:
    klass = np.array(list(range(100, 140)) * 6 + list(range(200, 240)) * 6)
    live = np.array(waves(40, 6, 100) + waves(40, 6, 300))
    found = find_iteration(klass, live)
    assert found == (240, 40)
    assert find_iteration(klass, live[::-1].copy()) == (0, 40)


def test_nothing_is_found_where_nothing_repeats() -> None:
    assert find_iteration(np.arange(500), np.arange(500)) is None
    assert find_iteration(np.zeros(3, np.int64), np.zeros(3, np.int64)) is None
    assert find_iteration(np.array([5]), np.array([1])) is None
    rng = np.random.default_rng(1)
    klass = rng.integers(0, 50, 4000)
    assert find_iteration(klass, rng.integers(0, 50, 4000)) is None


def test_what_repeats_for_the_smaller_part_of_a_program_is_not_taken() -> None:
    body = list(range(100, 140))
    klass = np.array(list(range(1000, 1300)) + body * 6)
    assert find_iteration(klass, np.array([0] * 300 + waves(40, 6))) is None

"""Policies that are told something: what they are told, and what they make of it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tightfit.policies.catalogue import MECHANISMS
from tightfit.policies.iteration import find_iteration
from tightfit.policies.packing_validator import packing_fault
from tightfit.policies.planned import deaths
from tightfit.sim.device import Device
from tightfit.sim.packing import pack

from ..strategies import Script, random_program
from .playing import KiB, MiB, peak, places, run_of

pytestmark = pytest.mark.interpreted


def steps(script: Script, times: int, sizes: tuple[int, ...] = ()) -> None:
    """Iterations: sizes come in order and go in the order in which they came."""
    for _ in range(times):
        script.free(*script.mallocs(*(sizes or tuple((k + 1) * 64 * KiB for k in range(20)))))


def test_an_iteration_is_found_between_what_does_not_repeat() -> None:
    body = list(range(100, 140))
    codes = np.array([1, 2, 3, 4, 5] + body * 6 + [7, 8, 9])
    found = find_iteration(codes)
    assert found is not None and found[1] == 40
    start, length = found
    assert codes[start : start + length].tolist() == codes[start + length :][:length].tolist()


def test_a_step_is_found_and_not_a_layer_within_it() -> None:
    layer = list(range(200, 240))
    step = layer * 3 + list(range(300, 420))
    found = find_iteration(np.array(step * 5))
    assert found is not None and found[1] == len(step)


def test_nothing_is_found_where_nothing_repeats() -> None:
    assert find_iteration(np.arange(500)) is None
    assert find_iteration(np.zeros(3, np.int64)) is None
    rng = np.random.default_rng(1)
    assert find_iteration(rng.integers(0, 50, 4000)) is None


def test_deaths_are_those_of_a_walk_through_the_program() -> None:
    packed = pack(random_program(5, 500, streams=2, pools=1))
    op, slot = packed.events & 15, packed.events >> 32
    is_malloc, is_free = (op == 0) | (op == 8), (op == 1) | (op == 3)
    want = np.full(len(op), len(op))
    live: dict[int, int] = {}
    for i in range(len(op)):
        if is_malloc[i]:
            live[int(slot[i])] = i
        elif is_free[i] and int(slot[i]) in live:
            want[live.pop(int(slot[i]))] = i
    assert deaths(is_malloc, is_free, slot).tolist() == want.tolist()


def test_a_program_that_repeats_stays_within_its_plan() -> None:
    script = Script()
    steps(script, 8)
    run = run_of("planned", script)
    live = sum((k + 1) * 64 * KiB for k in range(20))
    assert peak(run) == live  # the plan alone, and it is as small as can be
    assert places(run)[20:40] == places(run)[140:160]


def test_what_deviates_from_the_plan_is_served_beside_it() -> None:
    script = Script()
    steps(script, 4)
    odd = script.malloc(5 * MiB + 12345)  # not in the profile
    steps(script, 4)
    script.free(odd)
    run = run_of("planned", script)
    live = sum((k + 1) * 64 * KiB for k in range(20))
    assert live + 5 * MiB < peak(run) <= live + 8 * MiB
    assert places(run)[81:101] == places(run)[:20]


def test_a_planned_place_that_is_taken_is_not_given_out_twice() -> None:
    # One iteration keeps its blocks; in the next ones the same places are not free.
    script = Script()
    steps(script, 4)
    kept = script.mallocs(*((k + 1) * 64 * KiB for k in range(20)))
    steps(script, 4)
    script.free(*kept)
    run = run_of("planned", script)
    at, sizes = places(run), [int(s) for s in np.array([(k + 1) * 64 * KiB for k in range(20)])]
    taken = [(at[80 + k], at[80 + k] + sizes[k]) for k in range(20)]
    for k in range(20):
        first, end = at[100 + k], at[100 + k] + sizes[k]
        assert all(end <= a or b <= first for a, b in taken)


def test_a_program_without_iterations_is_planned_as_a_whole() -> None:
    """The plan is a packing: nothing overlaps that is there at once."""
    program = random_program(3, 400, streams=1, pools=0)
    packed = pack(program)
    policy = MECHANISMS["planned"]
    assert policy.foresight is not None
    told = policy.foresight(packed, policy.defaults)
    op = packed.events & 15
    is_malloc, is_free = (op == 0) | (op == 8), (op == 1) | (op == 3)
    born = np.flatnonzero(is_malloc)
    death = deaths(is_malloc, is_free, packed.events >> 32)[born]
    size = -(-program.req_size[((packed.events >> 4) & 0xFFFFFFF)[born] - 1] // 512) * 512
    assert (told.hints[born] > 0).all()
    fault = packing_fault(
        born.tolist(), death.tolist(), size.tolist(), (told.hints[born] - 1).tolist(),
        told.words[2],
    )  # fmt: skip
    assert fault == ""


def test_blocks_that_die_together_lie_together() -> None:
    # Two holes of 4 KiB. The left neighbour of the first dies last, that of the second soon.
    script = Script()
    late, hole, soon, gap, end = script.mallocs(*[4 * KiB] * 5)
    script.free(hole, gap)
    new = script.malloc(4 * KiB)
    script.free(new, soon)
    script.free(end, late)
    assert places(run_of("clairvoyant", script))[5] == 3 * 4 * KiB
    assert places(run_of("clairvoyant", script, look=1))[5] == 4 * KiB  # best fit: the lowest


def test_a_hole_that_is_much_too_large_is_not_taken_for_its_neighbour() -> None:
    # As before, but the second hole is twice as large.
    script = Script()
    late, hole, soon, gap, end = script.mallocs(*[4 * KiB] * 3, 8 * KiB, 4 * KiB)
    script.free(hole, gap)
    new = script.malloc(4 * KiB)
    script.free(new, soon)
    script.free(end, late)
    assert places(run_of("clairvoyant", script))[5] == 4 * KiB
    assert places(run_of("clairvoyant", script, slack=100))[5] == 3 * 4 * KiB


def test_long_lived_blocks_have_segments_of_their_own_whose_gaps_serve_short_lived_ones() -> None:
    # Learning, 43 events: 2 MiB live for 41 of them, 1 MiB for one; 3 MiB stay for ever.
    script = Script()
    script.malloc(3 * MiB)
    long = script.malloc(2 * MiB)
    for _ in range(20):
        script.free(script.malloc(MiB))
    script.free(long)
    long, short = script.mallocs(2 * MiB, MiB)
    script.free(short, long)
    for _ in range(20):
        script.free(script.malloc(MiB))
    at = places(run_of("lifetime_classes", script, segment=8 * MiB, learn=50))
    assert at[:2] == [0, 3 * MiB]
    assert at[22] == 8 * MiB  # not the hole beside what nothing was known of
    assert at[23] == 10 * MiB  # in the gap that the long-lived one leaves
    assert at[24] == 8 * MiB  # an empty segment serves any class


def test_nothing_of_the_part_after_learning_is_used() -> None:
    policy = MECHANISMS["lifetime_classes"]
    assert policy.foresight is not None
    rng = random.Random(2)
    one, other = Script(), Script()
    for script in (one, other):
        steps(script, 10, (MiB, 2 * MiB, 3 * MiB))
    a, b = one.mallocs(MiB, 2 * MiB), other.mallocs(MiB, 2 * MiB)
    for _ in range(40):
        one.free(one.malloc(rng.choice([5 * MiB, 6 * MiB])))
        other.free(other.malloc(MiB))
    one.free(*a)
    other.free(*b)
    values = policy.defaults | {"learn": 40}
    hints = [policy.foresight(pack(s.program()), values).hints for s in (one, other)]
    assert hints[0][:62].tolist() == hints[1][:62].tolist()
    assert hints[0][60] > 0 and hints[0][70] == 0  # known; never seen while learning


def test_what_a_policy_is_told_is_said() -> None:
    program = Script().program()
    assert "knows when every block" in MECHANISMS["clairvoyant"].ignores(program, Device())[0]
    assert "one iteration" in MECHANISMS["planned"].ignores(program, Device())[0]
    assert MECHANISMS["lifetime_classes"].ignores(program, Device()) == []

"""Policies that are told something: what they are told, and what they make of it."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tightfit.policies.catalogue import MECHANISMS
from tightfit.policies.packing_of_profile import OFFSET, ROW_WORDS
from tightfit.policies.packing_validator import packing_fault
from tightfit.policies.planned import (
    CLOCK_BITS,
    PLAN_BYTES,
    ROWS,
    allocate,
    deaths,
    free,
    own,
    trim,
)
from tightfit.sim.device import Device
from tightfit.sim.mechanism import Foresight, Mechanism
from tightfit.sim.mechanism_replay import replay_mechanism
from tightfit.sim.packing import pack

from ..strategies import Script, random_program
from .playing import KiB, MiB, peak, places, run_of
from .twins import TWINS
from .twins.playing import play

pytestmark = pytest.mark.interpreted


def steps(script: Script, times: int, sizes: tuple[int, ...] = ()) -> None:
    """Iterations: sizes come in order and go in the order in which they came."""
    for _ in range(times):
        script.free(*script.mallocs(*(sizes or tuple((k + 1) * 64 * KiB for k in range(20)))))


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
    held = script.mallocs(*((k + 1) * 64 * KiB for k in range(10)))
    odd = script.malloc(12345)  # not in the profile, nor is the plan idle anywhere
    held += script.mallocs(*((k + 11) * 64 * KiB for k in range(10)))
    script.free(*held)
    steps(script, 4)
    script.free(odd)
    run = run_of("planned", script)
    live = sum((k + 1) * 64 * KiB for k in range(20))
    assert peak(run) == live + 2 * MiB
    at = places(run)
    assert at[80:90] + at[91:101] == at[:20] == at[101:121]


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


def halves(script: Script, odd: tuple[int, ...] = (), early: int = 0) -> list[int]:
    """An iteration: 8 MiB in its first half, 2 MiB in its second; and what deviates from it.

    Args:
        script: where to.
        odd: sizes of what comes and goes in the second half.
        early: what comes and goes in the first half; 0 = nothing.
    """
    first = script.malloc(8 * MiB)
    for k in range(20):
        if k == 10 and early:
            script.free(script.malloc(early))
        script.free(script.malloc(64 * KiB))
    script.free(first)
    second = script.malloc(2 * MiB)
    out = []
    for k in range(20):
        if k == 10:
            for size in odd:
                out.append(script.malloc(size))
                script.free(script.malloc(64 * KiB))
                script.free(out[-1])
        script.free(script.malloc(64 * KiB))
    script.free(second)
    return out


def test_what_deviates_uses_the_idle_part_of_the_plan() -> None:
    script = Script()
    for _ in range(6):
        halves(script)
    (unknown,) = halves(script, (3 * MiB,))
    (known,) = halves(script, (3 * MiB,))
    third = script.program().request.size
    halves(script, early=3 * MiB)
    run = run_of("planned", script)
    at = places(run)
    plan = 8 * MiB + 64 * KiB  # the small ones lie beside the 8 MiB
    region = -(-plan // (2 * MiB)) * 2 * MiB
    # The second half holds 2 MiB at the bottom, and the small ones above it or at the top: the
    # smallest piece of 3 MiB or more begins where they end.
    assert 2 * MiB <= at[unknown] <= plan - 3 * MiB  # free, whatever will come there
    assert 2 * MiB <= at[known] <= plan - 3 * MiB  # idle for long enough
    (early,) = [a for a in range(third, len(at)) if script.program().req_size[
        script.program().request[a]] == 3 * MiB]  # fmt: skip
    assert at[early] >= region  # in the first half no such piece is free
    assert peak(run) == plan + 4 * MiB


def told(script: Script, hints: list[int], pieces: int, rows: list[tuple[int, ...]]) -> list[int]:
    """Places under a plan of 16 MiB, an iteration of 100 requests, and these hints and rows."""
    words = [0, 0, 16 * MiB, 0, 100, pieces, len(rows), 0, 0, 0]
    given = Foresight(np.array(hints), (*words, *(word for row in rows for word in row)))
    planned = MECHANISMS["planned"]
    policy = Mechanism(
        "told", planned.source, allocate, free, trim, planned.params, planned.honours, own=own,
        foresight=lambda packed, values: given,
    )  # fmt: skip
    return places(replay_mechanism(pack(script.program()), policy, addresses=True))


def deviating(now: int, life: int) -> int:
    """The hint of what will live for so many requests from then on."""
    return -1 - (now << CLOCK_BITS | life)


def test_where_what_has_no_place_goes_first() -> None:
    # All but the last MiB are in use in an iteration: 8 MiB in its first half, 7 in its second.
    rows = [(0, 15 * MiB, 0, 1 << 62), (0, 8 * MiB, 0, 50), (8 * MiB, 15 * MiB, 50, 100)]
    region = 16 * MiB
    script = Script()
    script.mallocs(MiB, MiB, 4 * MiB, 4 * MiB, MiB, 8 * MiB, 3 * MiB)
    at = told(
        script,
        [
            deviating(10, 100),  # lives for long, and nobody uses the last MiB
            deviating(10, 100),  # the like is not there any more: memory of its own
            deviating(10, 20),  # the second half's memory is idle so long
            deviating(10, 60),  # nothing is, but 3 MiB in it are free: not enough
            deviating(10, 60),  # there is a free block beside the plan
            2,  # its place
            0,  # nothing is known of it: anywhere
        ],
        1,
        rows,
    )
    assert at[0] == 15 * MiB
    assert at[1] == region
    assert at[2] == 8 * MiB
    assert at[3] == 0  # the first half's is free at this moment
    assert at[4] == region + MiB
    assert at[5] == region + 2 * MiB  # another sits there
    assert at[6] == 12 * MiB


def test_little_does_not_displace_what_is_planned() -> None:
    rows = [(0, 16 * MiB, 0, 1 << 62), (0, 16 * MiB, 0, 100)]
    script = Script()
    script.mallocs(2 * MiB, 3 * MiB)
    assert told(script, [0, 0], 1, rows) == [16 * MiB, 0]


def test_what_is_handed_on_is_in_the_way_in_the_next_iteration_too() -> None:
    # In use from 80 on until 20 of the next iteration.
    rows = [(0, 16 * MiB, 0, 1 << 62), (0, 16 * MiB, 80, 120)]
    for now, life, is_idle in ((30, 40, True), (30, 50, False), (10, 5, False), (90, 5, False)):
        script = Script()
        script.malloc(MiB)
        assert told(script, [deviating(now, life)], 1, rows) == [0 if is_idle else 16 * MiB]


def repeating(seed: int) -> Script:
    """Random iterations, alike at first; later ones with more in between."""
    rng = random.Random(seed)
    sizes = [rng.choice((4 * KiB, 60 * KiB, MiB, 3 * MiB, 7 * MiB)) for _ in range(40)]
    lives = [rng.randrange(1, 20) for _ in sizes]
    odd = [rng.choice(sizes) + 512 for _ in range(4)]
    script = Script()
    for turn in range(14):
        ends: dict[int, list[int]] = {}
        for k, (size, life) in enumerate(zip(sizes, lives, strict=True)):
            ends.setdefault(min(k + life, 40), []).append(script.malloc(size))
            if turn > 8 and rng.random() < 0.4:
                extra = script.malloc(rng.choice(odd))
                ends.setdefault(min(k + rng.randrange(1, 9), 40), []).append(extra)
            script.free(*ends.pop(k, []))
        script.free(*ends.pop(40, []))
    return script


def test_idle_places_are_those_of_the_twin() -> None:
    """On random programs that repeat and deviate; elsewhere everything has its planned place."""
    policy = MECHANISMS["planned"]
    assert policy.foresight is not None
    guessed = settled = 0
    for seed in range(12):
        program = repeating(seed).program()
        packed = pack(program)
        told = policy.foresight(packed, policy.defaults)
        device = Device(random.Random(seed).choice((None, 60 * MiB)))
        run = replay_mechanism(packed, policy, None, device, stop_at_oom=False, addresses=True)
        want = play(
            program, TWINS["planned"], policy.defaults, device, False, told.hints.tolist(),
            told.words,
        )  # fmt: skip
        assert run.addr.tolist() == want.addr, seed
        assert {k: run.stats[k] for k in want.stats} == want.stats, seed
        odd = np.flatnonzero(told.hints < 0)
        guessed += len(odd)
        taken = packed.program.arg[odd]
        base = int(run.addr[int(packed.program.arg[np.flatnonzero(told.hints > 0)[0]])])
        plan = range(base - told.words[PLAN_BYTES], base + told.words[PLAN_BYTES])
        settled += sum(int(a) in plan for a in run.addr[taken])
    assert guessed > 200 and settled > 100


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
    offsets = np.array(told.words[ROWS + OFFSET :: ROW_WORDS])[told.hints[born] - 1]
    fault = packing_fault(
        born.tolist(), death.tolist(), size.tolist(), offsets.tolist(), told.words[PLAN_BYTES]
    )
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

"""The contract, over the whole catalogue: what every policy must do, whatever it decides."""

from __future__ import annotations

import random
from bisect import bisect_left, insort

import numpy as np
import pytest

from tightfit.policies.catalogue import MECHANISMS
from tightfit.sim.device import Device
from tightfit.sim.mechanism import Mechanism
from tightfit.sim.mechanism_replay import replay_mechanism
from tightfit.sim.packing import pack
from tightfit.traces.errors import PolicyError
from tightfit.traces.program import Op, Program
from tightfit.traces.units import GiB, MiB

from .. import strategies as make
from .twins import TWINS
from .twins.playing import play

EVERY = pytest.mark.parametrize("policy", MECHANISMS.values(), ids=MECHANISMS)
# Policies that return memory, but by their source's rules not all of it.
KEEPS_SCRAPS = {"arena": "a stream keeps pieces that became smaller than a superblock"}
MANY_OPS = 110_000  # random operations over all the programs of one policy, at the least


def ends(policy: Mechanism) -> list[dict[str, int]]:
    """The defaults, and each parameter at both ends of its range."""
    return [policy.defaults] + [
        policy.defaults | {p.name: value} for p in policy.params for value in (p.low, p.high)
    ]


def check_blocks(program: Program, policy: Mechanism, addr: np.ndarray, n_ops: int) -> None:
    """No block overlaps one that the program still holds, and every address is aligned."""
    held: dict[int, tuple[int, int]] = {}
    starts: list[int] = []  # ascending, of the allocations held
    by_start: dict[int, int] = {}
    for op, arg in zip(program.op[:n_ops].tolist(), program.arg[:n_ops].tolist(), strict=True):
        if op == Op.MALLOC and addr[arg]:
            first = int(addr[arg])
            end = first + int(program.req_size[program.request[arg]])
            assert first % policy.alignment == 0
            k = bisect_left(starts, first)
            assert k == len(starts) or end <= starts[k]
            assert k == 0 or held[by_start[starts[k - 1]]][1] <= first
            insort(starts, first)
            held[arg], by_start[first] = (first, end), arg
        elif op in (Op.FREE, Op.COMPLETE) and arg in held:
            first, _ = held.pop(arg)
            starts.remove(first)
            del by_start[first]


def without_waiting(program: Program) -> Program:
    """Every free at once: what waits may be handed on at a moment the program does not show."""
    op = program.op.copy()
    op[op == Op.FREE_LATER] = Op.CAPTURE
    arg = np.where(op == Op.CAPTURE, 0, program.arg).astype(np.int32)
    program.op, program.arg = np.where(op == Op.COMPLETE, Op.FREE, op).astype(np.uint8), arg
    return program


@EVERY
def test_blocks_never_overlap_and_are_aligned(policy: Mechanism) -> None:
    done = 0
    seed = 0
    while done < MANY_OPS:
        for values in ends(policy):
            program = without_waiting(make.random_program(seed, 12_000, streams=3, pools=1))
            run = replay_mechanism(pack(program), policy, values, addresses=True)
            assert run.n_ops == program.n_ops
            check_blocks(program, policy, run.addr, run.n_ops)
            done += run.n_ops
            seed += 1


@EVERY
def test_bytes_are_conserved(policy: Mechanism) -> None:
    """Peaks are in order, and when all is freed and returned nothing is held."""
    script = make.Script(2)
    rng = random.Random(5)
    held = [script.malloc(make.random_size(rng), rng.randrange(2)) for _ in range(300)]
    rng.shuffle(held)
    script.free(*held[:150])
    script.mallocs(*[make.random_size(rng) for _ in range(80)])
    script.free(*held[150:], *range(300, 380))
    script.empty_cache()
    for values in ends(policy):
        stats = replay_mechanism(pack(script.program()), policy, values).stats
        assert stats["allocated_bytes.all.current"] == 0
        assert stats["requested_bytes.all.current"] == 0
        requested, allocated, reserved = (
            stats[f"{what}_bytes.all.peak"] for what in ("requested", "allocated", "reserved")
        )
        assert requested <= allocated <= reserved
        if policy.name in KEEPS_SCRAPS:
            assert stats["reserved_bytes.all.current"] < reserved
        elif policy.honours.returns:
            assert stats["reserved_bytes.all.current"] == 0
        else:
            assert stats["num_device_free"] == 0


@EVERY
def test_freed_memory_is_used_again(policy: Mechanism) -> None:
    for values in ends(policy):
        once, often = make.Script(), make.Script()
        for script, rounds in ((once, 1), (often, 50)):
            for _ in range(rounds):
                script.free(*script.mallocs(700, 5 * MiB, 70 * MiB, 30_000, 700))
        first = replay_mechanism(pack(once.program()), policy, values).stats
        last = replay_mechanism(pack(often.program()), policy, values).stats
        assert last["reserved_bytes.all.peak"] == first["reserved_bytes.all.peak"]


@EVERY
def test_two_replays_are_equal(policy: Mechanism) -> None:
    packed = pack(make.random_program(9, 4000, streams=2, pools=1))
    one, two = (replay_mechanism(packed, policy, addresses=True) for _ in range(2))
    assert one.stats == two.stats
    assert np.array_equal(one.addr, two.addr)


@EVERY
def test_an_empty_program_takes_nothing(policy: Mechanism) -> None:
    run = replay_mechanism(pack(make.Script().program()), policy)
    assert run.n_ops == 0 and run.first_oom_op == -1
    assert run.stats["allocated_bytes.all.peak"] == 0


@EVERY
def test_one_huge_request_is_served_or_reported(policy: Mechanism) -> None:
    script = make.Script()
    script.free(script.malloc(3 * GiB + 1))
    for values in ends(policy):
        run = replay_mechanism(pack(script.program()), policy, values)
        assert run.stats["num_ooms"] == 0
        assert run.stats["reserved_bytes.all.peak"] > 3 * GiB
        tight = replay_mechanism(pack(script.program()), policy, values, Device(2 * GiB))
        assert (tight.first_oom_op, tight.first_oom_bytes, tight.n_ops) == (0, 3 * GiB + 1, 1)


@EVERY
def test_stays_within_the_device_and_goes_on_after_a_failure(policy: Mechanism) -> None:
    for seed, values in enumerate(ends(policy)):
        program = make.random_program(seed, 3000, streams=2)
        room = 700 * MiB
        run = replay_mechanism(pack(program), policy, values, Device(room), stop_at_oom=False)
        assert run.n_ops == program.n_ops
        assert run.stats["num_ooms"] > 0
        assert run.stats["reserved_bytes.all.peak"] <= room


@EVERY
def test_states_its_source_and_its_parameters(policy: Mechanism) -> None:
    assert len(policy.source.split()) >= 3, "a file alone does not say which part of it"
    for p in policy.params:
        assert p.low <= p.default <= p.high and p.low < p.high
        assert len(p.doc.split()) >= 3


@EVERY
def test_a_value_out_of_range_is_refused(policy: Mechanism) -> None:
    packed = pack(make.Script().program())
    for p in policy.params:
        with pytest.raises(PolicyError, match=f"{policy.name}: {p.name} = .* is outside"):
            replay_mechanism(packed, policy, {p.name: 2 * p.high})


def test_every_policy_has_a_twin() -> None:
    assert TWINS.keys() == MECHANISMS.keys()


@EVERY
@pytest.mark.interpreted
def test_agrees_with_its_twin_on_any_program(policy: Mechanism) -> None:
    """Every address and every number, on devices that fill up and that do not."""
    compared = 0
    for seed in range(30):
        rng = random.Random(seed)
        program = make.random_program(seed, 400, streams=rng.choice([1, 2, 3]), pools=1)
        device = Device(
            rng.choice([None, rng.randrange(60, 900) * MiB]),
            granularity=rng.choice([2 * MiB, 2 * MiB, 64 * 1024, 8 * MiB]),
        )
        values = rng.choice(ends(policy))
        stop = rng.random() < 0.3
        run = replay_mechanism(
            pack(program), policy, values, device, stop_at_oom=stop, addresses=True
        )
        want = play(program, TWINS[policy.name], values, device, stop)
        for name in ("n_ops", "first_oom_op", "first_oom_bytes"):
            assert getattr(run, name) == getattr(want, name), (seed, name)
        assert run.addr.tolist() == want.addr, seed
        assert {k: run.stats[k] for k in want.stats} == want.stats, seed
        compared += run.n_ops
    assert compared > 3000


def test_breaking_a_policy_is_noticed() -> None:
    """The comparison with a twin can fail: another policy's twin differs."""
    program = make.random_program(3, 400)
    run = replay_mechanism(pack(program), MECHANISMS["first_fit"], addresses=True)
    values = MECHANISMS["first_fit"].defaults
    assert run.addr.tolist() != play(program, TWINS["worst_fit"], values, Device()).addr

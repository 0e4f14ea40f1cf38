"""The contract, over the whole catalogue: what every policy must do, whatever it decides."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest

from tightfit.policies.catalogue import MECHANISMS, POLICIES
from tightfit.policies.conformance import (
    CLAIMS,
    MANY_OPS,
    Claim,
    Trial,
    examine,
    most_operations,
)
from tightfit.policies.variant import Variant
from tightfit.sim.device import Device
from tightfit.sim.ground import drop_block, new_block
from tightfit.sim.ground_driver import driver_free, driver_malloc
from tightfit.sim.mechanism import Foresight, Honours, Mechanism
from tightfit.sim.mechanism_replay import replay_mechanism
from tightfit.sim.packing import pack
from tightfit.traces.jit import inline
from tightfit.traces.program import Program
from tightfit.traces.units import MiB

from .. import strategies as make
from .twins import TWINS
from .twins.playing import play

EVERY = pytest.mark.parametrize("policy", MECHANISMS.values(), ids=MECHANISMS)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("claim", CLAIMS, ids=lambda c: c.name)
def test_every_policy_keeps_every_claim(policy: Mechanism | Variant, claim: Claim) -> None:
    (verdict,) = examine(policy, [claim])
    assert verdict.holds, verdict.fault
    assert verdict.operations >= (MANY_OPS if claim.name == "blocks" else 0)


@pytest.mark.parametrize("name", ["best_fit", "buddy", "arena"])
@pytest.mark.parametrize("many", [1, 25_000])
def test_no_more_operations_are_tried_than_are_announced(name: str, many: int) -> None:
    policy = POLICIES[name]
    tried = sum(v.operations for v in examine(policy, CLAIMS, many, 4000))
    assert 0.6 * most_operations(policy, many, 4000) < tried <= most_operations(policy, many, 4000)


# --- policies that break a claim each, so that every claim is known to be able to fail ---


@inline
def _direct(m, size, lane):
    """Every request is a cudaMalloc of its own."""
    a = driver_malloc(m, size)
    if a < 0:
        return np.int64(0)
    b = new_block(m)
    m.addr[b] = a
    m.size[b] = size
    return b


def _give_back(m, b):
    driver_free(m, m.size[b])
    drop_block(m, b)


def _forget(m, b):
    drop_block(m, b)


def _same_place(m, size, lane):
    b = _direct(m, size, lane)
    if b != 0:
        m.addr[b] = 0x7F0000000000
    return b


def _crooked(m, size, lane):
    b = _direct(m, size, lane)
    if b != 0:
        m.addr[b] += 4
    return b


def _too_little(m, size, lane):
    b = _direct(m, size, lane)
    if b != 0:
        m.size[b] = size - size // 2
    return b


def _never(m, size, lane):
    return np.int64(0)


def _says_it_returns(m):
    return np.int64(0)


SAID = "no paper at all"
RETURNS = Honours(returns=True)
BREAKERS = {
    "blocks": Mechanism("same_place", SAID, _same_place, _give_back),
    "blocks, aligned": Mechanism("crooked", SAID, _crooked, _give_back),
    "conservation": Mechanism("forgets", SAID, _direct, _forget, _says_it_returns, honours=RETURNS),
    "conservation, sizes": Mechanism("too_little", SAID, _too_little, _give_back, honours=RETURNS),
    "conservation, said": Mechanism("returns", SAID, _direct, _give_back),
    "reuse": Mechanism("forgets", SAID, _direct, _forget),
    "huge request": Mechanism("never", SAID, _never, _forget),
    "declaration": Mechanism("direct", "me", _direct, _give_back),
}


@pytest.mark.interpreted
@pytest.mark.parametrize("case", BREAKERS)
def test_a_policy_that_breaks_a_claim_is_found_out(case: str) -> None:
    claim = next(c for c in CLAIMS if c.name == case.partition(",")[0])
    (verdict,) = examine(BREAKERS[case], [claim], many=500)
    assert verdict.holds is False and verdict.fault


@pytest.mark.interpreted
def test_parameters_are_tried_at_both_ends() -> None:
    tried = Trial(MECHANISMS["best_fit"]).ends()
    for p in MECHANISMS["best_fit"].params:
        assert {v[p.name] for v in tried} == {p.low, p.default, p.high}


def test_every_policy_has_a_twin() -> None:
    assert TWINS.keys() == MECHANISMS.keys()


@cache
def written_once(seed: int, streams: int) -> Program:
    """A random program; to write it takes longer than most policies take to play it."""
    return make.random_program(seed, 400, streams=streams, pools=1)


@EVERY
@pytest.mark.interpreted
def test_agrees_with_its_twin_on_any_program(policy: Mechanism) -> None:
    """Every address and every number, on devices that fill up and that do not."""
    compared = 0
    for seed in range(make.tries(30)):
        rng = random.Random(seed)
        program = written_once(seed, rng.choice([1, 2, 3]))
        device = Device(
            rng.choice([None, rng.randrange(60, 900) * MiB]),
            granularity=rng.choice([2 * MiB, 2 * MiB, 64 * 1024, 8 * MiB]),
        )
        values = rng.choice(Trial(policy).ends())
        stop = rng.random() < 0.3
        run = replay_mechanism(
            pack(program), policy, values, device, stop_at_oom=stop, addresses=True
        )
        told = policy.foresight(pack(program), values) if policy.foresight else Foresight()
        want = play(
            program,
            TWINS[policy.name],
            values,
            device,
            stop,
            told.hints.tolist(),
            tuple(told.words.tolist()),
        )
        for name in ("n_ops", "first_oom_op", "first_oom_bytes"):
            assert getattr(run, name) == getattr(want, name), (seed, name)
        assert run.addr.tolist() == want.addr, seed
        assert {k: run.stats[k] for k in want.stats} == want.stats, seed
        compared += run.n_ops
    assert compared > make.tries(3000)


def test_breaking_a_policy_is_noticed() -> None:
    """The comparison with a twin can fail: another policy's twin differs."""
    program = make.random_program(3, 400)
    run = replay_mechanism(pack(program), MECHANISMS["first_fit"], addresses=True)
    values = MECHANISMS["first_fit"].defaults
    assert run.addr.tolist() != play(program, TWINS["worst_fit"], values, Device()).addr


def _odd(sizes: np.ndarray, values: object) -> np.ndarray:
    return sizes + 7 * (sizes % 13)


@pytest.mark.interpreted
def test_blocks_of_sizes_that_are_no_multiples_of_anything_never_overlap() -> None:
    odd = Variant("odd", "an example of no use", rounds=_odd, alignment=1)
    claim = next(c for c in CLAIMS if c.name == "blocks")
    (verdict,) = examine(odd, [claim], many=2000, length=2000)
    assert verdict.holds, verdict.fault

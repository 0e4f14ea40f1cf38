"""Rounding: worked sizes, and the same addresses as the plain reference on rounded requests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tightfit.policies.playing import play_policy
from tightfit.policies.pytorch import PYTORCH
from tightfit.policies.rounding import ROUNDING, rounds
from tightfit.policies.variant import Variant
from tightfit.sim.device import Device
from tightfit.sim.packing import pack
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import release
from tightfit.sim.settings import Settings

from ..strategies import random_program
from .playing import KiB, MiB

pytestmark = pytest.mark.interpreted
RULES = release("2.15")


def naive(size: int, granularity: int, divisions: int) -> int:
    """Walk through all sizes there are, up to the first that is enough."""
    power = 1
    while 2 * power <= size:
        power *= 2
    step = max(power // divisions, granularity)
    block = 0
    while block < size:
        block += step
    return block


@pytest.mark.parametrize(
    ("asked", "granularity", "divisions", "block"),
    [
        (1, 512, 8, 512),
        (5000, 512, 8, 5120),  # an eighth of 4096 is 512
        (9 * MiB, 512, 8, 9 * MiB),
        (9 * MiB + 1, 512, 8, 10 * MiB),
        (9 * MiB + 1, 512, 1, 16 * MiB),
        (9 * MiB + 1, 512, 64, 9 * MiB + 128 * KiB),
        (5000, 64 * KiB, 8, 64 * KiB),
    ],
)
def test_sizes_round_as_worked_out(
    asked: int, granularity: int, divisions: int, block: int
) -> None:
    values = {"granularity": granularity, "divisions": divisions}
    assert rounds(np.array([asked]), values).tolist() == [block]
    assert naive(asked, granularity, divisions) == block


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_the_reference_on_requests_rounded_by_hand(seed: int) -> None:
    program = random_program(seed, 300, streams=2, pools=1)
    values = {"granularity": [512, 4096, 1 << 18][seed % 3], "divisions": [1, 8, 64][seed % 3]}
    device = Device([None, 500 * MiB][seed % 2])
    run = play_policy(
        pack(program), ROUNDING, values, device, RULES, stop_at_oom=False, addresses=True
    )
    sizes = [naive(int(size), **values) for size in program.req_size]
    rounded = replace(program, req_size=np.array(sizes, np.int64))
    want = replay_reference(rounded, Settings(), RULES, device, stop_at_oom=False)
    assert run.addr.tolist() == want.addr.tolist()
    for name in ("reserved_bytes.all.peak", "allocated_bytes.all.peak", "num_ooms"):
        assert run.stats[name] == want.stats[name], name


def test_a_variant_never_passes_for_the_policy_that_it_changes() -> None:
    """What is compiled for the one is found again by its key, and is not what the other needs."""
    assert Variant(PYTORCH.name, PYTORCH.source).key != PYTORCH.key

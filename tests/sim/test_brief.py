"""A block that is freed as soon as it was handed out is passed over, and nothing shows."""

from __future__ import annotations

import random

import pytest

from tightfit.policies.native import replay_native, requests_of
from tightfit.policies.pytorch import PYTORCH
from tightfit.sim import replay as replaying
from tightfit.sim.device import Device
from tightfit.sim.memory import Fields
from tightfit.sim.packing import Packed, pack
from tightfit.sim.policy import Policy
from tightfit.sim.release import release
from tightfit.sim.replay import replay
from tightfit.sim.settings import OFF, Settings
from tightfit.sim.state import HIGHEST_ID, ID_STEP
from tightfit.traces.random_programs import random_size, random_steps, write
from tightfit.traces.script import Script
from tightfit.traces.units import GiB, KiB, MiB

from .. import strategies as make
from .agreement import both, differences


class WithBriefOnes(Script):
    """A script in which about every second allocation follows one that is freed at once."""

    def __init__(self, rng: random.Random, streams: int, pools: int) -> None:
        super().__init__(streams, pools)
        self.rng = rng

    def malloc(self, size: int, stream: int = 0, pool: int = 0) -> int:
        if self.rng.random() < 0.5:
            self.free(super().malloc(random_size(self.rng), stream, pool))
        return super().malloc(size, stream, pool)


@pytest.mark.parametrize("seed", range(make.tries(60)))
@pytest.mark.interpreted
def test_what_is_freed_at_once_is_counted_as_if_it_had_been_placed(seed: int) -> None:
    rng = random.Random(seed)
    rules = release(rng.choice(make.RELEASES))
    script = WithBriefOnes(rng, rng.choice([1, 2, 3]), rng.choice([0, 1, 2]))
    write(script, random_steps(rng, 200))
    settings = Settings(
        expandable_segments=rng.random() < 0.5,
        max_split_size=rng.choice([OFF, 32 * MiB, 64 * MiB]),
        garbage_collection_threshold=rng.choice([0.0, 0.0, 0.3]),
        per_process_memory_fraction=rng.choice([1.0, 0.6]),
        roundup_divisions=(rng.choice([0, 2, 8]),) * 16,
    )
    device = Device(rng.choice([None, 80 * GiB, rng.randrange(60, 900) * MiB]))
    kernel, reference = both(
        script.program(), settings, rules, device, stop_at_oom=rng.random() < 0.3
    )
    assert differences(kernel, reference) == []


@pytest.mark.parametrize("expandable", [False, True])
@pytest.mark.parametrize("pending", [0, 5 * MiB])
@pytest.mark.parametrize("size", [3 * MiB, 19 * MiB + 512 * KiB, 20 * MiB])
@pytest.mark.interpreted
def test_its_size_makes_the_peaks(size: int, pending: int, expandable: bool) -> None:
    """A part of a block, or all of one that is too little larger to be split."""
    script = Script(streams=2)
    if pending:
        script.free_later(script.malloc(pending))
    script.free(script.malloc(20 * MiB))
    script.malloc(30 * MiB)  # does not fit in what is free now
    script.free(script.malloc(size))
    rules, settings = release("2.15"), Settings(expandable_segments=expandable)
    kernel, reference = both(script.program(), settings, rules, Device())
    assert differences(kernel, reference) == []
    assert kernel.stats["requested_bytes.all.peak"] == pending + 30 * MiB + size


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[Fields]:
    """The states of the replays that are over."""
    kept: list[Fields] = []
    monkeypatch.setattr(replaying, "keep_for_next", kept.append)
    return kept


def one_brief_block() -> Packed:
    script = Script()
    script.free(script.malloc(20 * MiB))  # a segment of which the next one takes a part
    script.free(script.malloc(3 * MiB))
    return pack(script.program())


@pytest.mark.parametrize(("is_seen", "rows"), [(False, 1), (True, 2)])
def test_it_takes_no_row_of_the_table_unless_somebody_looks(
    is_seen: bool, rows: int, states: list[Fields]
) -> None:
    replay_native(one_brief_block(), Settings(), release("2.15"), events=is_seen)
    assert states[0]["g"][HIGHEST_ID] == rows * ID_STEP


def test_a_policy_that_does_not_say_it_leaves_no_trace_sees_every_block(
    states: list[Fields],
) -> None:
    packed = one_brief_block()
    requests = requests_of(packed.program, Settings(), release("2.15"), Device())
    replay(packed, Policy("another", "the test", PYTORCH.hooks), requests)
    assert states[0]["g"][HIGHEST_ID] == 2 * ID_STEP

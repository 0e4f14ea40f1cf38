"""The kernel against the reference: every address, event, counter and final block."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tightfit.policies.native import replay_native, requests_of, round_sizes
from tightfit.sim.conditions import Conditions
from tightfit.sim.device import Device
from tightfit.sim.packing import pack
from tightfit.sim.plan import build_plan
from tightfit.sim.reference import replay_reference
from tightfit.sim.reference_allocator import round_size
from tightfit.sim.release import release
from tightfit.sim.settings import OFF, Settings
from tightfit.sim.state import ID_STEP, STATE
from tightfit.traces.errors import PolicyError
from tightfit.traces.script import Script
from tightfit.traces.units import GiB, MiB

from .. import strategies as make
from .agreement import both, differences

LAX = examples(
    max_examples=make.tries(150), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@LAX
@given(st.data())
@pytest.mark.interpreted
def test_agrees_with_the_reference_on_any_program(data: st.DataObject) -> None:
    rules = data.draw(make.releases())
    kernel, reference = both(
        data.draw(make.programs()),
        data.draw(make.settings(rules)),
        rules,
        data.draw(make.devices()),
        keep_start=data.draw(st.booleans()),
        stop_at_oom=data.draw(st.booleans()),
    )
    assert differences(kernel, reference) == []


@LAX
@given(st.data())
@pytest.mark.interpreted
def test_agrees_with_the_reference_when_conditions_change(data: st.DataObject) -> None:
    rules = data.draw(make.releases())
    settings, device = data.draw(make.settings(rules)), data.draw(make.devices())
    later = data.draw(make.later(rules, settings, device))
    places = data.draw(st.lists(st.integers(0, 99), min_size=len(later), max_size=len(later)))
    kernel, reference = both(
        make.changed(data.draw(make.programs()), places),
        settings,
        rules,
        device,
        limit_fraction=data.draw(st.sampled_from([None, 0.3, 1.0])),
        later=later,
        keep_start=data.draw(st.booleans()),
        stop_at_oom=data.draw(st.booleans()),
    )
    assert differences(kernel, reference) == []


@pytest.mark.interpreted
def test_more_pools_than_allocations_are_no_trouble() -> None:
    script = make.Script(pools=12)
    script.free(script.malloc(512))
    for pool in range(1, 13):
        script.release_pool(pool)
    kernel, reference = both(script.program(), Settings(), release("2.15"), Device())
    assert differences(kernel, reference) == []


def test_every_change_needs_its_conditions() -> None:
    packed = pack(make.changed(make.random_program(1, 50), [7, 20]))
    with pytest.raises(ValueError, match="2 changes, but 0 later conditions"):
        replay_native(packed, Settings(), release("2.15"))


def test_pages_of_expandable_memory_keep_their_size() -> None:
    packed = pack(make.changed(make.random_program(1, 50), [7]))
    on = Settings(expandable_segments=True)
    then = Conditions(Settings(large_segment_size=32 * MiB), Device())
    with pytest.raises(PolicyError, match="found large_segment_size_mb of 20, 32 in turn"):
        replay_native(packed, on, release("2.15"), later=[then])
    parts = [
        requests_of(packed.program, settings, release("2.15"), Device())
        for settings in (on, then.settings)
    ]
    with pytest.raises(ValueError, match="large_segment_size_mb changes at run time"):
        build_plan(packed.program, parts)


@pytest.mark.parametrize("seed", range(make.tries(40)))
@pytest.mark.interpreted
def test_agrees_with_the_reference_on_longer_programs(seed: int) -> None:
    rng = random.Random(seed)
    rules = release(rng.choice(make.RELEASES))
    program = make.random_program(
        seed,
        400,
        streams=rng.choice([1, 2, 3]),
        pools=rng.choice([0, 1, 2]),
        start_ops=rng.choice([0, 150]),
        start_settings=Settings(expandable_segments=rng.random() < 0.5),
    )
    settings = Settings(
        expandable_segments=rng.random() < 0.5,
        max_split_size=rng.choice([OFF, 32 * MiB, 64 * MiB]),
        garbage_collection_threshold=rng.choice([0.0, 0.3, 0.8]),
        per_process_memory_fraction=rng.choice([1.0, 0.6]),
        roundup_divisions=(rng.choice([0, 2, 8]),) * 16,
    )
    device = Device(rng.choice([None, 80 * GiB, rng.randrange(60, 900) * MiB]))
    kernel, reference = both(program, settings, rules, device, stop_at_oom=rng.random() < 0.5)
    assert differences(kernel, reference) == []


def test_grows_its_state_in_the_middle_of_a_replay() -> None:
    # 6,000 live blocks in ever new segments, more ids than a state starts with
    script = make.Script()
    for k in range(9000):
        a = script.malloc(3 * MiB + 512 * (k % 7))
        script.malloc(512 * (k % 5 + 1))
        if k % 3 == 0:
            script.free(a)
    program = script.program()
    packed = pack(program)
    small = replay_native(packed, Settings(), release("2.15"), track=True, events=True, layout=True)
    object.__setattr__(packed, "max_live", 1)  # start as small as the state can be
    grown = replay_native(packed, Settings(), release("2.15"), track=True, events=True, layout=True)
    assert np.array_equal(small.events, grown.events)
    assert small.stats == grown.stats


def test_lean_and_full_statistics_are_the_same_numbers() -> None:
    program = make.random_program(3, 500, streams=2, pools=1)
    packed = pack(program)
    lean = replay_native(packed, Settings(), release("2.13"))
    full = replay_native(packed, Settings(), release("2.13"), track=True)
    assert {k: full.stats[k] for k in lean.stats} == lean.stats


@given(st.integers(1, 1 << 36), st.sampled_from([0, 1, 2, 4, 8, 16, 64]))
def test_rounds_as_the_reference_does(size: int, divisions: int) -> None:
    table = (divisions,) * 16
    want = round_size(size, Settings(roundup_divisions=table))
    assert round_sizes(np.array([size]), table)[0] == want


def test_breaking_the_kernel_is_noticed() -> None:
    """The comparison itself can fail: one option off by one byte is a difference."""
    program = make.random_program(5, 300)
    rules = release("2.15")
    packed = pack(program)
    kernel = replay_native(
        packed, Settings(max_split_size=64 * MiB), rules, track=True, events=True, layout=True
    )
    reference = replay_reference(program, Settings(max_split_size=20 * MiB), rules)
    assert differences(kernel, reference)


def test_state_fields_overlap_only_where_they_are_said_to() -> None:
    buffer = STATE.new(
        blocks=10, slots=3, bins=5, words0=1, words1=1, lanes=1, pools=8, stats=1, log=1
    )
    columns = [name for name, _ in STATE.columns]
    fields = {
        name: field[: 10 * ID_STEP : ID_STEP] if name in columns else field
        for name, field in STATE.views(buffer).items()
    }
    for k, field in enumerate(fields.values()):
        field[:] = k
    for k, (name, field) in enumerate(fields.items()):
        assert (field == k).all() == (name not in ("child", "sibling")), name


@pytest.mark.interpreted
@pytest.mark.parametrize("seed", range(4))
def test_requests_of_terabytes_are_ranked_like_others(seed: int) -> None:
    """Beyond what a cell of the rank table can hold: ranks there once led out of the tables."""
    rng = random.Random(seed)
    script, held = Script(), []
    for _ in range(160):
        size = rng.choice([1 << rng.randint(38, 48), (1 << 41) + rng.randint(-3, 3) * 2 * MiB])
        held.append(script.malloc(size + rng.choice([0, 512, 6 * GiB])))
        held.append(script.malloc(rng.randint(1, 40) * MiB))
        while len(held) > 12:
            script.free(held.pop(rng.randrange(len(held))))
    rules = release("2.15")
    for device in (Device(), Device(1 << 45)):
        settings = Settings(max_split_size=rng.choice([OFF, 1 << 41]))
        kernel, reference = both(script.program(), settings, rules, device, stop_at_oom=False)
        assert differences(kernel, reference) == []

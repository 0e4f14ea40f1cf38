"""Plans: rank tables hold what they say, and a plan that is reused is the one built anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightfit.policies.native import replay_native
from tightfit.sim import plan
from tightfit.sim.device import Device
from tightfit.sim.packing import pack
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.units import MiB

from .. import strategies as make
from .agreement import both, differences


def rank_by_table(bits: int, top: int, cells: np.ndarray, sizes: np.ndarray, size: int) -> int:
    """What sim.index.rank does with a table, in plain Python."""
    units = min(size, top)
    e = max(units.bit_length() - 1 - bits, 0)
    g = int(cells[(e << bits) + (units >> e)])
    while g < len(sizes) and sizes[g] <= size:
        g += 1
    return g


@given(
    st.sets(st.integers(1, 1 << 24), max_size=40),
    st.lists(st.integers(1, 1 << 31), max_size=40),
    st.sampled_from([6, 8, 11]),
)
def test_a_rank_table_never_overshoots(sizes: set[int], others: list[int], finest: int) -> None:
    units = np.array(sorted(sizes), np.int64)
    bits, top, cells = plan._rank_table(units, finest)
    assert plan.COARSE <= bits <= finest
    near = [x + d for x in sizes for d in (-1, 0, 1) if x + d > 0]
    for size in [*others, *near, max(1, top), top + 1]:
        wanted = int(np.searchsorted(units, size, side="right"))
        assert rank_by_table(bits, top, cells, units, size) == wanted


def test_a_finer_table_is_made_only_where_sizes_are_close() -> None:
    apart, close = np.array([1000, 2000, 4000]), np.array([1000, 1001, 4000])
    assert plan._rank_table(apart, plan.FINE)[0] == plan.COARSE
    assert plan._rank_table(close, plan.FINE)[0] > plan.COARSE
    assert plan._rank_table(close, plan.COARSE)[0] == plan.COARSE


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.interpreted
def test_long_programs_fine_tables_agree_with_the_reference(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "LONG_TRACE", 0)
    program = make.random_program(seed, 300, sizes=[4 * MiB + 512 * k for k in range(40)])
    device = Device(None if seed % 3 else 300 * MiB)
    kernel, reference = both(
        program, Settings(expandable_segments=seed % 2 == 0), release("2.15"), device
    )
    assert differences(kernel, reference) == []


@pytest.mark.parametrize("start_ops", [0, 60])
def test_a_reused_plan_answers_like_a_new_one(start_ops: int) -> None:
    program = make.random_program(
        7, 400, start_ops=start_ops, start_settings=Settings(expandable_segments=True)
    )
    lines = [
        Settings(),
        Settings(max_split_size=64 * MiB),
        Settings(roundup_divisions=(4,) * 16),
        Settings(large_segment_size=64 * MiB, max_split_size=128 * MiB),
        Settings(expandable_segments=True),
        Settings(expandable_segments=True, large_segment_size=64 * MiB),
        Settings(expandable_segments=True, large_segment_size=64 * MiB, max_split_size=64 * MiB),
        Settings(),
    ]
    packed = pack(program)
    for settings in lines + lines[::-1]:
        shared = replay_native(packed, settings, release("2.15"), track=True, events=True)
        alone = replay_native(pack(program), settings, release("2.15"), track=True, events=True)
        assert np.array_equal(shared.events, alone.events)
        assert shared.stats == alone.stats
    assert 1 < len(packed.plans) < len(lines)


def test_no_more_plans_are_kept_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "PLANS_KEPT", 2)
    packed = pack(make.random_program(7, 60))
    for divisions in (0, 2, 4, 8):
        replay_native(packed, Settings(roundup_divisions=(divisions,) * 16), release("2.15"))
        assert len(packed.plans) <= 2

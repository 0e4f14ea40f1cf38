"""Assumptions: which one holds of a run, and that none changes an answer."""

from __future__ import annotations

import numpy as np
import pytest

from tightfit.policies.native import replay_native
from tightfit.sim import replay as replaying
from tightfit.sim.assumed import EXPANDING, NOTHING, PLAIN, assumption
from tightfit.sim.device import Device
from tightfit.sim.memory import Fields
from tightfit.sim.packing import pack
from tightfit.sim.release import KNOWN, release
from tightfit.sim.settings import Settings
from tightfit.sim.state import (
    AGES,
    EXPANDABLE,
    GC_BYTES,
    HIGHEST_ID,
    HUGE,
    ID_STEP,
    MAX_SPLIT,
    MIXED,
    N_OPTIONS,
    TIE_ADDRESS,
    TIE_BLOCK,
    TIE_BREAK,
    TIE_SEGMENT,
    TRACK,
)
from tightfit.traces.units import GiB, MiB

from .. import strategies as make
from .agreement import layout_differences


def options(**values: int) -> np.ndarray:
    opt = np.zeros(N_OPTIONS, np.int64)
    opt[MAX_SPLIT], opt[TIE_BREAK] = HUGE, TIE_ADDRESS
    names = {"ages": AGES, "expandable": EXPANDABLE, "gc": GC_BYTES, "max_split": MAX_SPLIT,
             "mixed": MIXED, "tie": TIE_BREAK, "track": TRACK}  # fmt: skip
    for name, value in values.items():
        opt[names[name]] = value
    return opt


def test_the_default_line_is_plain_and_expandable_segments_have_their_own_code() -> None:
    assert assumption(options(), False, False) is PLAIN
    assert assumption(options(max_split=20 * MiB), False, False) is PLAIN
    assert assumption(options(expandable=1), True, False) is EXPANDING


@pytest.mark.interpreted
@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("start_ops", [0, 40])
def test_age_is_kept_only_where_addresses_do_not_tell_it(
    name: str, start_ops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages: list[bool] = []

    def look(state: Fields) -> None:
        ages.append(bool(state["order"][: state["g"][HIGHEST_ID] + 1 : ID_STEP].any()))

    monkeypatch.setattr(replaying, "keep_for_next", look)
    packed = pack(make.random_program(3, 200, start_ops=start_ops))
    rules = release(name)
    replay_native(packed, Settings(), rules)
    keeps = {"address": False, "segment": start_ops > 0, "block": True}
    assert ages == [keeps[rules.tie_break]]


@pytest.mark.parametrize(
    "values",
    [{"gc": 1}, {"ages": 1}, {"track": 1}, {"mixed": 1}, {"tie": TIE_BLOCK},
     {"tie": TIE_SEGMENT}],
)  # fmt: skip
def test_an_option_that_is_on_leaves_no_assumption(values: dict[str, int]) -> None:
    assert assumption(options(**values), False, False) is NOTHING
    assert assumption(options(expandable=1, **values), True, False) is NOTHING


def test_memory_of_both_kinds_or_a_wish_for_addresses_leaves_none() -> None:
    assert assumption(options(), None, False) is NOTHING
    assert assumption(options(expandable=1), None, False) is NOTHING
    assert assumption(options(), False, True) is NOTHING


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("settings", [Settings(), Settings(expandable_segments=True)])
@pytest.mark.parametrize("gib", [2, 4, 40])
def test_code_under_an_assumption_gives_the_same_answers(
    name: str, settings: Settings, gib: int
) -> None:
    for seed in range(4):
        packed = pack(make.random_program(seed, 3_000, streams=1 + seed % 2))
        lean, full = (
            replay_native(
                packed, settings, release(name), Device(gib * GiB),
                stop_at_oom=False, layout=True, track=track, events=track,
            )
            for track in (False, True)
        )  # fmt: skip
        assert lean.stats.items() <= full.stats.items()
        assert lean.layout is not None and full.layout is not None
        assert layout_differences(lean.layout, full.layout) == []

"""A replay cut short at a bound: cut exactly if the whole exceeds it, and else the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tightfit.policies.native import replay_native
from tightfit.sim.packing import pack
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.synthetic import PATTERNS
from tightfit.traces.units import MiB

from .. import strategies as make
from .agreement import differences


@given(data=st.data())
@hypothesis_settings(max_examples=make.tries(150), deadline=None)
@pytest.mark.interpreted
def test_cut_if_and_only_if_more_is_reserved(data: st.DataObject) -> None:
    rules = data.draw(make.releases())
    packed = pack(data.draw(make.programs()), data.draw(st.booleans()))
    settings, device = data.draw(make.settings(rules)), data.draw(make.devices())
    options: dict[str, Any] = {"track": data.draw(st.booleans()), "layout": True}
    options["stop_at_oom"] = data.draw(st.booleans())
    whole = replay_native(packed, settings, rules, device, **options)
    peak = whole.stats["reserved_bytes.all.peak"]
    near = st.sampled_from([0, peak - MiB, peak - 1, peak, peak + 1, peak // 2])
    bound = max(0, data.draw(near))
    run = replay_native(packed, settings, rules, device, bound=bound, **options)
    assert run.cut == (peak > bound)
    assert not whole.cut
    if run.cut:
        assert run.n_ops <= whole.n_ops
        assert run.stats["reserved_bytes.all.peak"] <= peak
    else:
        assert differences(run, whole) == []


@pytest.mark.parametrize("name", ["train", "serve"])
@pytest.mark.parametrize("expandable", [False, True])
def test_it_ends_at_the_event_that_exceeds_the_bound(name: str, expandable: bool) -> None:
    """With and without looking for repetition."""
    packed, rules = pack(PATTERNS[name](100_000)), release("2.15")
    settings = Settings(expandable_segments=expandable)
    peak = replay_native(packed, settings, rules).stats["reserved_bytes.all.peak"]
    for bound in (peak // 3, peak - 1):
        runs = [
            replay_native(packed, settings, rules, bound=bound, skip=skip) for skip in (True, False)
        ]
        assert runs[0].n_ops == runs[1].n_ops < packed.program.n_ops
        assert all(run.cut and run.stats == runs[0].stats for run in runs)
    assert not replay_native(packed, settings, rules, bound=peak).cut

"""A state that served one run is as good as a new one for the next."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tightfit.policies.native import replay_native
from tightfit.sim import replay as replaying
from tightfit.sim import state_memory
from tightfit.sim.device import Device
from tightfit.sim.memory import Fields
from tightfit.sim.packing import pack
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.sim.state import STATE
from tightfit.traces.units import MiB

from .. import strategies as make
from .agreement import differences


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.interpreted
def test_a_used_state_is_made_new_to_the_last_byte(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    program = make.random_program(seed, 200, start_ops=30 * (seed % 2))
    made: list[tuple[np.ndarray, np.ndarray]] = []
    real = state_memory.new_state

    def watched(*args: Any) -> Fields:
        monkeypatch.setattr(state_memory, "MOST_KEPT", 1 << 40)
        state = real(*args)
        fresh = state_memory._kept.__dict__.pop("state", None)
        assert fresh is None
        made.append((state.buffer.copy(), real(*args).buffer))
        return state

    monkeypatch.setattr(replaying, "new_state", watched)
    rules = release(rng.choice(make.RELEASES))
    for _ in range(4):
        settings = Settings(expandable_segments=rng.random() < 0.5)
        device = Device(rng.choice([None, rng.randrange(50, 600) * MiB]))
        replay_native(pack(program, rng.random() < 0.5), settings, rules, device)
    assert len(made) == 4
    for reused, new in made:
        assert np.array_equal(reused, new)


def test_answers_do_not_depend_on_who_ran_before() -> None:
    rng = random.Random(0)
    programs = [pack(make.random_program(seed, 150)) for seed in range(4)]
    lines = [Settings(), Settings(expandable_segments=True), Settings(max_split_size=32 * MiB)]
    rules = release("2.15")

    def fresh(k: int, j: int) -> Any:
        state_memory._kept.__dict__.pop("state", None)
        return replay_native(programs[k], lines[j], rules, track=True, layout=True)

    alone = {(k, j): fresh(k, j) for k in range(4) for j in range(3)}
    for _ in range(100):
        k, j = rng.randrange(4), rng.randrange(3)
        again = replay_native(programs[k], lines[j], rules, track=True, layout=True)
        assert differences(again, alone[k, j]) == []


def test_a_large_state_is_not_kept() -> None:
    state_memory._kept.__dict__.pop("state", None)
    large = np.zeros(state_memory.MOST_KEPT // 8 + 1, np.int64)
    state_memory.keep_for_next(STATE.views(large))
    assert getattr(state_memory._kept, "state", None) is None

"""A policy made of hooks costs what PyTorch's own costs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tightfit.experiments.policy_template import HOOKS
from tightfit.policies.native import replay_native, requests_of
from tightfit.policies.user_file import load_user_policy
from tightfit.policies.variant import Variant
from tightfit.sim.device import Device
from tightfit.sim.packing import pack
from tightfit.sim.release import release
from tightfit.sim.replay import replay
from tightfit.sim.settings import Settings

from ..strategies import random_program

SAME = {"least": 512}  # with this the template decides as PyTorch does, so the work is the same
MOST = 1.5  # times the native kernel's time per event
RULES = release("2.15")


@pytest.mark.slow
def test_a_hook_based_policy_runs_within_one_and_a_half_times_of_the_native_one(
    tmp_path: Path,
) -> None:
    """Measured in one process, in turns, the least of many, so that other work does not count."""
    file = tmp_path / "mine.py"
    file.write_text(HOOKS.format(name="Mine", plain="mine"))
    policy = load_user_policy(str(file))
    assert isinstance(policy, Variant)
    packed = pack(random_program(1, 200_000, streams=2))
    requests = requests_of(packed.program, Settings(), RULES, Device())

    def native() -> None:
        replay_native(packed, Settings(), RULES)

    def hooked() -> None:
        replay(packed, policy, requests, values=SAME)

    assert replay(packed, policy, requests, values=SAME).stats == (
        replay_native(packed, Settings(), RULES).stats
    )
    best = {native: 1e9, hooked: 1e9}
    for _ in range(25):
        for run in best:
            start = time.perf_counter()
            run()
            best[run] = min(best[run], time.perf_counter() - start)
    ratio = best[hooked] / best[native]
    print(f"{1e9 * best[native] / len(packed.events):.1f} ns native, ratio {ratio:.2f}")
    assert ratio < MOST

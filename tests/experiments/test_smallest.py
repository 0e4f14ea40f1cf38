"""The smallest device: what a search one step at a time finds, and an end where there is none."""

from __future__ import annotations

import pytest

from tightfit.experiments.smallest import (
    CAPACITY_STEP,
    LARGEST,
    ran,
    smallest_device,
    sure_device,
)
from tightfit.policies.native import replay_native
from tightfit.sim.device import Device
from tightfit.sim.release import KNOWN, release
from tightfit.sim.settings_line import parse_settings
from tightfit.traces.units import GiB, MiB

from .test_tune import subject

RULES = release(KNOWN[-1])


def found(line: str, other: int = 0) -> tuple[int | None, list[int]]:
    """What is found for a small recording under a line, and the devices tried for it."""
    settings, packed, tried = parse_settings(line, RULES), subject("streams.default").kept, []

    def fits(total: int) -> bool:
        tried.append(total)
        return ran(replay_native(packed, settings, RULES, Device(total, other)))

    return smallest_device(fits, replay_native(packed, settings, RULES), other), tried


@pytest.mark.parametrize("other", [0, 500 * MiB + 1])
@pytest.mark.parametrize(
    "line", ["", "expandable_segments:True", "per_process_memory_fraction:0.37"]
)
def test_it_runs_there_and_on_none_that_is_one_step_smaller(line: str, other: int) -> None:
    least, _ = found(line, other)
    assert least is not None
    settings, packed = parse_settings(line, RULES), subject("streams.default").kept
    runs = [
        ran(replay_native(packed, settings, RULES, Device(total, other)))
        for total in range(other + CAPACITY_STEP, least + 20 * MiB, CAPACITY_STEP)
    ]
    assert runs.index(True) * CAPACITY_STEP + other + CAPACITY_STEP == least


def test_a_share_of_a_large_device_is_found_in_a_few_steps() -> None:
    least, tried = found("per_process_memory_fraction:0.0001")
    assert least is not None and least > 100 * GiB
    assert len(tried) < 60


def test_the_search_ends_where_nothing_is_large_enough() -> None:
    least, tried = found("per_process_memory_fraction:0.000000001")
    assert least is None
    assert LARGEST < max(tried) < 4 * LARGEST and len(tried) < 60


def test_above_the_smallest_some_fail_and_from_the_sure_one_on_all_tried_run() -> None:
    """Where caches are given back later, what stays lies elsewhere: a recording of the kind."""
    packed = subject("cnn_resolutions.default").kept
    free = replay_native(packed, parse_settings("", RULES), RULES)

    def fits(total: int) -> bool:
        return ran(replay_native(packed, parse_settings("", RULES), RULES, Device(total)))

    least = smallest_device(fits, free)
    assert least == 1398 * MiB and not fits(1418 * MiB)
    sure = sure_device(fits, least, free)
    assert sure == 1420 * MiB
    peak = free.stats["reserved_bytes.all.peak"]
    assert all(fits(total) for total in range(sure, peak + CAPACITY_STEP, CAPACITY_STEP))
    assert sure_device(lambda total: True, least, free) == least

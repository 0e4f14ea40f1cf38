"""The smallest device: what a search one step at a time finds, and an end where there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tightfit.experiments.smallest import CAPACITY_STEP, LARGEST, Smallest, find_smallest, ran
from tightfit.policies.native import replay_native
from tightfit.sim.device import Device
from tightfit.sim.release import KNOWN, release
from tightfit.sim.run import Run
from tightfit.sim.settings_line import parse_settings
from tightfit.traces.units import GiB, MiB

from .test_tune import subject

RULES = release(KNOWN[-1])


def playing(name: str, line: str, other: int = 0) -> tuple[Callable[[int], Run], Run, list[int]]:
    """A recording's run under a line by the device's size, that without an end, and sizes asked."""
    settings, packed, asked = parse_settings(line, RULES), subject(name).kept, []

    def play(total: int) -> Run:
        asked.append(total)
        return replay_native(packed, settings, RULES, Device(total, other))

    return play, replay_native(packed, settings, RULES), asked


@pytest.mark.parametrize("other", [0, 500 * MiB + 1])
@pytest.mark.parametrize(
    "name, line",
    [
        ("streams.default", ""),
        ("streams.default", "expandable_segments:True"),
        ("streams.default", "per_process_memory_fraction:0.37"),
        ("cnn_resolutions.default", ""),
        ("cnn_resolutions.default", "max_split_size_mb:20"),
        ("gpt_checkpoint.default", "expandable_segments:True"),
        ("diffusion.default", ""),
    ],
)
def test_no_smaller_device_is_large_enough(name: str, line: str, other: int) -> None:
    play, free, asked = playing(name, line, other)
    found = find_smallest([play], [free], other)
    assert found is not None and found.proven
    sizes = range(other + CAPACITY_STEP, found.bytes + CAPACITY_STEP, CAPACITY_STEP)
    assert [total for total in sizes if ran(play(total))] == [found.bytes]
    assert all(ran(play(total)) for total in set(asked) if total >= found.sure_bytes)


def test_less_memory_may_be_enough_where_more_is_not() -> None:
    """Bisection alone takes 1,754 MiB for it: 76 MiB less is enough, and much between is not."""
    play, free, _ = playing("diffusion.default", "")
    assert find_smallest([play], [free]) == Smallest(1678 * MiB, True, 1754 * MiB)
    assert find_smallest([play], [free], most=0) == Smallest(1754 * MiB, False, 1754 * MiB)


def test_above_the_smallest_some_fail_and_from_the_sure_one_on_all_run() -> None:
    """Where caches are given back later, what stays lies elsewhere: a recording of the kind."""
    play, free, _ = playing("cnn_resolutions.default", "")
    found = find_smallest([play], [free])
    assert found is not None and found == Smallest(1398 * MiB, True, 1420 * MiB)
    assert not ran(play(1418 * MiB))
    peak = free.stats["reserved_bytes.all.peak"]
    assert all(ran(play(t)) for t in range(found.sure_bytes, peak + CAPACITY_STEP, CAPACITY_STEP))


def test_of_several_programs_every_one_must_run() -> None:
    """The greater of two smallest devices may be too small for the program that needs less."""
    needs_more, free, _ = playing("cnn_resolutions.default", "")

    def needs_less(total: int) -> Run:
        return needs_more(total if total == 1390 * MiB or total > 1398 * MiB else CAPACITY_STEP)

    alone = find_smallest([needs_more], [free])
    assert alone is not None and alone.bytes == 1398 * MiB
    found = find_smallest([needs_more, needs_less], [free, free])
    assert found is not None and found.bytes == 1400 * MiB and found.proven


def test_a_share_of_a_large_device_is_found_in_a_few_steps() -> None:
    play, free, asked = playing("streams.default", "per_process_memory_fraction:0.0001")
    found = find_smallest([play], [free], most=0)
    assert found is not None and found.bytes > 100 * GiB and not found.proven
    assert len(asked) < 60


def test_the_search_ends_where_nothing_is_large_enough() -> None:
    play, free, asked = playing("streams.default", "per_process_memory_fraction:0.000000001")
    assert find_smallest([play], [free]) is None
    assert LARGEST < max(asked) < 4 * LARGEST and len(asked) < 60


def test_a_search_among_many_sizes_ends_however_early_each_fails() -> None:
    play, free, asked = playing("streams.default", "per_process_memory_fraction:0.001")
    found = find_smallest([play], [free], most=3_000_000)
    assert found is not None and not found.proven
    assert 100 < len(set(asked)) < 400

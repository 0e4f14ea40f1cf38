"""Best, first, next and worst fit on one example; which hole each of them takes."""

from __future__ import annotations

import pytest

from tightfit.sim.device import Device

from ..strategies import Script
from .playing import KiB, MiB, peak, places, run_of


def holes() -> Script:
    """Three holes between four live blocks: 4 KiB at 1, 2 KiB at 6, 8 KiB at 9 (in KiB).

    The rest of the first 2 MiB page, behind the last block, is free as well.
    """
    script = Script()
    a = script.mallocs(*(k * KiB for k in (1, 4, 1, 2, 1, 8, 1)))
    script.free(a[1], a[3], a[5])
    return script


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("best_fit", [6, 1]),  # the hole of 2 KiB, exactly; then the one of 4 KiB
        ("first_fit", [1, 3]),  # the lowest hole twice: 2 KiB are left of it
        ("next_fit", [18, 20]),  # on from where the last block was served, behind all holes
        ("worst_fit", [18, 20]),  # the rest of the page is the largest
    ],
)
def test_takes_its_hole(name: str, where: list[int]) -> None:
    script = holes()
    script.mallocs(2 * KiB, 2 * KiB)
    assert places(run_of(name, script))[7:] == [k * KiB for k in where]


def test_next_fit_wraps_around_when_nothing_is_left_behind() -> None:
    script = holes()
    script.mallocs(2 * MiB - 18 * KiB, 2 * KiB, 2 * KiB, 4 * KiB)
    assert places(run_of("next_fit", script))[8:] == [1 * KiB, 3 * KiB, 9 * KiB]


def test_worst_fit_prefers_the_lowest_of_equals() -> None:
    script = Script()
    a = script.mallocs(MiB, MiB // 2, MiB // 2, MiB // 2, MiB // 2, MiB)
    script.free(a[1], a[3])
    script.malloc(KiB)
    assert places(run_of("worst_fit", script))[6] == MiB


def test_the_region_grows_by_what_its_free_end_lacks() -> None:
    script = Script()
    script.mallocs(MiB, 3 * MiB)  # 1 MiB of the first page is free: one page more is enough
    run = run_of("best_fit", script)
    assert places(run) == [0, MiB]
    assert peak(run) == 4 * MiB
    assert run.stats["num_device_alloc"] == 2


def test_an_empty_cache_unmaps_the_free_end_only() -> None:
    script = Script()
    a = script.mallocs(2 * MiB, 2 * MiB, 2 * MiB, 2 * MiB)
    script.free(a[0], a[2], a[3])
    script.empty_cache()
    assert run_of("first_fit", script).stats["reserved_bytes.all.current"] == 4 * MiB


def test_memory_another_stream_still_reads_is_waited_for_before_giving_up() -> None:
    script = Script(2)
    a = script.malloc(4 * MiB)
    script.free_later(a)
    script.malloc(3 * MiB, stream=1)
    run = run_of("best_fit", script, Device(4 * MiB))
    assert places(run) == [0, 0]
    assert (run.stats["num_sync_all_streams"], run.stats["num_alloc_retries"]) == (1, 1)
    roomy = run_of("best_fit", script)
    assert places(roomy) == [0, 4 * MiB]


def test_pages_are_no_smaller_than_what_the_driver_gives_out() -> None:
    script = Script()
    script.malloc(KiB)
    assert peak(run_of("best_fit", script, Device(granularity=8 * MiB))) == 8 * MiB


@pytest.mark.parametrize("name", ["best_fit", "first_fit", "next_fit", "worst_fit"])
def test_segments_do_not_join_though_they_touch(name: str) -> None:
    # Two segments of 2 MiB, each all free again: 4 MiB in one piece are not among them.
    script = Script()
    script.free(*script.mallocs(MiB, MiB, MiB, MiB))
    script.malloc(4 * MiB)
    run = run_of(name, script, segment=2 * MiB)
    assert places(run) == [0, MiB, 2 * MiB, 3 * MiB, 4 * MiB]
    assert peak(run) == 8 * MiB
    assert places(run_of(name, script))[4] == 0


def test_free_segments_go_back_whole() -> None:
    script = Script()
    a = script.mallocs(MiB, MiB, MiB)
    script.free(*a[:2])
    script.empty_cache()
    stats = run_of("best_fit", script, segment=2 * MiB).stats
    assert stats["reserved_bytes.all.current"] == 2 * MiB
    assert stats["num_device_free"] == 1

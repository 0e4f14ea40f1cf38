"""TLSF, size classes and pages: worked examples of what rounding up to a class does."""

from __future__ import annotations

from tightfit.sim.device import Device

from ..strategies import Script
from .playing import GiB, KiB, MiB, peak, places, run_of


def test_tlsf_does_not_look_at_a_class_in_which_not_every_block_fits() -> None:
    # Classes of 16 to 16.5 KiB and on, 32 to a doubling. The hole of 16.25 KiB would fit a request
    # of 16.25 KiB, but its class begins at 16; the hole of 20 KiB is searched first.
    script = Script()
    a = script.mallocs(16 * KiB + 256, 512, 20 * KiB, 512)
    script.free(a[0], a[2])
    script.malloc(16 * KiB + 256)
    run = run_of("tlsf", script, quantum=256)
    assert places(run)[4] == places(run)[2]
    assert places(run_of("best_fit", script, quantum=256))[4] == 0


def test_tlsf_takes_the_block_freed_last() -> None:
    script = Script()
    a = script.mallocs(4 * KiB, 512, 4 * KiB, 512, 4 * KiB, 512)
    script.free(a[2], a[4], a[0])
    script.mallocs(4 * KiB, 4 * KiB, 4 * KiB)
    at = places(run_of("tlsf", script))
    assert at[6:] == [at[0], at[4], at[2]]


def test_size_classes_are_evenly_spaced_between_powers_of_two() -> None:
    # 4 to a doubling: 1024, 1280, 1536, 1792, 2048; below that a step is never under 256 bytes
    for asked, slot in (
        (1024, 1024),
        (1025, 1280),
        (1537, 1792),
        (2048, 2048),
        (257, 512),
        (1, 256),
    ):
        script = Script()
        script.malloc(asked)
        stats = run_of("size_classes", script).stats
        assert stats["allocated_bytes.all.peak"] == slot, asked
    script = Script()
    script.malloc(5 * MiB)
    assert peak(run_of("size_classes", script, spacing=1)) == 8 * MiB
    assert peak(run_of("size_classes", script, spacing=4)) == 5 * MiB


def test_a_slab_serves_one_class_only_and_goes_back_when_it_is_empty() -> None:
    # 600 KiB are a slot of 640, three of which are a slab of 1.875 MiB.
    script = Script()
    a = script.mallocs(*[600 * KiB] * 4)
    run = run_of("size_classes", script)
    assert places(run) == [0, 640 * KiB, 1280 * KiB, 2 * MiB]
    assert peak(run) == 6 * 640 * KiB
    script.free(*a[:3])
    script.malloc(100 * KiB)  # three free slots are no use to another class
    assert run_of("size_classes", script).stats["num_device_alloc"] == 3
    script.empty_cache()
    assert run_of("size_classes", script).stats["num_device_free"] == 1


def test_a_slot_freed_last_is_used_first() -> None:
    script = Script()
    a = script.mallocs(*[600 * KiB] * 3)
    script.free(a[2], a[0])
    script.mallocs(600 * KiB, 600 * KiB)
    assert places(run_of("size_classes", script))[3:] == [0, 1280 * KiB]


def test_one_region_is_all_taken_at_the_start() -> None:
    script = Script()
    script.malloc(1)
    run = run_of("one_region", script, Device(10 * GiB))
    assert peak(run) == 9 * GiB
    assert run.stats["allocated_bytes.all.peak"] == 2 * MiB


def test_pages_need_not_lie_together() -> None:
    # 10 MiB are five pages; with every second one free a request of two pages is served
    script = Script()
    a = script.mallocs(*[2 * MiB] * 5)
    script.free(a[1], a[3])
    script.malloc(3 * MiB)
    paged = run_of("one_region", script, Device(10 * MiB), share=100)
    assert paged.stats["num_ooms"] == 0
    assert run_of("best_fit", script, Device(10 * MiB)).stats["num_ooms"] == 1


def test_without_a_capacity_pages_are_taken_as_needed() -> None:
    script = Script()
    script.free(script.malloc(5 * MiB))
    script.mallocs(3 * MiB, 4 * MiB)
    assert peak(run_of("one_region", script)) == 8 * MiB

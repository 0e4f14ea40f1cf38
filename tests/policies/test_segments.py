"""Buddies, BFC and CuPy's pool: worked examples of what each does with its segments."""

from __future__ import annotations

from tightfit.policies.catalogue import MECHANISMS
from tightfit.sim.device import Device
from tightfit.sim.mechanism_replay import replay_mechanism
from tightfit.sim.packing import pack

from ..strategies import Script
from .playing import GiB, KiB, MiB, peak, places, run_of


def test_buddies_are_the_two_halves_of_one_block() -> None:
    # 64 MiB are halved down to 1 MiB: a b at 0 and 1, c d at 2 and 3 MiB.
    script = Script()
    a, b, c, d = script.mallocs(*[MiB] * 4)
    script.free(b, c)  # neighbours, but no buddies: they do not make 2 MiB
    script.malloc(2 * MiB)
    script.free(d)  # c and d are buddies and join
    script.malloc(2 * MiB)
    run = run_of("buddy", script)
    assert places(run) == [0, MiB, 2 * MiB, 3 * MiB, 4 * MiB, 2 * MiB]
    assert peak(run) == 64 * MiB


def test_buddies_round_up_to_a_power_of_two() -> None:
    script = Script()
    script.mallocs(3 * MiB, 1, 513)
    stats = run_of("buddy", script).stats
    assert stats["allocated_bytes.all.peak"] == 4 * MiB + 512 + 1024
    huge = Script()
    huge.malloc(3 * GiB)
    assert peak(run_of("buddy", huge)) == 4 * GiB


def test_bfc_regions_double() -> None:
    # The first region has 2 MiB, the next would have 4: a request of 10 MiB doubles it to 16.
    # That doubling done, the size stays 16 for the third, and only then becomes 32.
    script = Script()
    script.malloc(2 * MiB)
    assert peak(run_of("bfc", script)) == 2 * MiB
    script.malloc(10 * MiB)
    assert peak(run_of("bfc", script)) == 18 * MiB
    script.malloc(16 * MiB)
    assert peak(run_of("bfc", script)) == 34 * MiB
    script.malloc(16 * MiB)
    assert peak(run_of("bfc", script)) == 66 * MiB


def test_bfc_splits_only_where_half_or_128_mib_would_be_wasted() -> None:
    script = Script()
    script.malloc(1100 * KiB)  # more than half of 2 MiB: all of it
    assert run_of("bfc", script).stats["allocated_bytes.all.peak"] == 2 * MiB
    script = Script()
    script.malloc(MiB)
    assert run_of("bfc", script).stats["allocated_bytes.all.peak"] == MiB
    script = Script()
    script.malloc(300 * MiB)  # 212 MiB of a region of 512 would be left
    assert run_of("bfc", script).stats["allocated_bytes.all.peak"] == 300 * MiB
    assert run_of("bfc", script, waste=GiB).stats["allocated_bytes.all.peak"] == 512 * MiB


def test_bfc_returns_free_regions_before_it_gives_up() -> None:
    script = Script()
    script.free(script.malloc(40 * MiB))  # a region of 64 MiB
    script.malloc(70 * MiB)
    run = run_of("bfc", script, Device(100 * MiB))
    assert run.stats["num_ooms"] == 0
    assert run.stats["num_device_free"] == 1
    assert run.stats["reserved_bytes.all.current"] == 100 * MiB  # all there is


def test_bfc_grows_from_its_first_region_again_after_empty_cache() -> None:
    # A request of 3 MiB doubles the first region's 2 MiB to 4, however often all was given back.
    script = Script()
    for _ in range(70):  # more than a number has bits
        script.free(script.malloc(3 * MiB))
        script.empty_cache()
    for device in (Device(), Device(24 * GiB)):
        run = run_of("bfc", script, device)
        assert peak(run) == 4 * MiB
        assert run.stats["num_device_free"] == 70


def test_bfc_regions_stop_doubling_at_what_the_device_has() -> None:
    # A request that never fits makes it give its only region back, which the next one takes anew.
    script = Script()
    for _ in range(70):
        script.malloc(200 * MiB)
        script.free(script.malloc(MiB))
    packed = pack(script.program())
    run = replay_mechanism(packed, MECHANISMS["bfc"], {}, Device(100 * MiB), stop_at_oom=False)
    assert run.stats["num_ooms"] == 70
    assert run.stats["num_device_alloc"] == 70
    assert peak(run) == 100 * MiB


def test_cupy_asks_for_exactly_what_it_lacks_and_splits_whatever_fits() -> None:
    script = Script()
    script.free(script.malloc(10 * MiB))
    script.mallocs(512, 3 * MiB, 8 * MiB)
    run = run_of("cupy_pool", script)
    assert places(run)[1:3] == [0, 512]
    assert peak(run) == 18 * MiB


def test_cupy_keeps_streams_apart() -> None:
    script = Script(2)
    script.free(script.malloc(4 * MiB, stream=0))
    script.malloc(4 * MiB, stream=1)
    assert peak(run_of("cupy_pool", script)) == 8 * MiB


def test_an_arena_takes_superblocks_and_returns_them_whole() -> None:
    # Stream 0 takes 256 KiB for its 100; stream 1 does, too. When stream 0's piece is free its
    # superblock goes back, and stream 1 may have it.
    script = Script(2)
    a = script.malloc(100 * KiB, stream=0)
    script.malloc(100 * KiB, stream=1)
    script.malloc(100 * KiB, stream=0)
    script.free(a)
    script.malloc(156 * KiB, stream=1)
    script.malloc(50 * KiB, stream=1)
    where = places(run_of("arena", script))
    assert where == [0, 256 * KiB, 100 * KiB, 356 * KiB, 512 * KiB]
    script = Script(2)
    script.free(script.malloc(100 * KiB, stream=0))
    script.malloc(256 * KiB, stream=1)
    assert places(run_of("arena", script)) == [0, 0]


def test_the_model_of_cuda_malloc_async_grows_by_32_mib_for_each_stream() -> None:
    script = Script(2)
    script.malloc(MiB)
    script.malloc(MiB, stream=1)
    script.malloc(40 * MiB)
    run = run_of("cuda_malloc_async", script)
    assert places(run) == [0, 32 * MiB, 64 * MiB]
    assert peak(run) == 128 * MiB


def test_a_model_says_that_it_is_one() -> None:
    said = MECHANISMS["cuda_malloc_async"].ignores(Script().program(), Device())
    assert said and "a model, not a claim" in said[0]

"""The reference replay: what options, releases, pools and captures change."""

import pytest

from tightfit.sim.device import Device
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.units import GiB, MiB

from ..strategies import Script
from .agreement import both, differences
from .playing import OFF, ON, actions, blocks, offsets, play, segments

# ---- options


def test_max_split_keeps_oversize_blocks_whole_and_apart() -> None:
    s = Script()
    a, b = s.mallocs(100 * MiB, 63 * MiB)
    s.free(a, b)
    s.malloc(20 * MiB)  # best fit is the segment of 64
    s.malloc(44 * MiB)  # only the block of 100 fits, but it is oversize
    s.malloc(80 * MiB)  # 100 is not below 80 + 20
    s.malloc(81 * MiB)  # now it is, and it is not split
    run = play(s, Settings(max_split_size=64 * MiB - 512))
    assert blocks(run)[:2] == [["100A"], ["64I"]]
    run = play(s, Settings(max_split_size=65 * MiB))
    assert blocks(run) == [["100A"], ["20A", "44A"], ["80A"]]
    run = play(s, Settings(max_split_size=65 * MiB, max_non_split_rounding=21 * MiB))
    assert blocks(run) == [["100A"], ["20A", "44A"], ["82A"]]


def test_large_segment_size() -> None:
    s = Script()
    s.mallocs(3 * MiB, 12 * MiB)
    run = play(s, Settings(large_segment_size=64 * MiB))
    assert blocks(run) == [["3A", "12A", "49I"]]
    run = play(s, Settings(large_segment_size=32 * MiB, expandable_segments=True))
    assert [size for _, _, size in segments(run)] == [32]


def garbage() -> Script:
    """Three free segments of which the first two have not been used for a while."""
    s = Script()
    a, b, c = s.mallocs(30 * MiB, 40 * MiB, 50 * MiB)
    s.free(a, b)
    s.malloc(20 * MiB)  # taken from the 30: a hit; ages a little
    s.free(c)
    s.malloc(100 * MiB)
    return s


def test_garbage_collection_frees_what_is_older_than_the_mean() -> None:
    settings = Settings(garbage_collection_threshold=0.25, per_process_memory_fraction=0.5)
    run = play(garbage(), settings, device=Device(400 * MiB))
    # threshold 50 MiB of 120 reserved; the 40 has age 2, the 50 age 1, the mean is 1.5
    assert [(a, size) for a, _, size in segments(run, 6)] == [
        ("segment_free", 40),
        ("segment_free", 50),
        ("segment_alloc", 100),
    ]
    assert run.stats["num_alloc_retries"] == 0
    milder = Settings(garbage_collection_threshold=0.4, per_process_memory_fraction=0.5)
    run = play(garbage(), milder, device=Device(480 * MiB))
    assert [(a, size) for a, _, size in segments(run, 6)] == [
        ("segment_free", 40),
        ("segment_alloc", 100),
    ]


def test_garbage_collection_needs_a_limit() -> None:
    run = play(garbage(), Settings(garbage_collection_threshold=0.25), device=Device(GiB))
    assert [a for a, _, _ in segments(run, 6)] == ["segment_alloc"]


def test_a_fraction_limits_memory_before_the_driver_is_asked() -> None:
    s = Script()
    s.mallocs(60 * MiB, 40 * MiB, 2 * MiB)
    run = play(s, Settings(per_process_memory_fraction=0.1), device=Device(1000 * MiB))
    assert run.stats["reserved_bytes.all.peak"] == 100 * MiB  # equality is allowed
    assert run.first_oom_op == 2 and run.first_oom_bytes == 2 * MiB
    assert run.events[-1]["addr"] == 900 * MiB  # what the device has left, not the limit
    assert play(s, Settings(per_process_memory_fraction=0.1)).first_oom_op == -1


def test_the_limit_is_rounded_from_2_13_on() -> None:
    s = Script()
    s.malloc(10 * MiB)
    settings = Settings(per_process_memory_fraction=0.1)
    device = Device(100 * MiB - 5)  # a tenth is half a byte less than 10 MiB
    assert play(s, settings, "2.13", device=device).first_oom_op == -1
    assert play(s, settings, "2.12", device=device).first_oom_op == 0


def test_throwing_on_oom_rejects_without_the_recovery_chain() -> None:
    s = Script()
    s.free(s.malloc(600 * MiB))
    s.malloc(700 * MiB)
    s.malloc(600 * MiB)
    settings = Settings(throw_on_cudamalloc_oom=True)
    run = play(s, settings, device=Device(GiB), stop_at_oom=False)
    assert actions(run, 2) == [] and actions(run, 3) == ["alloc"]
    assert run.stats["num_oom_rejections"] == 1 and run.stats["num_ooms"] == 0
    assert (run.first_oom_op, run.first_oom_bytes, run.n_ops) == (2, 700 * MiB, 4)
    limited = Settings(throw_on_cudamalloc_oom=True, per_process_memory_fraction=0.9)
    run = play(s, limited, device=Device(GiB))
    assert run.stats["num_oom_rejections"] == 0 and run.addr[1] != 0  # the limit speaks first


def test_a_request_larger_than_its_reservation() -> None:
    s = Script()
    s.mallocs(50 * MiB, 30 * MiB, 61 * MiB)
    settings = Settings(expandable_segments=True, reserve_bytes=60 * MiB)
    run = play(s, settings)
    assert offsets(run)[:2] == [0, 60]  # the first reservation had 10 MiB left
    assert run.first_oom_op == 2 and run.stats["num_ooms"] == 1


def test_a_reservation_is_nine_eighths_of_the_device_and_given_up_when_empty() -> None:
    s = Script()
    s.free(s.malloc(30 * MiB))
    s.empty_cache()
    s.malloc(30 * MiB)
    assert offsets(play(s, ON, device=Device(GiB))) == [0, 1160]  # 1152 MiB in whole pages of 20


def test_a_reservation_that_is_too_small_stays_until_2_14() -> None:
    s = Script()
    s.mallocs(130 * MiB, 10 * MiB)
    device = Device(100 * MiB)
    assert offsets(play(s, ON, "2.14", device=device, stop_at_oom=False))[1] == 0
    # two attempts, each with a reservation of its own that is deleted at once
    assert offsets(play(s, ON, "2.15", device=device, stop_at_oom=False))[1] == 240


def test_the_driver_rounds_up_and_others_use_memory_too() -> None:
    s = Script()
    s.mallocs(2 * MiB, 30 * MiB)
    assert play(s, device=Device(50 * MiB)).first_oom_op == -1
    assert play(s, device=Device(50 * MiB, granularity=16 * MiB)).first_oom_op == 1
    run = play(s, device=Device(50 * MiB, other_bytes=1))
    assert run.first_oom_op == 1 and run.events[-1]["addr"] == 30 * MiB - 1
    small = Script()
    small.mallocs(MiB, MiB, MiB, MiB, MiB)
    one = Device(16 * MiB, granularity=8 * MiB)
    assert play(small, ON, device=one).first_oom_op == 4  # a page of 2 takes 8


def test_one_exbibyte_is_refused_without_a_trace() -> None:
    s = Script()
    s.malloc(1 << 60)
    run = play(s)
    assert run.first_oom_op == 0 and len(run.events) == 0 and run.stats["num_ooms"] == 0


# ---- releases


def tie(first: int, second: int) -> Script:
    """Two free blocks of one size: the remainder of an older segment and a younger segment."""
    s = Script()
    whole, young = s.mallocs(40 * MiB, 20 * MiB)
    s.free(whole)
    kept = s.malloc(20 * MiB)
    rest = s.malloc(20 * MiB)
    s.free(*((rest, young) if first < second else (young, rest)))
    s.malloc(20 * MiB)
    assert kept == 2
    return s


@pytest.mark.parametrize("torch", ["2.11", "2.13", "2.15"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_ties_go_to_the_lower_address_or_the_older_segment(
    torch: str, order: tuple[int, int]
) -> None:
    assert offsets(play(tie(*order), OFF, torch))[-1] == 20


def test_ties_in_2_12_go_to_the_older_block() -> None:
    s = Script()
    whole = s.malloc(40 * MiB)  # block 0
    young = s.malloc(20 * MiB)  # block 1
    s.free(whole)
    front = s.malloc(20 * MiB)  # block 2; the rest is block 0
    s.free(young, front)
    s.malloc(20 * MiB)
    s.malloc(20 * MiB)
    run = play(s, OFF, "2.12")
    # block 0 is 20 MiB at 20, merged with block 2 on its free: block 2 survives, 40 MiB
    assert offsets(run)[-2:] == [40, 0]
    assert offsets(play(s, OFF, "2.13"))[-2:] == [40, 0]

    s = Script()
    whole = s.malloc(40 * MiB)
    young = s.malloc(20 * MiB)
    s.free(whole)
    front, rest = s.mallocs(20 * MiB, 20 * MiB)
    s.free(young, front)  # blocks 1 and 2
    s.malloc(20 * MiB)
    assert offsets(play(s, OFF, "2.12"))[-1] == 40
    assert offsets(play(s, OFF, "2.11"))[-1] == 0
    assert offsets(play(s, OFF, "2.13"))[-1] == 0
    assert rest == 3


def test_private_pools_expand_from_2_5_on() -> None:
    s = Script(pools=1)
    s.malloc(3 * MiB, pool=1)
    assert segments(play(s, ON, "2.4"))[0][0] == "segment_alloc"
    assert segments(play(s, ON, "2.5"))[0][0] == "segment_map"


# ---- private pools, capture, empty_cache


def test_a_private_pool_keeps_its_memory_until_it_is_released() -> None:
    s = Script(pools=2)
    s.free(s.malloc(32 * MiB, pool=1), s.malloc(32 * MiB, pool=2))
    s.empty_cache()
    s.release_pool(1)
    s.empty_cache(2)
    s.empty_cache(1)
    run = play(s)
    assert segments(run, 4) == [("segment_free", 0, 32)]
    assert actions(run, 4) == [] and actions(run, 6) == [] and len(actions(run, 7)) == 1
    assert run.stats["num_sync_all_streams"] == 2  # the whole cache, and pool 1
    old = play(s, OFF, "2.7")
    assert actions(old, 6) == ["segment_free"]  # any empty_cache is of everything
    assert old.stats["num_sync_all_streams"] == 3


def test_large_goes_before_small_but_small_before_large_in_private_pools() -> None:
    s = Script(pools=1)
    for pool in (0, 1):
        s.free(s.malloc(MiB, pool=pool), s.malloc(30 * MiB, pool=pool))
    s.release_pool(1)
    s.empty_cache()
    assert [size for _, _, size in segments(play(s), len(s.ops) - 1)] == [30, 2, 2, 30]


def test_using_a_released_pool_takes_it_back() -> None:
    s = Script(pools=1)
    a = s.malloc(32 * MiB, pool=1)
    s.release_pool(1)
    s.free(a)
    s.free(s.malloc(16 * MiB, pool=1))
    s.empty_cache()
    assert blocks(play(s)) == [["32I"]]
    s.release_pool(1)
    s.empty_cache()
    s.malloc(16 * MiB, pool=1)
    s.empty_cache()
    assert blocks(play(s)) == [["16A"]]


def test_pools_and_streams_do_not_share() -> None:
    s = Script(streams=2, pools=1)
    s.free(s.malloc(16 * MiB))
    s.malloc(16 * MiB, stream=1)
    s.malloc(16 * MiB, pool=1)
    assert len(segments(play(s))) == 3


def test_no_release_while_capturing() -> None:
    s = Script(pools=1)
    s.free(s.malloc(100 * MiB), s.malloc(20 * MiB, pool=1))
    s.release_pool(1)
    s.capture(True)
    s.empty_cache()
    s.attempt(150 * MiB)
    s.capture(False)
    s.attempt(150 * MiB)
    device = Device(200 * MiB)
    run = play(s, device=device, stop_at_oom=False)
    assert actions(run, 6) == ["segment_free"]  # the freeable pool only
    assert actions(run, 7) == ["oom"]
    assert actions(run, 9) == [
        "segment_free",
        "segment_alloc",
        "alloc",
        "free_requested",
        "free_completed",
    ]
    assert run.stats["num_ooms"] == 1 and run.first_oom_op == 7
    assert run.stats["num_alloc_retries"] == run.stats["num_sync_all_streams"] == 1
    # until 2.7 the call fails an assertion, after it has counted itself
    run = play(s, OFF, "2.7", device=device, stop_at_oom=False)
    assert actions(run, 6) == [] and run.stats["num_sync_all_streams"] == 2


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("torch", "pool", "is_captured"),
    [
        ("2.15", (0, 0), False), ("2.15", (0, 4), False), ("2.15", (4, 0), True),
        ("2.13", (4, 0), True), ("2.12", (0, 4), True), ("2.12", (0, 0), False),
    ],
)  # fmt: skip
def test_a_request_that_only_a_capture_makes_takes_nothing_back(
    torch: str, pool: tuple[int, int], is_captured: bool
) -> None:
    """A graph's own pool has its number in front; until 2.12 any private pool will do."""
    s = Script(pools=1)
    s.free(s.malloc(100 * MiB))
    s.malloc(150 * MiB, pool=int(pool != (0, 0)))
    program = s.program()
    program.pools = [(0, 0), pool]
    device = Device(200 * MiB)
    kernel, reference = both(program, OFF, release(torch), device, stop_at_oom=False)
    assert differences(kernel, reference) == []
    assert kernel.stats["num_ooms"] == int(is_captured)
    assert kernel.stats["num_alloc_retries"] == int(not is_captured)


def test_an_emptied_pool_is_gone() -> None:
    s = Script(pools=1)
    a, b = s.malloc(2 * MiB, pool=1), s.malloc(30 * MiB, pool=1)
    s.free(a)
    s.release_pool(1)
    s.empty_cache(1)
    s.free(b)
    s.empty_cache(1)
    s.empty_cache(1)  # nothing to empty any more, hence nothing to wait for
    run = play(s)
    assert [actions(run, op) for op in (4, 6, 7)] == [["segment_free"], ["segment_free"], []]
    assert run.stats["num_sync_all_streams"] == 2


def test_emptying_one_pool_while_capturing_fails() -> None:
    s = Script(pools=1)
    s.free(s.malloc(2 * MiB, pool=1))
    s.release_pool(1)
    s.capture(True)
    s.empty_cache(1)
    run = play(s)
    assert actions(run, 4) == [] and run.stats["num_sync_all_streams"] == 1


def test_a_completed_free_does_not_complete_another() -> None:
    s = Script()
    a = s.malloc(30 * MiB)
    s.free_later(a)
    s.empty_cache()  # completes it and gives the segment back
    b = s.malloc(30 * MiB)
    s.free_later(b)
    c = s.malloc(60 * MiB)
    s.complete(a)
    assert blocks(play(s)) == [["30P"], ["60A"]]
    s = Script()
    a, c = s.mallocs(30 * MiB, 2 * MiB)
    s.free_later(a)
    s.attempt(70 * MiB)  # completes it, but the segment cannot go
    b = s.malloc(10 * MiB)  # the same block object, if it is whole
    s.free_later(b)
    s.complete(a)
    run = play(s, ON, device=Device(60 * MiB), stop_at_oom=False)
    assert blocks(run)[0][0] == "10P"
    assert c == 1


def test_one_pool_is_synchronized_alone() -> None:
    s = Script(pools=1)
    a, b = s.malloc(16 * MiB), s.malloc(16 * MiB, pool=1)
    s.free_later(a, b)
    s.release_pool(1)
    s.empty_cache(1)
    s.complete(b)
    s.empty_cache()
    run = play(s)
    assert actions(run, 5) == ["free_completed", "segment_free"]
    assert actions(run, 6) == []
    assert actions(run, 7) == ["free_completed", "segment_free"]

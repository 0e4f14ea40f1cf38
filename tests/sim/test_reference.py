"""The reference replay on small programs whose outcome is known: placement and counters."""

import pytest

from tightfit.sim.device import Device
from tightfit.sim.reference_allocator import allocation_size, round_size
from tightfit.sim.settings import Settings
from tightfit.traces.event import Action
from tightfit.traces.units import GiB, MiB

from ..strategies import Script
from .playing import OFF, ON, actions, blocks, offsets, play, segments

# ---- rounding


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1, 512),
        (512, 512),
        (513, 1024),
        (MiB, MiB),
        (MiB + 1, MiB + 512),
    ],
)
def test_sizes_are_multiples_of_512(n: int, expected: int) -> None:
    assert round_size(n, OFF) == expected
    assert round_size(n, Settings(roundup_divisions=(1,) * 16)) == expected


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (1200, 1536),
        (2049, 2560),
        (5000, 5120),
        (100_000, 114_688),
        (600_000, 655_360),
        (1_048_577, 1_310_720),
        (3 * MiB + 1, 3_670_016),
        (104_857_607, 117_440_512),
        (64 * MiB, 64 * MiB),
    ],
)
def test_quarters_of_powers_of_two(n: int, expected: int) -> None:
    assert round_size(n, Settings(roundup_divisions=(4,) * 16)) == expected


def test_each_power_of_two_has_its_own_divisions() -> None:
    # [256:1,512:2,1024:4,>:8] as 2.10 and later fill the table, and as 2.9 does
    new = Settings(roundup_divisions=(1,) * 9 + (2, 4) + (8,) * 5)
    old = Settings(roundup_divisions=(1,) * 9 + (2, 8) + (8,) * 5)
    assert round_size(1025 * MiB, new) == 1_342_177_280
    assert round_size(1025 * MiB, old) == 1_207_959_552
    assert round_size(64 * GiB + 1, new) == 72 * GiB
    last = Settings(roundup_divisions=(0,) * 15 + (4,))
    assert round_size(40 * GiB + 1, last) == 48 * GiB
    assert round_size(31 * GiB + 1, last) == 31 * GiB + 512


def test_what_the_driver_is_asked_for() -> None:
    asked = [1, MiB, MiB + 512, 10 * MiB - 512, 10 * MiB, 10 * MiB + 512]
    assert [allocation_size(s, OFF) // MiB for s in asked] == [2, 2, 20, 20, 10, 12]
    larger = Settings(large_segment_size=64 * MiB)
    assert [allocation_size(s, larger) // MiB for s in asked] == [2, 2, 64, 64, 10, 12]


# ---- golden vectors, from the compiled allocator of 2.15.0


def test_a_free_block_is_split_and_merged_again() -> None:
    s = Script(pools=1)
    a = s.malloc(32 * MiB, pool=1)
    assert blocks(play(s)) == [["32A"]]
    s.free(a)
    b, c = s.mallocs(16 * MiB, 16 * MiB, pool=1)
    assert blocks(play(s)) == [["16A", "16A"]]
    s.free(b)
    assert blocks(play(s)) == [["16I", "16A"]]
    s.free(c)
    run = play(s)
    assert blocks(run) == [["32I"]]
    assert run.stats["reserved_bytes.all.current"] == 32 * MiB


def test_small_then_large_needs_new_segments() -> None:
    s = Script(pools=1)
    s.free(*s.mallocs(*[16 * MiB] * 8, pool=1))
    s.mallocs(*[32 * MiB] * 4, pool=1)
    run = play(s)
    assert blocks(run) == [["16I"]] * 8 + [["32A"]] * 4
    assert run.stats["reserved_bytes.all.peak"] == 256 * MiB


def test_large_then_small_fits() -> None:
    s = Script(pools=1)
    s.free(*s.mallocs(*[32 * MiB] * 4, pool=1))
    s.mallocs(*[16 * MiB] * 8, pool=1)
    run = play(s)
    assert blocks(run) == [["16A", "16A"]] * 4
    assert run.stats["reserved_bytes.all.peak"] == 128 * MiB


def test_expandable_memory_grows_by_pages() -> None:
    s = Script(pools=1)
    tails, maps = [], []
    for _ in range(8):
        s.malloc(16 * MiB, pool=1)
        run = play(s, ON)
        tails.append(blocks(run)[0][-1])
        maps.append([size for _, _, size in segments(run, len(s.ops) - 1)])
    assert tails == ["4I", "8I", "12I", "16I", "16A", "4I", "8I", "12I"]
    assert maps == [[20], [20], [20], [20], [], [20], [20], [20]]
    s.free(*range(8))
    assert blocks(play(s, ON)) == [["140I"]]
    s.mallocs(*[32 * MiB] * 4, pool=1)
    run = play(s, ON)
    assert blocks(run) == [["32A"] * 4 + ["12I"]]
    assert run.stats["reserved_bytes.all.peak"] == 140 * MiB
    assert run.stats["segment.all.peak"] == 0


def test_live_blocks_pin_expandable_memory() -> None:
    s = Script(pools=1)
    a = s.mallocs(*[16 * MiB] * 4, pool=1)
    assert blocks(play(s, ON)) == [["16A"] * 4 + ["16I"]]
    s.free(a[0], a[2])
    assert blocks(play(s, ON)) == [["16I", "16A", "16I", "16A", "16I"]]
    b = s.malloc(32 * MiB, pool=1)
    run = play(s, ON)
    assert segments(run, len(s.ops) - 1) == [("segment_map", 80, 20)]
    assert blocks(run) == [["16I", "16A", "16I", "16A", "32A", "4I"]]
    s.free(a[1], a[3], b)
    assert blocks(play(s, ON)) == [["100I"]]
    s.malloc(32 * MiB, pool=1)
    assert blocks(play(s, ON)) == [["32A", "68I"]]


@pytest.mark.parametrize("settings", [OFF, ON])
def test_small_requests_do_not_share_with_large_ones(settings: Settings) -> None:
    s = Script(pools=1)
    s.free(s.malloc(2 * MiB, pool=1))
    s.malloc(MiB // 2, pool=1)
    run = play(s, settings)
    assert blocks(run) == [["20I"], ["0.5A", "1.5I"]]
    assert run.stats["reserved_bytes.all.current"] == 22 * MiB


def test_a_request_below_10_mib_gets_20() -> None:
    s = Script(pools=1)
    s.malloc(3 * MiB, pool=1)
    run = play(s)
    assert [(e["action"], e["size"]) for e in run.events] == [
        (Action.SEGMENT_ALLOC, 20_971_520),
        (Action.ALLOC, 3 * MiB),
    ]
    assert blocks(run) == [["3A", "17I"]]


def test_out_of_memory_completes_frees_and_releases_everything() -> None:
    s = Script()
    a, b, c = s.mallocs(100 * MiB, 50 * MiB, 30 * MiB)
    s.free_later(b)
    s.free(a, c)
    s.malloc(150 * MiB)
    run = play(s, device=Device(200 * MiB))
    last = run.events[run.events["op"] == len(s.ops) - 1]
    assert [(Action(e["action"]).name, e["size"] // MiB) for e in last] == [
        ("FREE_COMPLETED", 50),
        ("SEGMENT_FREE", 30),
        ("SEGMENT_FREE", 50),
        ("SEGMENT_FREE", 100),
        ("SEGMENT_ALLOC", 150),
        ("ALLOC", 150),
    ]
    assert run.stats["num_alloc_retries"] == run.stats["num_sync_all_streams"] == 1
    assert run.first_oom_op == -1 and run.n_ops == len(s.ops)


def test_oversize_blocks_go_first_and_largest_first() -> None:
    s = Script()
    s.free(*s.mallocs(70 * MiB, 74 * MiB, 78 * MiB, 82 * MiB))
    s.malloc(250 * MiB)
    run = play(s, Settings(max_split_size=64 * MiB), device=Device(360 * MiB))
    assert [(a, size) for a, _, size in segments(run, len(s.ops) - 1)] == [
        ("segment_free", 82),
        ("segment_free", 78),
        ("segment_free", 74),
        ("segment_free", 70),
        ("segment_alloc", 250),
    ]
    assert run.stats["num_alloc_retries"] == 0
    assert run.stats["oversize_segments.freed"] == 4
    assert run.stats["max_split_size"] == 64 * MiB


def test_oversize_release_stops_when_it_has_enough() -> None:
    s = Script()
    s.free(*s.mallocs(70 * MiB, 74 * MiB, 78 * MiB, 82 * MiB))
    s.malloc(150 * MiB)
    run = play(s, Settings(max_split_size=64 * MiB), device=Device(360 * MiB))
    assert [size for _, _, size in segments(run, len(s.ops) - 1)] == [82, 78, 150]
    s = Script()
    s.free(*s.mallocs(40 * MiB, 70 * MiB))
    s.malloc(100 * MiB)  # 40 is not oversize: it goes only with everything else
    run = play(s, Settings(max_split_size=64 * MiB), device=Device(130 * MiB))
    assert [size for _, _, size in segments(run, len(s.ops) - 1)] == [70, 40, 100]
    assert run.stats["num_alloc_retries"] == 1


def test_a_segment_with_a_live_block_stays() -> None:
    s = Script()
    a, _ = s.mallocs(3 * MiB, 3 * MiB)
    s.free(a)
    s.malloc(190 * MiB)
    run = play(s, device=Device(200 * MiB))
    assert run.events[-1].tolist() == (3, Action.OOM, 180 * MiB, 199_229_440, 0, 0)
    assert run.stats["reserved_bytes.all.current"] == 20 * MiB
    assert (run.n_ops, run.first_oom_op, run.first_oom_bytes) == (4, 3, 190 * MiB)
    assert run.stats["num_ooms"] == 1 and run.addr[2] == 0


def test_only_whole_pages_are_unmapped() -> None:
    s = Script()
    a = s.mallocs(30 * MiB, 30 * MiB, 30 * MiB)
    s.free(a[1])
    s.empty_cache()
    s.malloc(60 * MiB)
    run = play(s, ON, device=Device(200 * MiB))
    assert segments(run) == [
        ("segment_map", 0, 40),
        ("segment_map", 40, 20),
        ("segment_map", 60, 40),
        ("segment_unmap", 40, 20),
        ("segment_map", 100, 60),
    ]
    assert offsets(run) == [0, 30, 60, 90]
    assert blocks(run) == [["30A", "10I"], ["30A", "60A", "10I"]]


# ---- counters


def test_counters_of_a_split_segment() -> None:
    s = Script()
    a = s.malloc(600)  # 1 KiB of a segment of 2 MiB
    stats = play(s).stats
    small = {k: v for k, v in stats.items() if k.endswith("small_pool.current")}
    assert small == {
        "allocation.small_pool.current": 1,
        "allocated_bytes.small_pool.current": 1024,
        "active.small_pool.current": 1,
        "active_bytes.small_pool.current": 1024,
        "requested_bytes.small_pool.current": 600,
        "segment.small_pool.current": 1,
        "reserved_bytes.small_pool.current": 2 * MiB,
        "inactive_split.small_pool.current": 1,
        "inactive_split_bytes.small_pool.current": 2 * MiB - 1024,
    }
    assert {v for k, v in stats.items() if "large_pool" in k} == {0}
    assert all(stats[k.replace("small_pool", "all")] == v for k, v in small.items())

    b = s.malloc(512)  # from the split rest: fewer bytes, same number of inactive splits
    s.free(a)  # one more inactive split
    s.free(b)  # merges both neighbours: a whole free segment is not split
    stats = play(s).stats
    assert [
        stats[f"inactive_split.all.{k}"] for k in ("current", "peak", "allocated", "freed")
    ] == [
        0,
        2,
        2,
        2,
    ]
    assert [
        stats[f"inactive_split_bytes.all.{k}"] for k in ("current", "peak", "allocated", "freed")
    ] == [0, 2 * MiB - 512, 2 * MiB - 1024 + 1024, 512 + 2 * MiB - 512]
    assert stats["requested_bytes.all.allocated"] == stats["requested_bytes.all.freed"] == 1112
    assert stats["num_device_alloc"] == 1 and stats["num_device_free"] == 0


def test_a_peak_outlives_later_increases() -> None:
    s = Script()
    s.free(*s.mallocs(30 * MiB, 50 * MiB))
    s.malloc(2 * MiB)
    stats = play(s).stats
    assert stats["allocated_bytes.all.peak"] == 80 * MiB
    assert stats["allocated_bytes.all.current"] == 2 * MiB


def test_slack_counts_as_allocated() -> None:
    s = Script()
    s.malloc(19 * MiB + 1)  # a segment of 20 MiB, whose rest is too small to split off
    stats = play(s).stats
    assert stats["allocated_bytes.large_pool.current"] == 20 * MiB
    assert stats["requested_bytes.large_pool.current"] == 19 * MiB + 1
    assert stats["inactive_split.all.allocated"] == 0


def test_pending_blocks_are_active_but_not_allocated() -> None:
    s = Script()
    a = s.malloc(16 * MiB)
    s.free_later(a)
    s.malloc(16 * MiB)  # cannot have it
    run = play(s)
    assert blocks(run) == [["16P"], ["16A"]]
    assert run.stats["allocated_bytes.all.current"] == 16 * MiB
    assert run.stats["active_bytes.all.current"] == 32 * MiB
    assert run.stats["requested_bytes.all.current"] == 32 * MiB
    s.complete(a)
    s.complete(a)  # no program says so twice, but nothing would happen
    s.malloc(16 * MiB)
    run = play(s)
    assert blocks(run) == [["16A"], ["16A"]]
    assert actions(run, 3) == ["free_completed"] and actions(run, 4) == []


def test_oversize_counters() -> None:
    s = Script()
    s.free(s.malloc(64 * MiB))
    s.malloc(62 * MiB)
    stats = play(s, Settings(max_split_size=64 * MiB)).stats
    parts = ("current", "peak", "allocated", "freed")
    assert [stats[f"oversize_allocations.{k}"] for k in parts] == [0, 1, 1, 1]
    assert [stats[f"oversize_segments.{k}"] for k in parts] == [1, 1, 1, 0]
    assert stats["reserved_bytes.all.current"] == (64 + 62) * MiB

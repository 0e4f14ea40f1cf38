"""What was there before the first entry: worked examples, each decided by one rule."""

import numpy as np
import pytest

from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.history import lift
from tightfit.traces.units import GiB, KiB, MiB
from tightfit.traces.view import NEVER
from tightfit.traces.warm_start import Rounding

from .recorded import (
    FREE_BLOCK,
    LIVE_BLOCK,
    PENDING_BLOCK,
    by_hand,
    departures,
    kinds,
    ops,
    start_blocks,
)

pytestmark = pytest.mark.interpreted

ON = Settings(expandable_segments=True)


def exact(program, settings=None):
    return departures(program, settings or Settings(), release("2.11")) == []


def test_a_block_no_entry_names_was_live_all_the_time_with_its_exact_size():
    # 3 MiB asked, 3.5 MiB handed out: only the final state knows of the half.
    final = [(3 * MiB + 512 * KiB, LIVE_BLOCK, 3 * MiB), (16 * MiB + 512 * KiB, FREE_BLOCK, 9)]
    p = lift(by_hand([], [(0, {"large"}, final)]), 0)
    assert start_blocks(p) == [[(0, 3 * MiB + 512 * KiB, 0), (3 * MiB + 512 * KiB, 17301504, -1)]]
    assert p.req_size[p.request[0]] == 3 * MiB
    assert p.complete and exact(p)


def test_a_block_freed_without_an_alloc_was_live_at_the_start_with_its_rounded_size():
    entries = [("free_requested", 1024, 700), ("free_completed", 1024, 700)]
    p = lift(by_hand(entries, [(0, {"small"}, [(2 * MiB, FREE_BLOCK, 0)])]), 0)
    assert start_blocks(p) == [[(0, 1024, -1), (1024, 1024, 0), (2048, 2 * MiB - 2048, -1)]]
    assert ops(p) == ["FREE 0"]
    assert p.complete and exact(p)


def test_a_free_that_only_completes_was_pending_at_the_start():
    entries = [("free_completed", 0, 512)]
    p = lift(by_hand(entries, [(0, {"small"}, [(2 * MiB, FREE_BLOCK, 0)])]), 0)
    assert p.start.blocks["state"].tolist() == [2, 0]
    assert ops(p) == ["COMPLETE 0"] and exact(p)


def test_a_block_pending_in_the_final_state_without_an_entry_was_pending_at_the_start():
    p = lift(by_hand([], [(0, {"small"}, [(2 * MiB, PENDING_BLOCK, 512)])]), 0)
    assert p.start.blocks["state"].tolist() == [2] and ops(p) == [] and exact(p)


def test_a_gap_of_a_mebibyte_behind_a_large_block_is_its_slack():
    # Every block of this segment is larger than 1 MiB, so the gap can be no block of its own.
    entries = [("free_requested", 0, 19 * MiB), ("free_completed", 0, 19 * MiB)]
    p = lift(by_hand(entries, [(0, set(), [(20 * MiB, FREE_BLOCK, 0)])]), 0)
    assert start_blocks(p) == [[(0, 20 * MiB, 0)]]
    assert p.complete and exact(p)


def test_the_first_allocation_behind_a_large_block_shows_where_its_slack_ends():
    entries = [
        ("alloc", 3 * MiB + 512 * KiB, 5 * MiB),  # begins half a MiB behind the block
        ("free_requested", 0, 3 * MiB),
        ("free_completed", 0, 3 * MiB),
    ]
    tail = 20 * MiB - 8 * MiB - 512 * KiB
    final = [
        (3 * MiB + 512 * KiB, FREE_BLOCK, 0), (5 * MiB, LIVE_BLOCK, 5 * MiB), (tail, FREE_BLOCK, 0)
    ]  # fmt: skip
    p = lift(by_hand(entries, [(0, set(), final)]), 0)
    assert start_blocks(p)[0][0] == (0, 3 * MiB + 512 * KiB, 0)
    assert p.complete and exact(p)


def test_slack_that_nothing_shows_is_taken_as_none_and_said():
    entries = [("free_requested", 0, 3 * MiB), ("free_completed", 0, 3 * MiB)]
    p = lift(by_hand(entries, [(0, set(), [(20 * MiB, FREE_BLOCK, 0)])]), 0)
    assert start_blocks(p) == [[(0, 3 * MiB, 0), (3 * MiB, 17 * MiB, -1)]]
    assert kinds(p)["unknown_slack"] == 1 and not p.complete


def test_an_allocation_after_the_block_is_gone_says_nothing_about_its_slack():
    entries = [
        ("free_requested", 0, 3 * MiB), ("free_completed", 0, 3 * MiB),
        ("alloc", 0, 3 * MiB), ("alloc", 3 * MiB, 2 * MiB),
    ]  # fmt: skip
    final = [
        (3 * MiB, LIVE_BLOCK, 3 * MiB), (2 * MiB, LIVE_BLOCK, 2 * MiB), (15 * MiB, FREE_BLOCK, 0)
    ]  # fmt: skip
    p = lift(by_hand(entries, [(0, set(), final)]), 0)
    assert kinds(p)["unknown_slack"] == 1 and exact(p)


def test_a_block_of_max_split_size_keeps_its_whole_segment():
    settings = Settings(max_split_size=30 * MiB)
    entries = [("free_requested", 0, 32 * MiB), ("free_completed", 0, 32 * MiB)]
    p = lift(by_hand(entries, [(0, set(), [(40 * MiB, FREE_BLOCK, 0)])], settings=settings), 0)
    assert start_blocks(p) == [[(0, 40 * MiB, 0)]] and p.complete


def test_small_and_expandable_blocks_have_no_slack():
    entries = [("free_requested", 0, 19 * MiB), ("free_completed", 0, 19 * MiB)]
    final = [(0, {"expandable"}, [(20 * MiB, FREE_BLOCK, 0)])]
    p = lift(by_hand(entries, final, settings=ON), 0)
    assert start_blocks(p) == [[(0, 19 * MiB, 0), (19 * MiB, MiB, -1)]] and p.complete


def test_a_segment_created_later_was_not_there_and_one_released_was():
    entries = [
        ("segment_free", 0, 20 * MiB),
        ("segment_alloc", 64 * MiB, 2 * MiB),
        ("alloc", 64 * MiB, 100),
    ]
    final = [(64 * MiB, {"small"}, [(512, LIVE_BLOCK, 100), (2 * MiB - 512, FREE_BLOCK, 0)])]
    p = lift(by_hand(entries, final), 0)
    assert start_blocks(p) == [[(0, 20 * MiB, -1)]] and exact(p)


def test_an_address_used_again_belongs_to_the_segment_of_its_time():
    # Released and obtained again at the same address, in another size and for another pool.
    entries = [
        ("segment_free", 0, 20 * MiB),
        ("segment_alloc", 0, 2 * MiB),
        ("alloc", 0, 100),
    ]
    final = [(0, {"small"}, [(512, LIVE_BLOCK, 100), (2 * MiB - 512, FREE_BLOCK, 0)])]
    p = lift(by_hand(entries, final), 0)
    assert start_blocks(p) == [[(0, 20 * MiB, -1)]]
    assert p.start.segments["is_small"].tolist() == [0] and exact(p)


def test_expandable_memory_is_rolled_back_page_by_page():
    # At the start 40 MiB are mapped, with 10 MiB live at the front and 1 MiB behind page two.
    # Emptying the cache unmaps the second page; the third was mapped for the last block.
    entries = [
        ("segment_unmap", 20 * MiB, 20 * MiB),
        ("free_requested", 0, 10 * MiB),
        ("free_completed", 0, 10 * MiB),
        ("segment_map", 20 * MiB, 40 * MiB),
        ("alloc", 0, 50 * MiB),
    ]
    final = [(0, {"expandable"}, [(50 * MiB, LIVE_BLOCK, 50 * MiB), (10 * MiB, FREE_BLOCK, 0)])]
    p = lift(by_hand(entries, final, settings=ON), 0)
    assert start_blocks(p) == [[(0, 10 * MiB, 0), (10 * MiB, 30 * MiB, -1)]]
    assert p.start.segments["reservation"].tolist() == [p.start.segments["address"][0]]
    assert exact(p, ON)


def test_runs_of_one_reservation_know_each_other():
    # The middle page is unmapped before the recording: two runs, one reservation.
    first = (0, {"expandable"}, [(20 * MiB, LIVE_BLOCK, 20 * MiB)])
    third = (40 * MiB, {"expandable"}, [(20 * MiB, LIVE_BLOCK, 20 * MiB)])
    p = lift(by_hand([], [first, third], settings=ON), 0)
    assert len(set(p.start.segments["reservation"].tolist())) == 1
    assert len(p.start.segments["address"]) == 2


def test_small_and_large_expandable_memory_lie_in_different_reservations():
    small = (0, {"expandable", "small"}, [(2 * MiB, LIVE_BLOCK, MiB)])
    large = (40 * MiB, {"expandable"}, [(20 * MiB, LIVE_BLOCK, 20 * MiB)])
    p = lift(by_hand([], [small, large], settings=ON), 0)
    assert len(set(p.start.segments["reservation"].tolist())) == 2


def test_streams_and_pools_of_the_start_come_from_its_segments():
    final = [(0, {"small", "stream 1", "pool 2"}, [(2 * MiB, LIVE_BLOCK, MiB)])]
    p = lift(by_hand([], final, pools=((0, 0), (0, 5))), 0)
    assert p.streams.tolist() == [0, 77] or p.streams.tolist() == [77]
    assert p.pools == [(0, 0), (0, 5)]
    assert p.req_pool[p.request[0]] == 1
    assert p.streams[p.req_stream[p.request[0]]] == 77


@pytest.mark.parametrize(
    ("divisions", "size", "rounded"),
    [
        (0, 1, 512), (0, 513, 1024), (1, 1200, 1536), (4, 1200, 1536), (4, 2048, 2048),
        (4, 2049, 2560), (4, 5000, 5120), (4, 100_000, 114_688), (4, 600_000, 655_360),
        (4, 1_048_577, 1_310_720), (4, 3 * MiB + 1, 3_670_016), (4, 104_857_607, 117_440_512),
        (8, 3 * GiB, 3 * GiB),
    ],
)  # fmt: skip
def test_rounding_is_that_of_the_compiled_allocator(divisions, size, rounded):
    rounding = Rounding(np.full(16, divisions))
    assert rounding.round(np.array([size])).tolist() == [rounded]


def test_strange_settings_read_as_their_defaults():
    found = {"roundup_power2_divisions": 4, "max_split_size": "no", "expandable_segments": None}
    read = Rounding.of(found, "large_segment_size_mb:x,,a:b:c")
    assert not read.divisions.any() and not read.expandable
    assert read.large_segment == 20 * MiB and read.round(np.array([1200])).tolist() == [1536]


@pytest.mark.parametrize("strange", ["x", None, True, 4.0, -4, 10**30, [4]])
def test_divisions_and_limits_that_are_no_numbers_of_any_use_read_as_their_defaults(strange):
    found = {"roundup_power2_divisions": {"1": strange, "2": 4}, "max_split_size": strange}
    read = Rounding.of(found, "")
    assert read.divisions.tolist() == [0, 4, *[0] * 14] and read.max_split == NEVER


@pytest.mark.parametrize(
    "strange", ["\u00b2", "\u0664\u0668", "-48", "0", "4.8", "9" * 20, "9" * 9999]
)
def test_sizes_of_a_line_that_are_no_numbers_of_any_use_read_as_their_defaults(strange):
    conf = f"large_segment_size_mb:{strange},max_non_split_rounding_mb:{strange}"
    read = Rounding.of({}, conf)
    assert read.large_segment == read.max_non_split == 20 * MiB


def test_sizes_of_a_line_that_are_larger_than_any_number_stand_for_never():
    assert Rounding.of({}, "max_non_split_rounding_mb:8796093022208").max_non_split == NEVER

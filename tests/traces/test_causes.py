"""Why memory was released: inside a malloc, or by the program; decided entry by entry."""

import numpy as np
import pytest

from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.history import lift
from tightfit.traces.switches import find_switches
from tightfit.traces.units import MiB

from .recorded import FREE_BLOCK, LIVE_BLOCK, PENDING_BLOCK, by_hand, departures, kinds, ops

pytestmark = pytest.mark.interpreted

ON = Settings(expandable_segments=True)
POOLS = ((0, 0), (0, 1))
DEFAULT, PRIVATE = {"pool": 1}, {"pool": 2}


def exact(program, torch="2.15"):
    return departures(program, Settings(), release(torch)) == []


def born(offset, size, **more):
    return [("segment_alloc", offset, size, more), ("alloc", offset, size, more)]


def gone(offset, size, **more):
    return [("free_requested", offset, size, more), ("free_completed", offset, size, more)]


def live(offset, size, *options):
    return (offset, set(options), [(size, LIVE_BLOCK, size)])


def test_a_release_with_no_request_behind_it_is_an_empty_cache():
    entries = [*born(0, 32 * MiB), *gone(0, 32 * MiB), ("segment_free", 0, 32 * MiB)]
    p = lift(by_hand(entries, []), 0)
    assert ops(p) == ["MALLOC 0", "FREE 0", "EMPTY_CACHE 0"]
    assert p.entry.tolist() == [1, 2, -1] and p.driver_op.tolist() == [0, 2]
    assert kinds(p) == {"inferred_empty_cache": 1} and p.complete and exact(p)


@pytest.mark.parametrize("action", ["segment_free", "segment_unmap"])
def test_a_history_without_a_single_request_tells_of_no_switch(action):
    p = lift(by_hand([(action, 0, 2 * MiB)], []), 0)
    assert ops(p) == ["EMPTY_CACHE 0"] and len(p.req_pool) == 0 and len(p.driver_op) == 1
    for on_at_end in (None, True):
        assert find_switches(p, on_at_end) == (None, [])


def test_an_error_costs_no_round_of_array_work(monkeypatch):
    """A few kilobytes hold a million of them; each took 44 microseconds."""
    calls = 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        return searchsorted(*args, **kwargs)

    searchsorted = np.searchsorted
    monkeypatch.setattr(np, "searchsorted", counted)
    found = []
    for n in (10, 500):
        calls = 0
        p = lift(by_hand([("oom", 0, 2 * MiB)] * n, []), 0)
        assert ops(p) == ["TRY 0"] * n
        found.append(calls)
    assert found[0] == found[1]


def test_a_release_before_an_allocation_from_the_cache_is_an_empty_cache():
    # The allocation took memory that was there: it never missed, so it released nothing.
    entries: list[tuple] = [
        *born(0, 2 * MiB), *born(64 * MiB, 32 * MiB), *gone(64 * MiB, 32 * MiB),
        *gone(0, 2 * MiB),
    ]  # fmt: skip
    entries[1] = ("alloc", 0, 512)
    entries[6:] = [("segment_free", 64 * MiB, 32 * MiB), ("alloc", 512, 512)]
    final = [(0, {"small"}, [(512, LIVE_BLOCK, 512)] * 2 + [(2 * MiB - 1024, FREE_BLOCK, 0)])]
    p = lift(by_hand(entries, final), 0)
    assert ops(p)[-2:] == ["EMPTY_CACHE 0", "MALLOC 2"] and exact(p)


def test_memory_that_could_have_served_the_request_was_not_released_for_it():
    entries = [
        *born(0, 32 * MiB), *gone(0, 32 * MiB), ("segment_free", 0, 32 * MiB),
        *born(64 * MiB, 16 * MiB),
    ]  # fmt: skip
    p = lift(by_hand(entries, [live(64 * MiB, 16 * MiB)]), 0)
    assert ops(p) == ["MALLOC 0", "FREE 0", "EMPTY_CACHE 0", "MALLOC 1"] and exact(p)


def test_memory_released_to_make_room_is_part_of_the_malloc():
    # 16 + 16 MiB are not enough for 32, and with them held there was no room for it.
    entries = [
        *born(0, 16 * MiB), *born(16 * MiB, 16 * MiB), *gone(0, 16 * MiB),
        *gone(16 * MiB, 16 * MiB), ("segment_free", 0, 16 * MiB),
        ("segment_free", 16 * MiB, 16 * MiB), *born(64 * MiB, 32 * MiB),
    ]  # fmt: skip
    p = lift(by_hand(entries, [live(64 * MiB, 32 * MiB)]), 0)
    assert ops(p) == ["MALLOC 0", "MALLOC 1", "FREE 0", "FREE 1", "MALLOC 2"]
    assert p.driver_op.tolist() == [0, 1, 4, 4, 4]
    assert kinds(p) == {"assumed_recovery": 1} and exact(p)


def test_more_was_held_before_so_the_driver_had_no_reason_to_refuse():
    entries = [
        *born(0, 64 * MiB), *gone(0, 64 * MiB), ("segment_free", 0, 64 * MiB),
        *born(0, 16 * MiB), *gone(0, 16 * MiB), ("segment_free", 0, 16 * MiB),
        *born(64 * MiB, 32 * MiB),
    ]  # fmt: skip
    p = lift(by_hand(entries, [live(64 * MiB, 32 * MiB)]), 0)
    assert ops(p)[-2:] == ["EMPTY_CACHE 0", "MALLOC 2"] and exact(p)


def test_the_stack_outranks_what_the_release_looks_like():
    # By its shape a recovery; by its stack the program's own empty_cache. And the reverse.
    stacks = (("malloc", "step"), ("empty_cache", "step"), ("free", "step"))
    mine, other, free = {"stack": 1}, {"stack": 2}, {"stack": 3}
    for by, expected in ((other, ["EMPTY_CACHE 0", "MALLOC 1"]), (mine, ["FREE 0", "MALLOC 1"])):
        entries = [
            *born(0, 16 * MiB, **mine), *gone(0, 16 * MiB, **free),
            ("segment_free", 0, 16 * MiB, by), *born(64 * MiB, 32 * MiB, **mine),
        ]  # fmt: skip
        p = lift(by_hand(entries, [live(64 * MiB, 32 * MiB)], stacks=stacks), 0)
        assert ops(p)[-2:] == expected and "assumed_recovery" not in kinds(p) and exact(p)


def test_a_stack_shows_an_empty_cache_that_only_waited():
    # Nothing could be released: the segment is in use. Under other settings something may.
    stacks = (("malloc", "step"), ("empty_cache", "step"), ("free", "step"))
    mine, other, free = {"stack": 1}, {"stack": 2}, {"stack": 3}

    def entries(by):
        return [
            ("segment_alloc", 0, 2 * MiB, mine), ("alloc", 0, 512, mine),
            ("alloc", 512, 512, mine), ("free_requested", 0, 512, free),
            ("free_completed", 0, 512, by), ("alloc", 0, 512, mine),
        ]  # fmt: skip

    final = [(0, {"small"}, [(512, LIVE_BLOCK, 512)] * 2 + [(2 * MiB - 1024, FREE_BLOCK, 0)])]
    p = lift(by_hand(entries(other), final, stacks=stacks), 0)
    assert "EMPTY_CACHE 0" in ops(p) and exact(p)
    p = lift(by_hand(entries(mine), final, stacks=stacks), 0)
    assert "EMPTY_CACHE 0" not in ops(p) and exact(p)


def test_a_stack_that_is_the_allocations_own_decides_nothing():
    # Recorded with context="alloc": frees bear the stack of their allocation, and a release that
    # of the segment's creation, which may be the very line that allocates next.
    one = {"stack": 1}
    entries = [
        *born(0, 32 * MiB, **one), *gone(0, 32 * MiB, **one),
        ("segment_free", 0, 32 * MiB, one), *born(64 * MiB, 32 * MiB, **one),
    ]  # fmt: skip
    p = lift(by_hand(entries, [live(64 * MiB, 32 * MiB)], stacks=(("malloc",),)), 0)
    assert ops(p)[-2:] == ["EMPTY_CACHE 0", "MALLOC 1"] and exact(p)


def test_a_private_pool_must_have_been_released_before_its_memory_goes():
    entries = [
        *born(0, 16 * MiB, **PRIVATE), *born(16 * MiB, 16 * MiB, **DEFAULT),
        *gone(0, 16 * MiB, **PRIVATE), *gone(16 * MiB, 16 * MiB, **DEFAULT),
        ("segment_free", 16 * MiB, 16 * MiB, DEFAULT), ("segment_free", 0, 16 * MiB, PRIVATE),
    ]  # fmt: skip
    p = lift(by_hand(entries, [], pools=POOLS), 0)
    assert ops(p)[-2:] == ["RELEASE_POOL 1", "EMPTY_CACHE 0"] and exact(p)


def test_only_a_private_pool_goes_when_it_is_deleted():
    entries = [
        *born(0, 16 * MiB, **PRIVATE), *born(16 * MiB, 16 * MiB, **DEFAULT),
        *gone(0, 16 * MiB, **PRIVATE), *gone(16 * MiB, 16 * MiB, **DEFAULT),
        ("segment_free", 0, 16 * MiB, PRIVATE),
    ]  # fmt: skip
    final = [(16 * MiB, {"pool 1"}, [(16 * MiB, FREE_BLOCK, 0)])]
    p = lift(by_hand(entries, final, pools=POOLS), 0)
    assert ops(p)[-2:] == ["RELEASE_POOL 1", "EMPTY_CACHE 1"] and exact(p)


def test_completed_frees_before_an_allocation_were_polled_by_it():
    # b's free completes between the two halves of nothing at all: at the malloc of c.
    entries = [
        ("segment_alloc", 0, 2 * MiB), ("alloc", 0, 512), ("alloc", 512, 512),
        ("free_requested", 512, 512), *gone(0, 512), ("free_completed", 512, 512),
        ("alloc", 0, 1024),
    ]  # fmt: skip
    final = [(0, {"small"}, [(1024, LIVE_BLOCK, 1024), (2 * MiB - 1024, FREE_BLOCK, 0)])]
    p = lift(by_hand(entries, final), 0)
    assert ops(p) == ["MALLOC 0", "MALLOC 1", "FREE_LATER 1", "FREE 0", "COMPLETE 1", "MALLOC 2"]
    assert p.entry.tolist() == [1, 2, 3, 4, 6, 7] and p.complete and exact(p)


def test_completed_frees_of_a_recovery_belong_to_its_synchronize():
    # Completed before the malloc, 16 + 16 MiB would still be too small, but the replay must find
    # them pending, as PyTorch did, so that its own synchronize completes them.
    entries = [
        *born(0, 16 * MiB), ("free_requested", 0, 16 * MiB), ("free_completed", 0, 16 * MiB),
        ("segment_free", 0, 16 * MiB), *born(64 * MiB, 32 * MiB),
    ]  # fmt: skip
    entries.insert(3, ("alloc", 128 * MiB, 512))
    entries.insert(3, ("segment_alloc", 128 * MiB, 2 * MiB))
    final = [
        live(64 * MiB, 32 * MiB),
        (128 * MiB, {"small"}, [(512, LIVE_BLOCK, 512), (2 * MiB - 512, FREE_BLOCK, 0)]),
    ]
    p = lift(by_hand(entries, final), 0)
    assert ops(p) == ["MALLOC 0", "FREE_LATER 0", "MALLOC 1", "MALLOC 2", "COMPLETE 0"]
    assert exact(p)


def test_a_free_completed_by_the_next_malloc_was_pending_when_that_began():
    # Directly behind its request, but with the malloc's stack: the malloc found the block still
    # pending, had to ask the driver, and its synchronize completed the free.
    stacks = (("malloc",), ("free",))
    mine, free = {"stack": 1}, {"stack": 2}
    entries = [
        *born(0, 34 * MiB, **mine), ("free_requested", 0, 34 * MiB, free),
        ("free_completed", 0, 34 * MiB, mine), ("segment_free", 0, 34 * MiB, mine),
        *born(64 * MiB, 32 * MiB, **mine),
    ]  # fmt: skip
    p = lift(by_hand(entries, [live(64 * MiB, 32 * MiB)], stacks=stacks), 0)
    assert ops(p) == ["MALLOC 0", "FREE_LATER 0", "MALLOC 1", "COMPLETE 0"] and exact(p)


def test_frees_that_stay_pending_show_that_an_error_came_without_a_synchronize():
    entries = [
        *born(0, 16 * MiB), ("free_requested", 0, 16 * MiB), ("oom", 0, 1024 * MiB),
    ]  # fmt: skip
    p = lift(by_hand(entries, [(0, set(), [(16 * MiB, PENDING_BLOCK, 16 * MiB)])]), 0)
    assert ops(p) == ["MALLOC 0", "FREE_LATER 0", "CAPTURE 1", "TRY 1", "CAPTURE 0"]
    assert kinds(p)["capture"] == 1 and exact(p)


def test_an_error_is_a_try_with_the_rounded_size():
    entries = [*born(0, 16 * MiB), ("oom", 0, 1024 * MiB), *gone(0, 16 * MiB)]
    p = lift(by_hand(entries, [(0, set(), [(16 * MiB, FREE_BLOCK, 0)])]), 0)
    assert ops(p)[1] == f"TRY {p.arg[1]}" and p.req_size[p.arg[1]] == 1024 * MiB
    assert p.entry[1] == 2 and exact(p)


def test_before_2_12_a_segment_made_although_another_had_room_lies_in_another_pool():
    # The stream's first segment has room for the second request, which got one of its own that
    # the final state shows in a private pool: the first, which is gone, was in another.
    at = {"stream": 1}
    entries = [
        ("segment_alloc", 0, 2 * MiB, at), ("alloc", 0, 512, at),
        ("segment_alloc", 8 * MiB, 2 * MiB, at), ("alloc", 8 * MiB, 512, at),
        *gone(0, 512, **at), ("segment_free", 0, 2 * MiB, at),
    ]  # fmt: skip
    blocks = [(512, LIVE_BLOCK, 512), (2 * MiB - 512, FREE_BLOCK, 0)]
    final = [(8 * MiB, {"small", "stream 1", "pool 2"}, blocks)]
    p = lift(by_hand(entries, final, pools=POOLS), 0)
    assert p.req_pool[p.request].tolist() == [0, 1]
    assert kinds(p)["guessed_pool"] == 1 and not p.complete and exact(p, "2.11")


def test_before_2_12_a_segment_that_stays_when_caches_are_emptied_is_private():
    # Idle, and yet not released with the others: not the default pool's.
    entries = [
        *born(0, 16 * MiB), *born(16 * MiB, 16 * MiB), *born(32 * MiB, 24 * MiB),
        *gone(0, 16 * MiB), *gone(16 * MiB, 16 * MiB), ("segment_free", 16 * MiB, 16 * MiB),
        ("free_requested", 32 * MiB, 24 * MiB), ("free_completed", 32 * MiB, 24 * MiB),
        ("segment_free", 0, 16 * MiB),
    ]  # fmt: skip
    final = [(32 * MiB, {"pool 2"}, [(24 * MiB, FREE_BLOCK, 0)])]
    p = lift(by_hand(entries, final, pools=POOLS), 0)
    assert p.req_pool[p.request].tolist() == [1, 0, 1]
    assert ops(p)[-2:] == ["RELEASE_POOL 1", "EMPTY_CACHE 1"]


def test_expandable_memory_released_by_the_page_is_weighed_by_its_free_block():
    # 60 MiB are free, one page of 20 MiB in the middle of them goes: a request of 50 MiB would
    # have found them, so it did not release the page.
    entries = [
        ("segment_map", 0, 100 * MiB), ("alloc", 0, 15 * MiB), ("alloc", 15 * MiB, 42 * MiB),
        ("alloc", 57 * MiB, 30 * MiB), *gone(15 * MiB, 42 * MiB),
        ("segment_unmap", 20 * MiB, 20 * MiB), ("segment_map", 20 * MiB, 20 * MiB),
        ("alloc", 15 * MiB, 41 * MiB),
    ]  # fmt: skip
    final = [
        (0, {"expandable"}, [
            (15 * MiB, LIVE_BLOCK, 15 * MiB), (41 * MiB, LIVE_BLOCK, 41 * MiB),
            (MiB, FREE_BLOCK, 0), (30 * MiB, LIVE_BLOCK, 30 * MiB), (13 * MiB, FREE_BLOCK, 0),
        ])
    ]  # fmt: skip
    p = lift(by_hand(entries, final, settings=ON), 0)
    assert ops(p)[-2:] == ["EMPTY_CACHE 0", "MALLOC 3"]

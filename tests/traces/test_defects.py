"""What is wrong with a recording is found, counted and said; what can be known stays exact."""

import numpy as np
import pytest

from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.errors import TraceError
from tightfit.traces.event import Action
from tightfit.traces.history import lift
from tightfit.traces.units import MiB

from .recorded import FREE_BLOCK, LIVE_BLOCK, PENDING_BLOCK, by_hand, departures, kinds, ops

pytestmark = pytest.mark.interpreted

SEGMENT = [("segment_alloc", 0, 2 * MiB)]


def small(*blocks):
    """A 2 MiB segment at 0: the blocks given, then free memory."""
    used = sum(size for size, _, _ in blocks)
    return [(0, {"small"}, [*blocks, (2 * MiB - used, FREE_BLOCK, 0)])]


def gone(offset, size):
    return [("free_requested", offset, size), ("free_completed", offset, size)]


def exact(program):
    return departures(program, Settings(), release("2.15")) == []


def text(program, kind):
    return next(f.text for f in program.findings if f.kind == kind)


def test_a_block_whose_memory_is_used_again_was_freed_just_before():
    entries = [*SEGMENT, ("alloc", 0, 512), ("alloc", 512, 512), ("alloc", 0, 512)]
    entries += [("alloc", 1024, 512), *gone(1024, 512)]
    p = lift(by_hand(entries, small((512, LIVE_BLOCK, 512), (512, LIVE_BLOCK, 512))), 0)
    assert ops(p)[:4] == ["MALLOC 0", "MALLOC 1", "FREE 0", "MALLOC 2"]
    assert p.entry.tolist()[:4] == [1, 2, -1, 3]
    assert kinds(p) == {"lost_free": 1} and not p.complete and exact(p)
    assert text(p, "lost_free").startswith("blocks that vanish with no recorded free: 1;")


def test_every_block_under_a_larger_one_was_freed():
    # Both blocks vanish under an allocation that begins in front of neither.
    entries = [*SEGMENT, ("alloc", 0, 512), ("alloc", 512, 512), ("alloc", 0, 1024)]
    entries += [("alloc", 1024, 512), *gone(1024, 512)]
    p = lift(by_hand(entries, small((1024, LIVE_BLOCK, 1024))), 0)
    assert ops(p)[2:5] == ["FREE 0", "FREE 1", "MALLOC 2"]
    assert kinds(p) == {"lost_free": 2} and exact(p)


def test_a_block_in_front_that_reaches_into_a_new_one_was_freed():
    entries = [
        *SEGMENT, ("alloc", 0, 512), ("alloc", 512, 4096), *gone(0, 512), ("alloc", 0, 1024),
    ]  # fmt: skip
    p = lift(by_hand(entries, small((1024, LIVE_BLOCK, 1024))), 0)
    assert kinds(p) == {"lost_free": 1} and exact(p)


def test_a_pending_block_whose_memory_is_used_again_had_completed():
    entries = [
        *SEGMENT, ("alloc", 0, 512), ("alloc", 512, 512), ("free_requested", 0, 512),
        *gone(512, 512), ("alloc", 0, 512),
    ]  # fmt: skip
    p = lift(by_hand(entries, small((512, LIVE_BLOCK, 512))), 0)
    assert ops(p) == ["MALLOC 0", "MALLOC 1", "FREE_LATER 0", "FREE 1", "COMPLETE 0", "MALLOC 2"]
    assert kinds(p) == {"lost_completion": 1} and exact(p)


def test_blocks_of_a_released_segment_were_freed_before_the_release():
    entries = [*SEGMENT, ("alloc", 0, 512), ("segment_free", 0, 2 * MiB)]
    p = lift(by_hand(entries, []), 0)
    assert ops(p) == ["MALLOC 0", "FREE 0", "EMPTY_CACHE 0"]
    assert kinds(p)["lost_free"] == 1 and exact(p)


def test_blocks_absent_from_the_final_state_were_freed_at_the_end():
    entries = [
        *SEGMENT, ("alloc", 0, 512), ("alloc", 512, 512), ("alloc", 1024, 512),
        ("free_requested", 512, 512), *gone(1024, 512),
    ]  # fmt: skip
    p = lift(by_hand(entries, small()), 0)
    assert ops(p)[-2:] == ["FREE 0", "COMPLETE 1"] and p.entry[-2:].tolist() == [-1, -1]
    assert kinds(p) == {"late_free": 1, "late_completion": 1} and exact(p)


def test_a_block_that_became_pending_after_the_last_entry_is_freed_later():
    entries = [*SEGMENT, ("alloc", 0, 512)]
    p = lift(by_hand(entries, small((512, PENDING_BLOCK, 512))), 0)
    assert ops(p) == ["MALLOC 0", "FREE_LATER 0"] and kinds(p) == {"lost_free": 1} and exact(p)


def test_a_final_block_that_no_entry_explains_is_allocated_at_the_end():
    entries = [*SEGMENT, ("alloc", 0, 512), *gone(0, 512)]
    p = lift(by_hand(entries, small((1024, LIVE_BLOCK, 700))), 0)
    assert ops(p) == ["MALLOC 0", "FREE 0", "MALLOC 1"]
    assert p.req_size[p.request[1]] == 700 and kinds(p) == {"unexplained_block": 1} and exact(p)


def test_a_free_of_what_is_not_live_is_left_out():
    entries = [*SEGMENT, ("alloc", 0, 512), *gone(0, 512), *gone(0, 512), *gone(0, 512)]
    p = lift(by_hand(entries, small()), 0)
    assert ops(p) == ["MALLOC 0", "FREE 0"]
    assert kinds(p) == {"unmatched_free": 2} and not p.complete and exact(p)


def test_a_free_that_nobody_requested_is_requested_where_it_completes():
    entries = [
        *SEGMENT, ("alloc", 0, 512), ("alloc", 512, 512), *gone(512, 512),
        ("free_completed", 0, 512),
    ]  # fmt: skip
    p = lift(by_hand(entries, small()), 0)
    assert ops(p)[-1] == "FREE 0" and p.entry[-1] == 5 and kinds(p) == {"unrequested": 1}


def test_a_full_ring_buffer_is_recognised():
    # 1000 entries, the first of which frees what none allocated.
    entries = [*gone(0, 512)] + [("alloc", 0, 512), *gone(0, 512)] * 332 + [("snapshot", 0, 0)] * 2
    p = lift(by_hand(entries, small()), 0)
    assert len(entries) == 1000
    assert kinds(p) == {"warm_start": 1, "truncated": 1000} and p.complete and exact(p)
    assert "1,000 entries" in text(p, "truncated")
    q = lift(by_hand(entries[:-1], small()), 0)
    assert kinds(q) == {"warm_start": 1}


def test_recordings_without_frees_free_what_is_overwritten():
    entries = [*SEGMENT] + [("alloc", 0, 512)] * 3
    p = lift(by_hand(entries, small((512, LIVE_BLOCK, 512))), 0)
    assert kinds(p) == {"no_frees": 3, "lost_free": 2} and exact(p)


def test_recordings_without_completions_complete_at_once():
    entries = [*SEGMENT] + [("alloc", 0, 512), ("free_requested", 0, 512)] * 3
    p = lift(by_hand(entries, small()), 0)
    assert ops(p) == ["MALLOC 0", "FREE 0", "MALLOC 1", "FREE 1", "MALLOC 2", "FREE 2"]
    assert kinds(p) == {"no_completions": 3} and exact(p)


def test_recordings_without_requests_are_named():
    entries = [*SEGMENT] + [("alloc", 0, 512), ("free_completed", 0, 512)] * 3
    p = lift(by_hand(entries, small()), 0)
    assert ops(p)[:2] == ["MALLOC 0", "FREE 0"]
    assert kinds(p) == {"no_free_requests": 3, "unrequested": 3} and exact(p)


def test_recordings_without_segment_entries_are_named():
    entries = [("alloc", 0, 512)]
    p = lift(by_hand(entries, small((512, LIVE_BLOCK, 512))), 0)
    assert kinds(p)["no_segment_entries"] == 1 and not p.complete and exact(p)


def test_blocks_of_unknown_segments_get_one_made_up():
    entries = [*gone(64 * MiB, 512), *gone(96 * MiB, 30 * MiB)]
    p = lift(by_hand(entries, small()), 0)
    assert kinds(p)["no_segment"] == 2 and not p.complete
    assert p.start.segments["size"].tolist() == [2 * MiB, 2 * MiB, 30 * MiB]
    assert p.start.segments["is_small"].tolist() == [1, 1, 0]
    assert departures(p, Settings(), release("2.15"))[0].startswith("2 final blocks")


def test_allocations_outside_all_memory_are_counted():
    entries = [*SEGMENT, ("alloc", 0, 512), ("alloc", 64 * MiB, 512), *gone(64 * MiB, 512)]
    p = lift(by_hand(entries, small((512, LIVE_BLOCK, 512))), 0)
    assert kinds(p) == {"outside": 1} and not p.complete


def test_segments_that_come_or_go_unrecorded_are_counted():
    entries = [("segment_alloc", 8 * MiB, 2 * MiB), ("alloc", 8 * MiB, 512), *gone(8 * MiB, 512)]
    p = lift(by_hand(entries, small()), 0)
    assert kinds(p)["lost_segment_free"] == 1
    entries = [("segment_free", 0, 2 * MiB)]
    p = lift(by_hand(entries, small()), 0)
    assert kinds(p)["lost_segment_alloc"] == 1


def test_segment_entries_that_lead_to_no_allocation_are_left_out():
    p = lift(by_hand([("segment_alloc", 0, 2 * MiB)], small()), 0)
    assert kinds(p) == {"cut_tail": 1} and len(p.driver_op) == 0


@pytest.mark.parametrize(
    ("kind", "entries", "final", "sign"),
    [
        ("mixed_segments", [("segment_map", 0, 2 * MiB), ("alloc", 0, 512)],
         [(0, {"small", "expandable"}, [(512, LIVE_BLOCK, 512), (2 * MiB - 512, FREE_BLOCK, 0)])],
         "segments created although expandable segments are off at the end, so that they were "
         "switched before: 1"),
        ("settings_changed", [*SEGMENT, ("alloc", 0, 600)],
         small((2048, LIVE_BLOCK, 600)),
         "live blocks not as large as the final settings round them: 1"),
        ("settings_changed", [("segment_alloc", 0, 32 * MiB), ("alloc", 0, 3 * MiB)],
         [(0, set(), [(3 * MiB, LIVE_BLOCK, 3 * MiB), (29 * MiB, FREE_BLOCK, 0)])],
         "segments not of the size the final settings ask for: 1"),
    ],
)  # fmt: skip
def test_signs_of_settings_that_changed(kind, entries, final, sign):
    p = lift(by_hand(entries, final), 0)
    assert kinds(p) == {kind: 1} and sign in text(p, kind)


def test_a_clock_that_runs_backwards_is_said_and_ignored():
    recording = by_hand([*SEGMENT, ("alloc", 0, 512)], small((512, LIVE_BLOCK, 512)))
    recording.devices[0].entries["time_us"][:] = [5, 4]
    p = lift(recording, 0)
    assert kinds(p) == {"clock": 1} and p.complete and exact(p)


def test_a_device_that_is_not_there_is_an_error_that_names_those_that_are():
    recording = by_hand([], small())
    with pytest.raises(TraceError, match=r"hand.pickle: found no device 1, expected one of 0"):
        lift(recording, 1)
    recording.devices[-1] = recording.devices.pop(0)
    with pytest.raises(TraceError, match="none: the file holds no device memory"):
        lift(recording, -1)


@pytest.mark.parametrize(
    ("table", "column", "value", "what"),
    [
        ("entries", "addr", 1 << 63, "entry 1"),
        ("entries", "size", -1, "entry 1"),
        ("segments", "total_size", 1 << 60, "segment 0"),
        ("blocks", "size", -512, "block 1"),
    ],
)
def test_impossible_addresses_and_sizes_are_refused(table, column, value, what):
    recording = by_hand([*SEGMENT, ("alloc", 0, 512)], small((512, LIVE_BLOCK, 512)))
    getattr(recording.devices[0], table)[column][-1] = value
    with pytest.raises(TraceError, match=f"device 0, {what}: found"):
        lift(recording, 0)


def test_any_order_of_entries_is_lifted_without_a_crash():
    # Nonsense in, findings out: what is consistent by chance is replayed, the rest is counted.
    rng = np.random.default_rng(1)
    names = [a.name.lower() for a in Action if a is not Action.OTHER]
    for _ in range(300):
        entries = [
            (names[rng.integers(len(names))], int(rng.integers(8)) * MiB,
             int(rng.choice([0, 1, 512, MiB, 2 * MiB, 5 * MiB, 20 * MiB])),
             {"stream": int(rng.integers(2)), "pool": int(rng.integers(3))})
            for _ in range(rng.integers(30))
        ]  # fmt: skip
        final = [
            (k * 4 * MiB, {("small", "large")[k % 2], ("expandable", "fixed")[rng.integers(2)]},
             [(2 * MiB, int(rng.integers(3)), 512)])
            for k in range(rng.integers(3))
        ]  # fmt: skip
        p = lift(by_hand(entries, final, pools=((0, 0), (0, 1))), 0)
        used = p.start.blocks["alloc"]
        assert used[used >= 0].tolist() == list(range(p.n_start))
        assert len(p.addr) == len(p.request) and (p.req_size > 0).all()
        assert len(p.driver_op) == 0 or p.driver_op.max() < p.n_ops

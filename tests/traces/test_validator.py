"""The naive validator: silent on sound recordings, and one kind of finding per kind of damage."""

import io
import pickle

import numpy as np
import pytest

from tightfit.traces.event import (
    ACTION_NAMES,
    BLOCK_COLUMNS,
    ENTRY_COLUMNS,
    SEGMENT_COLUMNS,
    empty_columns,
)
from tightfit.traces.recording import DeviceRecording, Recording
from tightfit.traces.units import MiB
from tightfit.traces.validator import problems

A, REQ, DONE, SEG, UNSEG, MAP, UNMAP = range(7)
BASE = 0x7F0000000000


def record(entries, segments=()):
    """Entries as (action, address, size[, time]); segments as (address, [(size, state, req)])."""
    rows = empty_columns(ENTRY_COLUMNS, len(entries))
    for i, (action, addr, size, *time) in enumerate(entries):
        rows["action"][i], rows["addr"][i], rows["size"][i] = action, addr, size
        rows["time_us"][i] = time[0] if time else 0
    blocks = [b for _, inside in segments for b in inside]
    state = empty_columns(SEGMENT_COLUMNS, len(segments))
    block_rows = empty_columns(BLOCK_COLUMNS, len(blocks))
    row = 0
    for i, (address, inside) in enumerate(segments):
        state["address"][i] = at = address
        state["total_size"][i] = sum(size for size, _, _ in inside)
        state["allocated_size"][i] = sum(s for s, st, _ in inside if st == 1)
        state["active_size"][i] = sum(s for s, st, _ in inside if st)
        state["requested_size"][i] = sum(r for _, st, r in inside if st)
        state["first_block"][i], state["n_blocks"][i] = row, len(inside)
        for size, kind, requested in inside:
            block_rows["address"][row], block_rows["size"][row] = at, size
            block_rows["state"][row], block_rows["requested_size"][row] = kind, requested
            at, row = at + size, row + 1
    return Recording("x", {0: DeviceRecording(rows, state, block_rows)})


def kinds(recording):
    return {f.kind: f.count for f in problems(recording)}


ONE = [(SEG, BASE, 2 * MiB), (A, BASE, 700), (A, BASE + 1024, 512)]
ONE_STATE = [(BASE, [(1024, 1, 700), (512, 1, 512), (2 * MiB - 1536, 0, 0)])]


def test_a_sound_recording_has_no_problems():
    assert kinds(record(ONE, ONE_STATE)) == {}


def test_an_empty_recording_has_no_problems():
    assert problems(Recording("x")) == []
    assert problems(Recording("x", {0: DeviceRecording()})) == []


def test_what_was_live_before_the_recording_is_no_problem():
    entries = [
        (REQ, BASE, 900), (DONE, BASE, 900),  # live before
        (DONE, BASE + 1024, 512),  # pending before
        (UNSEG, BASE + 4 * MiB, 2 * MiB),  # reserved before
        (UNMAP, BASE + 8 * MiB, 2 * MiB),
    ]  # fmt: skip
    assert kinds(record(entries, [(BASE, [(2 * MiB, 0, 0)])])) == {}


def test_pending_blocks_and_reused_addresses_are_no_problem():
    entries = [
        *ONE, (REQ, BASE, 700, 5), (A, BASE + 4096, 100, 6), (DONE, BASE, 700, 6),
        (A, BASE, 600, 7), (REQ, BASE, 600, 8), (8, 123, 1 << 30), (7, 0, 0),
    ]  # fmt: skip
    state = [(BASE, [(1024, 2, 600), (512, 1, 512), (2560, 0, 0), (512, 1, 100), (2092544, 0, 0)])]
    assert kinds(record(entries, state)) == {}


def test_expandable_memory_that_grows_and_shrinks_is_no_problem():
    entries = [
        (MAP, BASE, 2 * MiB), (MAP, BASE + 2 * MiB, 2 * MiB), (A, BASE, 3 * MiB),
        (REQ, BASE, 3 * MiB), (DONE, BASE, 3 * MiB), (UNMAP, BASE, 4 * MiB), (MAP, BASE, 2 * MiB),
    ]  # fmt: skip
    assert kinds(record(entries, [(BASE, [(2 * MiB, 0, 0)])])) == {}


@pytest.mark.parametrize(
    "entries, expected",
    [
        ([*ONE, (A, BASE, 512)], {"alloc_over_live": 1}),
        ([*ONE, (A, BASE + 512, 100)], {"alloc_over_live": 1, "lost_free": 1, "unknown_live": 1}),
        ([*ONE, (REQ, BASE + 8192, 512)], {"free_unknown": 1}),
        ([*ONE, (DONE, BASE + 8192, 512)], {"free_unknown": 1}),
        ([*ONE, (REQ, BASE, 700), (REQ, BASE, 700)], {"free_unknown": 1}),
        ([*ONE, (DONE, BASE, 700)], {"free_not_requested": 1, "unknown_live": 1}),
        ([*ONE, (REQ, BASE, 701)], {"free_size": 1}),
        ([*ONE, (A, BASE + 8192, 512)], {"lost_free": 1}),
        ([*ONE, (REQ, BASE, 700), (DONE, BASE, 700)], {"unknown_live": 1}),
        ([*ONE, (A, BASE + 8192, 0), (A, BASE + 8192, -5)], {"bad_size": 2}),
        ([*ONE, (SEG, BASE + MiB, 2 * MiB)], {"segments_overlap": 1}),
        ([*ONE, (MAP, BASE + MiB, 2 * MiB)], {"map_over_mapped": 1}),
        ([*ONE, (UNSEG, BASE, 2 * MiB)], {"segment_free_live": 1}),
        ([*ONE, (UNMAP, BASE, 2 * MiB)], {"unmap_live": 1}),
        ([(SEG, BASE + 4 * MiB, 2 * MiB), *[(UNSEG, BASE + 4 * MiB, 2 * MiB)] * 2, *ONE],
         {"segment_free_unknown": 1}),
        ([(SEG, BASE + 4 * MiB, 2 * MiB), (UNSEG, BASE + 4 * MiB, MiB), *ONE],
         {"segment_free_unknown": 1}),
        ([(MAP, BASE + 4 * MiB, 2 * MiB), *[(UNMAP, BASE + 4 * MiB, 2 * MiB)] * 2, *ONE],
         {"unmap_unmapped": 1}),
        ([(SEG, BASE + 4 * MiB, MiB), (UNSEG, BASE + 4 * MiB, MiB), *ONE, (A, BASE + 4 * MiB, 512)],
         {"alloc_outside_segments": 1, "lost_free": 1}),
        ([(SEG, BASE, 2 * MiB, 9), (A, BASE, 700, 8), (A, BASE + 1024, 512, 8)],
         {"time_backwards": 1}),
    ],
)  # fmt: skip
def test_each_damage_to_the_entries_has_its_finding(entries, expected):
    assert kinds(record(entries, ONE_STATE)) == expected


def test_each_damage_to_the_state_has_its_finding():
    def damaged(change):
        recording = record(
            [], [(BASE, [(1024, 1, 700), (1024, 0, 0)]), (BASE + MiB, [(512, 1, 1)])]
        )
        change(recording.devices[0])
        return kinds(recording)

    assert damaged(lambda d: None) == {}
    assert damaged(lambda d: d.segments["address"].put(1, BASE + 1024)) == {
        "segments_overlap": 1,
        "blocks_do_not_tile": 2,
    }
    assert damaged(lambda d: d.blocks["address"].put(1, BASE + 512)) == {"blocks_do_not_tile": 2}
    assert damaged(lambda d: d.segments["total_size"].put(0, 4096)) == {"blocks_do_not_tile": 1}
    assert damaged(lambda d: d.segments["n_blocks"].put(0, 1)) == {"blocks_do_not_tile": 1}
    assert damaged(lambda d: d.blocks["size"].put(1, 0))["bad_size"] == 1
    for name in ("allocated_size", "active_size", "requested_size"):
        assert damaged(lambda d, name=name: d.segments[name].put(0, 3)) == {"segment_sums": 1}
        assert damaged(lambda d, name=name: d.segments[name].put(0, -1)) == {}
    assert damaged(lambda d: d.blocks["state"].put(0, 2)) == {"segment_sums": 1}


def test_a_finding_shows_the_first_case_and_the_number():
    (found,) = problems(record([*ONE, (REQ, BASE + 64, 1), (REQ, BASE + 128, 1)], ONE_STATE))
    assert found.kind == "free_unknown" and found.count == 2 and found.device == 0
    assert "entry 3 at 0x7f0000000040" in found.text and "(2 such cases)" in found.text


class _Refusing(pickle.Unpickler):
    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"{module}.{name}")


@pytest.mark.parametrize(
    "name",
    ["traces/medium_train_256_warm.pickle", "traces/opt_zeroth_order.pickle",
     "recorded/fsdp_rank0of4.pickle"],
)  # fmt: skip
def test_recordings_of_real_programs_are_sound(shared, name):
    snapshot = _Refusing(io.BytesIO((shared / name).read_bytes())).load()
    trace = max(snapshot["device_traces"], key=len)
    entries = [
        (ACTION_NAMES[e["action"]], e.get("addr", 0), e["size"], e["time_us"]) for e in trace
    ]
    number = snapshot["device_traces"].index(trace)
    states = {"inactive": 0, "active_allocated": 1, "active_pending_free": 2}
    segments = [
        (s["address"], [(b["size"], states[b["state"]], b["requested_size"]) for b in s["blocks"]])
        for s in snapshot["segments"]
        if s["device"] == number
    ]
    recording = record(entries, segments)
    assert problems(recording) == []
    # And the same recording with one free left out is not.
    cut = recording.devices[0].entries
    free = int(np.flatnonzero(cut["action"] == REQ)[100])
    for column in cut:
        cut[column] = np.delete(cut[column], [free, free + 1])
    assert {f.kind for f in problems(recording)} & {"alloc_over_live", "lost_free"}

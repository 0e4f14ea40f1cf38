"""The reference replay: after a failure, from a start layout, with the recorded driver."""

import numpy as np
import pytest

from tightfit.sim.device import Device
from tightfit.traces.errors import TraceError
from tightfit.traces.event import Action, BlockState
from tightfit.traces.program import Layout
from tightfit.traces.units import GiB, KiB, MiB, TiB

from ..strategies import RELEASES, Script, as_start
from .playing import OFF, ON, actions, blocks, play, segments

# ---- going on after a failure


def test_frees_of_an_unserved_allocation_are_ignored() -> None:
    s = Script()
    a, b = s.mallocs(150 * MiB, 100 * MiB)
    s.free_later(b)
    s.complete(b)
    s.free(a)
    s.free(s.malloc(100 * MiB))
    run = play(s, device=Device(200 * MiB), stop_at_oom=False)
    assert run.n_ops == len(s.ops) and run.first_oom_op == 1
    assert actions(run, 2) == actions(run, 3) == []
    assert run.addr[1] == 0 and run.addr[2] != 0
    assert play(s, device=Device(200 * MiB)).n_ops == 2
    s.malloc(400 * MiB)
    run = play(s, device=Device(200 * MiB), stop_at_oom=False)
    assert run.stats["num_ooms"] == 2
    assert (run.first_oom_op, run.first_oom_bytes) == (1, 100 * MiB)  # the first stays the first


def test_what_was_mapped_before_a_failure_stays() -> None:
    s = Script()
    a, b = s.mallocs(40 * MiB, 40 * MiB)
    s.free(a)
    s.empty_cache()  # a hole of 40 at the front
    s.malloc(200 * MiB)
    s.free(b)
    run = play(s, ON, device=Device(150 * MiB), stop_at_oom=False)
    assert run.stats["num_ooms"] == 1
    assert run.stats["reserved_bytes.all.current"] == 40 * MiB


# ---- a start layout


def warm() -> Script:
    """Start with a split segment, a pending block, expandable memory with a hole and a pool."""
    before = Script(streams=2, pools=1)
    a = before.mallocs(3 * MiB, 4 * MiB, 700)
    before.free(a[0])
    before.free_later(a[2])
    before.malloc(100 * MiB, stream=1, pool=1)
    fixed = play(before)
    other = Script(streams=2, pools=1)
    a = other.mallocs(30 * MiB, 30 * MiB, 30 * MiB, stream=1)
    other.free(a[1])
    other.empty_cache()
    grown = play(other, ON)
    assert fixed.layout is not None and grown.layout is not None
    shift = 64 * GiB  # out of the way of the first layout
    moved = {k: v.copy() for k, v in grown.layout.segments.items()}
    moved["address"] += shift
    moved["reservation"] += shift
    moved["first_block"] += len(fixed.layout.blocks["address"])
    rows = {k: v.copy() for k, v in grown.layout.blocks.items()}
    rows["address"] += shift
    both = Layout(
        {k: np.concatenate([fixed.layout.segments[k], moved[k]]) for k in moved},
        {k: np.concatenate([fixed.layout.blocks[k], rows[k]]) for k in rows},
    )
    return Script(streams=2, pools=1, start=as_start(both))


def test_a_start_layout_is_taken_over() -> None:
    s = warm()
    run = play(s)
    assert blocks(run) == [
        ["3I", "4A", "13I"],
        ["0.000976562P", "1.99902I"],
        ["100A"],
        ["30A", "10I"],
        ["30A", "10I"],
    ]
    assert run.layout is not None
    for name, column in s.start.blocks.items():
        assert (run.layout.blocks[name] == column).all(), name
    for name, column in s.start.segments.items():
        assert (run.layout.segments[name] == column).all(), name
    stats = run.stats
    assert stats["reserved_bytes.all.current"] == stats["reserved_bytes.all.peak"] == 202 * MiB
    assert stats["reserved_bytes.all.allocated"] == 0 and stats["num_device_alloc"] == 0
    assert stats["segment.all.current"] == 3
    assert stats["allocation.all.current"] == 4 and stats["active.all.current"] == 5
    assert stats["allocated_bytes.all.current"] == (4 + 100 + 30 + 30) * MiB
    assert stats["active_bytes.all.current"] == (4 + 100 + 30 + 30) * MiB + 1024
    assert stats["requested_bytes.all.peak"] == (4 + 100 + 30 + 30) * MiB + 700
    assert stats["inactive_split.all.current"] == 3  # expandable memory does not count
    assert stats["inactive_split_bytes.all.current"] == 16 * MiB + 2 * MiB - 1024
    assert len(run.events) == 0 and (run.addr > 0).all()


def test_a_start_layout_is_used() -> None:
    s = warm()
    pending = int(np.flatnonzero(s.start.blocks["state"] == BlockState.PENDING)[0])
    s.complete(int(s.start.blocks["alloc"][pending]))
    s.malloc(12 * MiB)
    s.malloc(20 * MiB, stream=1)
    run = play(s, ON)
    assert blocks(run)[:2] == [["3I", "4A", "12A", "1I"], ["2I"]]
    # the hole of 20 behind 10 free: lowest address first, and only the missing half is mapped
    assert segments(run)[-1][::2] == ("segment_map", 20)
    assert run.stats["reserved_bytes.all.current"] == 222 * MiB
    new = Script(start=as_start(run.layout))  # pyright: ignore
    new.malloc(200 * MiB)
    end = (s.start.segments["address"] + s.start.segments["size"].astype(np.uint64)).max()
    assert play(new).addr[-1] >= end


def test_expandable_memory_of_the_start_is_not_used_when_the_option_is_off() -> None:
    s = warm()
    s.malloc(8 * MiB, stream=1)  # two expandable blocks of 10 are free
    assert segments(play(s))[0][0] == "segment_alloc"
    assert segments(play(s, ON)) == []
    s.empty_cache()  # the pending block's segment goes; no free expandable page is whole
    assert [a for a, _, _ in segments(play(s), 1)] == ["segment_free"]


def test_the_start_takes_part_of_the_device() -> None:
    s = warm()
    s.malloc(40 * MiB)
    assert play(s, device=Device(242 * MiB)).first_oom_op == -1
    # the pending free completes, which gives the small segment back; nothing else is whole
    assert actions(play(s, device=Device(240 * MiB)), 0)[:2] == ["free_completed", "segment_free"]
    run = play(s, device=Device(239 * MiB))
    assert run.first_oom_op == 0
    assert run.events[-1]["addr"] == 39 * MiB


def test_a_start_can_be_placed_anew() -> None:
    s = warm()
    s.free(0)
    run = play(s, ON, keep_start=False)
    assert set(run.events["op"].tolist()) == {-1, 0}
    assert [a for a in actions(run, -1) if "segment" not in a] == ["alloc"] * 2 + [
        "free_requested"
    ] + ["alloc"] * 3
    assert run.stats["allocation.all.allocated"] == 5
    assert run.stats["reserved_bytes.all.current"] == (20 + 2 + 100 + 60) * MiB
    run = play(s, keep_start=False, device=Device(100 * MiB))
    assert (run.n_ops, run.first_oom_op, run.first_oom_bytes) == (0, -1, 100 * MiB)


def test_expandable_runs_must_be_whole_pages() -> None:
    s = warm()
    run = int(np.flatnonzero(s.start.segments["is_expandable"])[0])
    s.start.segments["size"][run] -= 512 * KiB
    with pytest.raises(TraceError, match="not whole pages"):
        play(s)


# ---- the driver as recorded


def recorded(rows: list[tuple[int, Action, int, int]]) -> Script:
    s = Script()
    a, _ = s.mallocs(30 * MiB, 40 * MiB)
    s.free(a)
    s.attempt(50 * MiB)
    s.malloc(60 * MiB)
    program = s.program()
    program.driver_op = np.array([r[0] for r in rows])
    program.driver_action = np.array([r[1] for r in rows], np.uint8)
    program.driver_addr = np.array([r[2] for r in rows], np.uint64)
    program.driver_size = np.array([r[3] for r in rows])
    s.program = lambda: program  # type: ignore[method-assign]
    return s


def test_the_recorded_driver_answers_as_recorded() -> None:
    rows = [
        (0, Action.SEGMENT_ALLOC, 5 * TiB, 30 * MiB),
        (1, Action.SEGMENT_ALLOC, 2 * TiB, 40 * MiB),
        (3, Action.SEGMENT_FREE, 5 * TiB, 30 * MiB),
    ]
    run = play(recorded(rows), recorded_driver=True, stop_at_oom=False)
    assert run.addr[:2].tolist() == [5 * TiB, 2 * TiB]
    assert actions(run, 3) == ["segment_free", "oom"]
    assert int(run.addr[2]) > 5 * TiB  # the recording has no answer left: a synthetic address
    assert run.n_ops == 5 and run.first_oom_op == 3


def test_ties_go_by_the_recorded_address_until_2_11() -> None:
    s = Script()
    s.free(*s.mallocs(30 * MiB, 30 * MiB))
    s.malloc(30 * MiB)
    program = s.program()
    program.driver_op = np.array([0, 1])
    program.driver_action = np.full(2, Action.SEGMENT_ALLOC, np.uint8)
    program.driver_addr = np.array([6 * TiB, 5 * TiB], np.uint64)  # the younger lies lower
    program.driver_size = np.full(2, 30 * MiB)
    s.program = lambda: program  # type: ignore[method-assign]
    took = {t: int(play(s, OFF, t, recorded_driver=True).addr[2]) // TiB for t in RELEASES}
    assert took == {t: 5 if RELEASES.index(t) < RELEASES.index("2.12") else 6 for t in RELEASES}


def test_the_recorded_driver_refuses_what_was_not_asked_for() -> None:
    rows = [(0, Action.SEGMENT_ALLOC, 5 * TiB, 32 * MiB)]
    run = play(recorded(rows), recorded_driver=True)
    assert actions(run, 0) == ["oom"]
    rows = [(0, Action.SEGMENT_MAP, 5 * TiB, 40 * MiB), (1, Action.SEGMENT_MAP, 6 * TiB, 40 * MiB)]
    run = play(recorded(rows), ON, recorded_driver=True)
    assert run.addr[:2].tolist() == [5 * TiB, 5 * TiB + 30 * MiB]
    assert play(recorded(rows), recorded_driver=True).first_oom_op == 0

"""The moment to explain: where memory ran out, where most was reserved, or where one asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...policies.native import conditions_of, parts_of, replay_native
from ...sim.device import Device
from ...sim.packing import pack
from ...sim.release import Release
from ...sim.requests import Requests
from ...sim.run import Run
from ...sim.settings import Settings
from ...sim.state import LIMIT, THROW_LIMIT
from ...traces.errors import ConfigError
from ...traces.event import Action
from ...traces.program import Layout, Op, Program
from ...traces.units import exact_bytes, format_bytes, round_up
from ..out_of_memory import OutOfMemory
from ..smallest import ran
from ..subject import Subject, starts_within
from .places import Places
from .standing import Lane
from .what_if import until

GROWTH = {Action.SEGMENT_ALLOC: 1, Action.SEGMENT_MAP: 1, Action.SEGMENT_FREE: -1,
          Action.SEGMENT_UNMAP: -1}  # fmt: skip

NEAR = 0.99  # of the peak


@dataclass(frozen=True)
class Terms:
    """What a program is replayed under, the same for the program as it was and as it might be.

    Attributes:
        settings: the line.
        rules: the release.
        gpu: the simulated device.
        keeps_start: memory live before recording began lies where it was recorded, on devices that
            can hold what was reserved then.
    """

    settings: Settings
    rules: Release
    gpu: Device
    keeps_start: bool

    def play(self, program: Program, gpu: Device | None = None, **options: Any) -> Run:
        """Replay a program; `gpu` instead of the conditions' own."""
        gpu = gpu or self.gpu
        keeps = self.keeps_start and starts_within(program, self.settings, gpu)
        packed = pack(program, keep_start=keeps)
        return replay_native(packed, self.settings, self.rules, gpu, **options)

    def requests(self, program: Program, op: int) -> Requests:
        """What is decided about the program's requests once some ops are carried out."""
        packed = pack(program, keep_start=self.keeps_start)
        conditions = conditions_of(packed, self.settings, self.rules, self.gpu)
        calls = int(np.count_nonzero(program.op[:op] == Op.CHANGE))
        return parts_of(packed, conditions, self.rules)[calls][0]

    def room(self, program: Program, op: int) -> int | None:
        """Bytes that the allocator may reserve then; None = without limit."""
        if self.gpu.capacity_bytes is None:
            return None
        options = self.requests(program, op).options
        own = self.gpu.capacity_bytes - self.gpu.other_bytes
        return min(own, options[LIMIT], options[THROW_LIMIT])


def terms_of(subject: Subject, conf: str | None, rules: Release, gpu: Device) -> Terms:
    """Return the terms of a replay, as `tightfit replay` has them.

    Raises:
        PolicyError: the release refuses the line.
    """
    settings, kept = subject.settings_under(conf, rules, gpu)
    return Terms(settings, rules, gpu, subject.shows_driver and kept)


@dataclass(frozen=True)
class Want:
    """A request that was not served.

    Attributes:
        bytes: what was asked for.
        block_bytes: the block it needs.
        segment_bytes: what is taken from the driver where no block is free.
        lane: where free blocks are looked for.
        where: the place in the user's code.
    """

    bytes: int
    block_bytes: int
    segment_bytes: int
    lane: Lane
    where: str


@dataclass(frozen=True)
class Moment:
    """A moment of a replay.

    Attributes:
        kind: "failed" = a request was not served; "grew" = one was, but memory of the driver was
            taken for it, and that led to the peak; "peak" = most is in use, of memory that was all
            reserved before recording began; "asked" = --at.
        op: the ops before this one were carried out.
        entry: the recorded entry it stands at; None = before the first.
        layout: all segments and blocks then.
        want: the request that failed, or for which memory was taken.
        room: bytes that the allocator may reserve; None = without limit.
        reached: bytes reserved once the request was served; what is reserved then, if it was not.
        peak: the most that is reserved, bytes, until memory runs out.
        note: what a user should know about how the moment was found; "" = nothing.
        met_limit: a limit of the process was met, which is not recorded: the room is the least it
            can have been.
    """

    kind: Literal["failed", "grew", "peak", "asked"]
    op: int
    entry: int | None
    layout: Layout
    want: Want | None
    room: int | None
    reached: int
    peak: int
    note: str = ""
    met_limit: bool = False


def find_moment(
    program: Program,
    places: Places,
    under: Terms,
    recorded: OutOfMemory | None = None,
    at: int | None = None,
) -> Moment:
    """Return the moment to explain.

    Args:
        program: the recorded program.
        places: of its allocations.
        under: the terms.
        recorded: where the recorded run ran out of memory, if that is what is asked about; the
            device of `under` then has what that run could have.
        at: the entry after which to look, instead of the first failure or the peak.

    Raises:
        ConfigError: memory runs out before `at`; or what was live when recording began does not
            fit.
    """
    if at is not None:
        return _asked(program, under, at)
    run = under.play(program, events=True, layout=True)
    failed = not ran(run)
    if failed and run.first_oom_op < 0:
        raise ConfigError(
            f"--capacity: found {exact_bytes(under.gpu.total_bytes)}, on which what was live when "
            "recording began does not fit"
        )
    if recorded is not None and not (
        failed and int(program.entry[run.first_oom_op]) == recorded.entry
    ):
        return _as_recorded(program, places, under, recorded)
    assert run.layout is not None
    peak = run.stats["reserved_bytes.all.peak"]
    limited = recorded is not None and recorded.is_limited
    if failed:
        op = run.first_oom_op
        want = _want(program, places, under, op)
        held, room = run.layout.reserved_bytes, under.room(program, op)
        entry = _entry(program, op)
        return Moment("failed", op, entry, run.layout, want, room, held, peak, "", limited)
    growth = _growth(run, peak)
    if growth is None:
        op = _busiest_op(run)
        layout = _layout(under, program, op + 1)
        held, room = layout.reserved_bytes, under.room(program, op + 1)
        return Moment("peak", op + 1, _entry(program, op), layout, None, room, held, peak)
    op, reached = growth
    layout = _layout(under, program, op)
    want, room = _want(program, places, under, op), under.room(program, op)
    return Moment("grew", op, _entry(program, op), layout, want, room, reached, peak)


def _layout(under: Terms, program: Program, n_ops: int) -> Layout:
    """The state after some ops, which are carried out without a failure."""
    layout = under.play(until(program, n_ops), layout=True).layout
    assert layout is not None
    return layout


def _asked(program: Program, under: Terms, at: int) -> Moment:
    """The moment after an entry."""
    op = int(np.flatnonzero((program.entry >= 0) & (program.entry <= at)).max(initial=-1))
    run = under.play(until(program, op + 1), layout=True)
    if not ran(run):
        failed = _entry(program, run.first_oom_op) or 0
        raise ConfigError(f"--at: found {at}, but memory runs out before it, at entry {failed:,}")
    assert run.layout is not None
    peak = run.stats["reserved_bytes.all.peak"]
    held, room = run.layout.reserved_bytes, under.room(program, op + 1)
    return Moment("asked", op + 1, at, run.layout, None, room, held, peak)


def _as_recorded(program: Program, places: Places, under: Terms, recorded: OutOfMemory) -> Moment:
    """The recorded failure, where a replay on as much memory does not fail at it.

    Then others took memory meanwhile, say. Live blocks lie where a replay on a device without
    limit puts them, and cached memory was given back before the request failed.
    """
    op = int(np.flatnonzero(program.entry == recorded.entry)[0])
    run = under.play(until(program, op, flushed=True), Device(), layout=True)
    assert run.layout is not None
    size = format_bytes(recorded.capacity_bytes)
    note = (
        f"a replay on the {size} that the recorded run could have does not fail where that did; "
        "shown is the recorded failure, placed by a replay on a device without limit"
    )
    want, room = _want(program, places, under, op), under.room(program, op)
    held, peak = run.layout.reserved_bytes, recorded.peak_reserved_bytes
    return Moment(
        "failed", op, recorded.entry, run.layout, want, room, held, peak, note, recorded.is_limited
    )


def _want(program: Program, places: Places, under: Terms, op: int) -> Want:
    """What the op that failed had asked for."""
    arg = int(program.arg[op])
    request = arg if program.op[op] == Op.TRY else int(program.request[arg])
    requests = under.requests(program, op)
    is_small = bool(requests.is_small[request])
    block = int(requests.need[request])
    segment = int(requests.segment[request])
    if requests.expands[request]:
        segment = round_up(block, requests.small_page if is_small else requests.large_page)
    lane = Lane(int(program.req_stream[request]), int(program.req_pool[request]), is_small)
    return Want(int(program.req_size[request]), block, segment, lane, places.of_op(op))


def _growth(run: Run, peak: int) -> tuple[int, int] | None:
    """The op for which most was taken from the driver, of those that led to the peak or near it.

    The very last may have been a request of a few bytes at a quiet moment, which explains nothing.

    Returns:
        (the op, bytes reserved after it); None = nothing was taken so near the peak. Memory that
        was live at the start is no request.
    """
    sign = np.zeros(256, np.int64)
    for action, s in GROWTH.items():
        sign[action] = s
    change = sign[run.events["action"]] * run.events["size"]
    reserved = peak - int(np.cumsum(change).max(initial=0)) + np.cumsum(change)
    led = (change > 0) & (reserved >= NEAR * peak) & (run.events["op"] >= 0)
    if not led.any():
        return None
    row = int(np.where(led, change, 0).argmax())
    return int(run.events["op"][row]), int(reserved[row])


def _busiest_op(run: Run) -> int:
    """The op after which the program held most; -1 = the start."""
    gives, takes = (
        run.events["action"] == Action.ALLOC,
        run.events["action"] == Action.FREE_COMPLETED,
    )
    held = np.cumsum(
        np.where(gives, run.events["size"], 0) - np.where(takes, run.events["size"], 0)
    )
    if held.max(initial=0) <= 0:
        return -1
    return int(run.events["op"][held.argmax()])


def _entry(program: Program, op: int) -> int | None:
    """The recorded entry an op stands for, or the last before it that has one."""
    known = np.flatnonzero(program.entry[: op + 1] >= 0)
    return int(program.entry[known[-1]]) if len(known) else None

"""Recordings made from a reference run, and the check that a lifted program repeats one."""

from __future__ import annotations

import copy
from itertools import takewhile

import numpy as np

from tightfit.sim.device import Device
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import Release
from tightfit.sim.run import Run
from tightfit.sim.settings import OFF, Settings
from tightfit.traces.event import (
    ACTION_NAMES,
    BLOCK_COLUMNS,
    ENTRY_COLUMNS,
    SEGMENT_COLUMNS,
    Action,
    empty_columns,
)
from tightfit.traces.program import Layout, Op, Program
from tightfit.traces.recording import DeviceRecording, Recording, Stacks

RELEASES = (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP)


def snapshot_settings(settings: Settings) -> dict[str, object]:
    """Write settings as `allocator_settings` of a snapshot shows them."""
    parts = []
    if settings.large_segment_size != Settings().large_segment_size:
        parts.append(f"large_segment_size_mb:{settings.large_segment_size >> 20}")
    if settings.max_non_split_rounding != settings.large_segment_size:
        parts.append(f"max_non_split_rounding_mb:{settings.max_non_split_rounding >> 20}")
    return {
        "PYTORCH_CUDA_ALLOC_CONF": ",".join(parts),
        "max_split_size": -1 if settings.max_split_size >= OFF else settings.max_split_size,
        "garbage_collection_threshold": settings.garbage_collection_threshold,
        "expandable_segments": settings.expandable_segments,
        "roundup_power2_divisions": {
            str(1 << i): d for i, d in enumerate(settings.roundup_divisions)
        },
    }


def record(
    program: Program, run: Run, settings: Settings, *, pools: bool = True, stacks: bool = True
) -> Recording:
    """Return what a snapshot at the end of a run would hold.

    Args:
        program, run: what ran.
        settings: under which settings.
        pools: whether entries name their pool, as from 2.12 on.
        stacks: whether entries hold stacks: 1 is a free's, 2 a malloc's, 3 that of empty_cache,
            4 that of the deletion of a memory pool.
    """
    e = empty_columns(ENTRY_COLUMNS, len(run.events))
    for name in ("action", "addr", "size", "stream"):
        e[name][:] = run.events[name]
    if pools:
        e["pool"][:] = run.events["pool"] + 1
    if stacks:
        op = program.op[run.events["op"]]
        empties = np.where(program.arg[run.events["op"]] == 0, 3, 4)
        serves = (op == Op.MALLOC) | (op == Op.TRY)
        e["stack"][:] = np.where(op == Op.EMPTY_CACHE, empties, np.where(serves, 2, 1))
    layout = run.layout
    assert layout is not None
    order = np.argsort(layout.segments["address"], kind="stable")
    s = empty_columns(SEGMENT_COLUMNS, len(order))
    for name in ("address", "stream", "is_small", "is_expandable", "n_blocks"):
        s[name][:] = layout.segments[name][order]
    s["total_size"][:] = layout.segments["size"][order]
    s["pool"][:] = layout.segments["pool"][order] + 1
    s["first_block"][:] = np.cumsum(s["n_blocks"]) - s["n_blocks"]
    b = empty_columns(BLOCK_COLUMNS, int(s["n_blocks"].sum()))
    rows = np.repeat(layout.segments["first_block"][order] - s["first_block"], s["n_blocks"])
    rows += np.arange(len(rows))
    for name in ("address", "size", "requested_size", "state"):
        b[name][:] = layout.blocks[name][rows]
    return Recording(
        name="made.pickle",
        devices={0: DeviceRecording(e, s, b)},
        streams=program.streams.copy(),
        pools=[(-1, -1), *program.pools],
        stacks=Stacks(
            strings=["memory.py", "free", "malloc", "empty_cache", "delete_pool"],
            frames=np.array([[0, k, k] for k in (1, 2, 3, 4)], np.int64),
            offsets=np.array([0, 0, 1, 2, 3, 4], np.int64),
            frame_ids=np.arange(4, dtype=np.uint32),
        ),
        settings=snapshot_settings(settings),
    )


def cut(recording: Recording, first: int) -> Recording:
    """Return a recording whose ring buffer has lost all entries before `first`."""
    out = copy.copy(recording)
    out.devices = {
        k: DeviceRecording({n: c[first:] for n, c in d.entries.items()}, d.segments, d.blocks)
        for k, d in recording.devices.items()
    }
    return out


def without(recording: Recording, *entries: int) -> Recording:
    """Return a recording that lacks some entries of device 0."""
    out = copy.copy(recording)
    d = recording.devices[0]
    keep = np.ones(d.n_entries, bool)
    keep[list(entries)] = False
    out.devices = {
        0: DeviceRecording({n: c[keep] for n, c in d.entries.items()}, d.segments, d.blocks)
    }
    return out


def departures(
    program: Program, settings: Settings, rules: Release, device: Device | None = None
) -> list[str]:
    """Replay a lifted program with the recorded driver; say where it departs from the recording.

    The device's size matters to expandable memory: it decides how large the reservations are.

    Empty if every allocation lands on its recorded address, the driver is called as recorded, in
    order, and the final blocks are the snapshot's.
    """
    run = replay_reference(
        program, settings, rules, device, recorded_driver=True, stop_at_oom=False
    )
    out = []
    wrong = np.flatnonzero(run.addr != program.addr)
    if len(wrong):
        out.append(f"{len(wrong)} of {len(run.addr)} addresses, first of allocation {wrong[0]}")
    calls = run.events[
        (run.events["action"] >= Action.SEGMENT_ALLOC)
        & (run.events["action"] <= Action.SEGMENT_UNMAP)
    ]
    got = [(int(c["action"]), int(c["addr"]), int(c["size"])) for c in calls]
    recorded = (program.driver_action, program.driver_addr, program.driver_size)
    want = list(zip(*(c.tolist() for c in recorded), strict=True))
    if got != want:
        k = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(got, want, strict=False)))
        out.append(f"driver call {k}: replayed {got[k : k + 1]}, recorded {want[k : k + 1]}")
    assert run.layout is not None
    differ = set(_rows(run.layout)) ^ set(_rows(program.end))
    if differ:
        out.append(f"{len(differ)} final blocks, such as {sorted(differ)[:2]}")
    return out


def _rows(layout: Layout) -> list[tuple[int, ...]]:
    s, b = layout.segments, layout.blocks
    home = np.repeat(np.arange(len(s["address"])), s["n_blocks"])
    columns = [b[n] for n in ("address", "size", "state", "alloc")]
    columns += [s[n][home] for n in ("address", "size", "stream", "pool", "is_small")]
    return list(zip(*(c.tolist() for c in columns), strict=True))


BASE = 0x7F0000000000  # hand-written addresses count from here
FREE_BLOCK, LIVE_BLOCK, PENDING_BLOCK = 0, 1, 2


def by_hand(
    entries: list[tuple],
    segments: list[tuple],
    *,
    settings: Settings | None = None,
    pools: tuple[tuple[int, int], ...] = ((0, 0),),
    stacks: tuple[tuple[str, ...], ...] = (),
) -> Recording:
    """Write a recording in full.

    Args:
        entries: (action, offset from BASE, bytes, then any of stream=, pool=, stack= as a dict).
            Pool 0 is "not recorded", 1 the first of `pools`. Stacks count from 1.
        segments: (offset, options, blocks): options is a set of "small", "expandable" and
            "stream 1", "pool 2" and the like; a block is (bytes, state, requested).
        settings: as the snapshot shows them.
        pools: private pool ids.
        stacks: function names of each, innermost first.
    """
    e = empty_columns(ENTRY_COLUMNS, len(entries))
    for i, (action, offset, size, *more) in enumerate(entries):
        e["action"][i] = ACTION_NAMES[action]
        e["addr"][i], e["size"][i], e["time_us"][i] = BASE + offset, size, 1000 + i
        for name, value in (more[0] if more else {}).items():
            e[name][i] = value
    s = empty_columns(SEGMENT_COLUMNS, len(segments))
    b = empty_columns(BLOCK_COLUMNS, sum(len(blocks) for _, _, blocks in segments))
    row = 0
    for i, (offset, options, blocks) in enumerate(segments):
        numbers = {o.split()[0]: int(o.split()[1]) for o in options if " " in o}
        s["address"][i] = address = BASE + offset
        s["stream"][i], s["pool"][i] = numbers.get("stream", 0), numbers.get("pool", 1)
        s["is_small"][i], s["is_expandable"][i] = "small" in options, "expandable" in options
        s["first_block"][i], s["n_blocks"][i] = row, len(blocks)
        for size, state, requested in blocks:
            b["address"][row], b["size"][row] = address, size
            b["state"][row], b["requested_size"][row] = state, requested
            address, row = address + size, row + 1
        s["total_size"][i] = address - int(s["address"][i])
    names = sorted({n for stack in stacks for n in stack})
    return Recording(
        name="hand.pickle",
        devices={0: DeviceRecording(e, s, b)},
        streams=np.array([0, 77], np.int64),
        pools=[(-1, -1), *pools],
        stacks=Stacks(
            strings=["file.py", *names],
            frames=np.array([[0, 1, 1 + k] for k in range(len(names))], np.int64).reshape(-1, 3),
            offsets=np.concatenate([[0, 0], np.cumsum([len(x) for x in stacks])]).astype(np.int64),
            frame_ids=np.array([names.index(n) for x in stacks for n in x], np.uint32),
        ),
        settings=snapshot_settings(settings or Settings()),
    )


def ops(program: Program) -> list[str]:
    """Write a program's ops as "MALLOC 0"."""
    return [f"{Op(int(o)).name} {int(a)}" for o, a in zip(program.op, program.arg, strict=True)]


def start_blocks(program: Program) -> list[list[tuple[int, int, int]]]:
    """Return (offset, bytes, allocation) of each block at the start, one list per segment."""
    s, b = program.start.segments, program.start.blocks
    return [
        [
            (int(b["address"][k]) - BASE, int(b["size"][k]), int(b["alloc"][k]))
            for k in range(first, first + n)
        ]
        for first, n in zip(s["first_block"].tolist(), s["n_blocks"].tolist(), strict=True)
    ]


def kinds(program: Program) -> dict[str, int]:
    """Return kind -> count of the findings."""
    return {f.kind: f.count for f in program.findings}

"""Lift a program out of a recording: what was asked and freed, without the allocator's answers.

The steps: roll the driver's memory back to the start (`rollback`), find what was live there
(`warm_start`), follow every block through the history (`matching`), read why memory was released
(`causes`), put what the program did in order (`ops`), and compare with the end (`final_state`).
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from .addresses import AddressIndex
from .causes import find_causes
from .errors import TraceError
from .event import Action
from .final_state import lay_out_end, reconcile
from .findings import describe
from .matching import UNMATCHED, UNREQUESTED, Followed, follow
from .ops import Ops, add_inferred, add_recorded, driver_keys
from .pools import assign_pools
from .program import Layout, Op, Program
from .recording import DeviceRecording, Recording
from .reservations import Evidence
from .rollback import Extents, roll_back
from .settings_calls import noted_calls, with_settings_calls
from .view import UNKNOWN, History, reserved_after
from .warm_start import (
    SMALL_LIMIT,
    Rounding,
    StartBlocks,
    find_start_blocks,
    lay_out_start,
)


def lift(recording: Recording, device: int) -> Program:
    """Turn one device's recorded history into a program.

    Whatever had to be inferred stands in the program's findings, in plain words.

    Args:
        recording: a snapshot file's contents.
        device: device index.

    Raises:
        TraceError: the recording holds no such device, or an entry that makes no sense.
    """
    found = recording.devices.get(device)
    if found is None or device < 0:
        have = [str(d) for d in sorted(recording.devices) if d >= 0]
        raise TraceError(
            f"{recording.name}: found no device {device}, expected one of "
            f"{', '.join(have) or 'none: the file holds no device memory'}"
        )
    _check(recording.name, device, found)
    h, streams, pools = _view(recording, found)
    rounding = Rounding.of(recording.settings, recording.conf)
    notes: Counter[str] = Counter()

    index = AddressIndex.of(h)
    start = find_start_blocks(h, index.addresses, index.first, index.second)
    try:
        extents = roll_back(h, _evidence(h, index, rounding))
    except TraceError as error:
        raise TraceError(f"{recording.name}: device {device}: {error}") from None
    notes.update(extents.defects)
    followed = follow(h, index, start, extents)
    notes["guessed_pool"] = assign_pools(h, extents, followed, start, rounding, pools)
    first = lay_out_start(extents, start, rounding, index.addresses, index.first_alloc, notes)
    causes = find_causes(h, extents, followed, rounding, recording.stacks)

    ops = Ops()
    keys = driver_keys(h, extents, causes)
    add_recorded(ops, h, followed, causes)
    add_inferred(ops, h, followed, extents, causes, keys, notes)
    if found.shows_driver:
        owner, extra = reconcile(ops, h, followed, start, notes)
    else:  # no final state was recorded: what is live stays live
        owner, extra = np.zeros(0, np.int32), np.zeros(0, np.int64)
    key, op, arg, entry = ops.ordered()
    streams_at_start = None
    if not found.shows_driver:  # the start's segments are made up, but its blocks are freed later
        of = np.searchsorted(index.addresses, start.address)
        streams_at_start = h.stream[index.first[of]]
    program = _number_requests(
        h, extents, followed, start, first, extra, (op, arg), streams_at_start
    )
    program.device, program.streams, program.pools = device, streams, pools
    program.entry = entry
    program.end = lay_out_end(h, extents, owner)
    placed = keys >= 0
    at = extents.entries[placed]
    program.driver_op = np.searchsorted(key, keys[placed])
    program.driver_action = h.action[at].astype(np.uint8)
    program.driver_addr = h.addr[at].astype(np.uint64)
    program.driver_size = h.size[at]

    notes["cut_tail"] = int((~placed).sum())
    notes["unmatched_free"] = int(((followed.fate == UNMATCHED) & ~followed.at_once).sum())
    notes["unrequested"] = int((followed.fate == UNREQUESTED).sum())
    notes["segment_clash"] = followed.clashes
    if found.shows_driver:
        notes["outside"] = int((followed.alloc_extent[followed.n_start :] < 0).sum())
    else:
        for kind in ("no_segment", "overlap", "unknown_slack"):
            del notes[kind]
    program.findings, program.complete = describe(
        h, program, start, causes, notes, rounding, device
    )
    calls = noted_calls(recording.settings, device)
    return with_settings_calls(program, calls) if calls else program


def _check(name: str, device: int, found: DeviceRecording) -> None:
    """Refuse addresses and sizes that no memory has: sums of them would wrap around.

    Raises:
        TraceError: naming the first.
    """
    for table, what, address, size in (
        (found.entries, "entry", "addr", "size"),
        (found.segments, "segment", "address", "total_size"),
        (found.blocks, "block", "address", "size"),
    ):
        limit = 1 << 62
        wrong = (table[address] >= limit) | (table[size] < 0) | (table[size] >= limit >> 8)
        if wrong.any():
            k = int(wrong.argmax())
            raise TraceError(
                f"{name}: device {device}, {what} {k}: found {int(table[size][k])} bytes at "
                f"{int(table[address][k]):#x}, expected a size of 0 to {limit >> 8:,} bytes at an "
                f"address below {limit:#x}"
            )


def _view(
    recording: Recording, found: DeviceRecording
) -> tuple[History, np.ndarray, list[tuple[int, int]]]:
    """Return the device's history with the program's streams and pools, and those."""
    e = found.entries
    used = np.unique(np.concatenate([e["stream"], found.segments["stream"]]))
    streams = np.unique(recording.streams[used])
    stream = np.zeros(len(recording.streams), np.int64)
    stream[used] = np.searchsorted(streams, recording.streams[used])
    pools = [(0, 0)]
    pool = np.full(max(len(recording.pools), 1), UNKNOWN, np.int64)
    for k in np.unique(np.concatenate([e["pool"], found.segments["pool"]])).tolist():
        a, b = recording.pools[k]
        if (a, b) == (-1, -1):
            continue
        if (a, b) not in pools:
            pools.append((a, b))
        pool[k] = pools.index((a, b))
    # Releases before 2.0 do not name the pool of a segment; all of theirs count as default.
    segments = found.segments | {
        "stream": stream[found.segments["stream"]],
        "pool": np.maximum(pool[found.segments["pool"]], 0),
    }
    h = History(
        action=e["action"],
        addr=e["addr"].astype(np.int64),
        size=e["size"],
        stream=stream[e["stream"]],
        pool=pool[e["pool"]],
        stack=e["stack"],
        time=e["time_us"],
        segments=segments,
        blocks=found.blocks,
    )
    return h, streams, pools


def _evidence(h: History, index: AddressIndex, rounding: Rounding) -> Evidence:
    """Gather what requests and blocks say about the memory they lie in."""
    served = np.flatnonzero((h.action == Action.ALLOC) | (h.action == Action.OOM))
    entries = np.flatnonzero(
        (h.action >= Action.SEGMENT_ALLOC) & (h.action <= Action.SEGMENT_UNMAP)
    )
    following = np.searchsorted(served, entries)
    small = np.full(len(entries), UNKNOWN, np.int64)
    has = following < len(served)
    small[has] = rounding.round(h.size[served[following[has]]]) <= SMALL_LIMIT
    return Evidence(
        served_small=small,
        addresses=index.addresses,
        first=index.first,
        is_small=rounding.round(h.size[index.first]) <= SMALL_LIMIT,
        large_page=rounding.large_segment,
        peak=max(int(reserved_after(h).max(initial=0)), 0),
    )


def _number_requests(
    h: History,
    extents: Extents,
    followed: Followed,
    start: StartBlocks,
    first: Layout,
    extra: np.ndarray,
    ops: tuple[np.ndarray, np.ndarray],
    streams_at_start: np.ndarray | None,
) -> Program:
    """Number the distinct requests and return a program that lacks only what is copied.

    The start's blocks have the stream of their segment unless `streams_at_start` says otherwise.
    """
    b, s, segments = h.blocks, h.segments, first.segments
    op, arg = ops
    at, failed = followed.alloc_entry, np.flatnonzero(h.action == Action.OOM)
    home = np.repeat(np.arange(len(segments["address"])), segments["n_blocks"])
    home = home[first.blocks["alloc"] >= 0]
    of = np.searchsorted(s["first_block"], extra, "right") - 1
    pool = h.pool[at].copy()
    inside = followed.alloc_extent[followed.n_start :]
    silent = (pool == UNKNOWN) & (inside >= 0)
    pool[silent] = extents.pool[inside[silent]]
    asked = np.where(b["requested_size"][extra] > 0, b["requested_size"][extra], b["size"][extra])
    size = np.maximum(np.concatenate([start.requested, h.size[at], asked, h.size[failed]]), 1)
    held = segments["stream"][home] if streams_at_start is None else streams_at_start
    stream = np.concatenate([held, h.stream[at], s["stream"][of], h.stream[failed]])
    pool = np.concatenate([segments["pool"][home], pool, s["pool"][of], h.pool[failed]])
    rows = np.stack([size, stream, np.maximum(pool, 0)])
    order = np.lexsort(rows[::-1])
    rows = rows[:, order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (rows[:, 1:] != rows[:, :-1]).any(axis=0)
    request = np.empty(len(order), np.int32)
    request[order] = np.cumsum(is_new) - 1
    n_allocs = len(size) - len(failed)
    is_try = op == Op.TRY
    arg = arg.copy()
    arg[is_try] = request[n_allocs + arg[is_try]]
    return Program(
        device=0,
        op=op,
        arg=arg,
        entry=np.zeros(0, np.int64),
        request=request[:n_allocs],
        req_size=rows[0, is_new],
        req_stream=rows[1, is_new].astype(np.int32),
        req_pool=rows[2, is_new].astype(np.int32),
        streams=np.zeros(0, np.int64),
        pools=[],
        start=first,
        addr=np.concatenate(
            [start.address, h.addr[at], b["address"][extra].astype(np.int64)]
        ).astype(np.uint64),
    )

"""What a run is told at the start: its options, and a recorded layout to begin from."""

from __future__ import annotations

import numpy as np

from ..traces.event import BlockState
from ..traces.jit import kernel
from .assumed import nothing
from .device import ALIGNMENT, FIRST_ADDRESS, Device
from .expandable import insert_unmapped, place
from .index import rank
from .memory import Fields
from .packing import Packed
from .plan import Plan
from .reclaim import add_pending
from .requests import Requests
from .spares import new_id
from .state import (
    AGES,
    ALLOCATED,
    ASKED,
    BIN_SHIFT,
    BOUND,
    CAPACITY,
    CLASS_WORDS,
    DRIVER_USED,
    FREE,
    GRANULARITY,
    HELD,
    HUGE,
    IS_EXPANDABLE,
    LANE_WORDS,
    LIMIT,
    MAX_NON_SPLIT_ROUNDING,
    MAX_SPLIT,
    N_LANES,
    N_POOLS,
    NEXT_ADDRESS,
    NEXT_ORDER,
    OLD_PAGE,
    PAGE,
    PEAK_ACTIVE,
    PEAK_ALLOCATED,
    PEAK_REQUESTED,
    PEAK_RESERVED,
    PENDING,
    POOL,
    POOL_WORDS,
    REQUESTED,
    RESERVE_BYTES,
    RESERVED,
    SCRIPT_ROWS,
    SCRIPTED,
    START_PAGE,
    STOP_AT_OOM,
    THROW_LIMIT,
    TIE_ADDRESS,
    TIE_BREAK,
    TIE_SEGMENT,
    TRACK,
    UNMAPPED,
    USED,
)
from .stats import (
    ACTIVE,
    ACTIVE_BYTES,
    ALLOCATED_BYTES,
    ALLOCATION,
    INACTIVE_SPLIT,
    INACTIVE_SPLIT_BYTES,
    OVERSIZE_ALLOCATIONS,
    OVERSIZE_SEGMENTS,
    REQUESTED_BYTES,
    RESERVED_BYTES,
    SEGMENTS,
    stat_index,
)
from .view import view

PENDING_ROW = 4  # a used row whose free is pending; beside the block states 0..2
CHAIN_WORDS = 10  # addr, size, state, lane, expandable, phase, order, slot, class, linked


def set_options(
    f: Fields,
    requests: Requests,
    device: Device,
    n_pools: int,
    n_lanes: int,
    *,
    track: bool,
    stop_at_oom: bool,
    script_rows: int,
    ages: bool,
    bound: int,
    ascends: bool = False,
) -> None:
    """Write the options of a run into its state, or those that hold after a change.

    Args:
        script_rows: number of recorded driver calls that are answered as recorded; -1 = none are.
        ages: garbage is collected now or later in the run, so that ages count.
        bound: the run is over when more bytes than this are reserved.
        ascends: each segment has a higher address than all before it, as in a run that began with
            nothing and whose driver is simulated; so age need not be kept to break ties by it.
    """
    opt = f["opt"]
    opt[CAPACITY] = HUGE
    if device.capacity_bytes is not None:
        opt[CAPACITY] = max(0, device.capacity_bytes - device.other_bytes)
    opt[GRANULARITY] = device.granularity
    opt[LIMIT] = opt[THROW_LIMIT] = opt[MAX_SPLIT] = opt[MAX_NON_SPLIT_ROUNDING] = HUGE
    opt[RESERVE_BYTES] = requests.reserve_bytes
    for k, value in requests.options.items():
        opt[k] = value
    if ascends and opt[TIE_BREAK] == TIE_SEGMENT:
        opt[TIE_BREAK] = TIE_ADDRESS
    opt[TRACK] = track
    opt[STOP_AT_OOM] = stop_at_oom
    opt[AGES] = ages
    opt[BOUND] = bound
    opt[N_POOLS], opt[N_LANES] = n_pools, n_lanes
    opt[SCRIPTED], opt[SCRIPT_ROWS] = script_rows >= 0, max(0, script_rows)


def chain_rows(packed: Packed, plan: Plan, requests: Requests, ages: bool) -> np.ndarray:
    """The start layout as rows of blocks and unmapped ranges, each linked to the one before or not.

    Expandable runs of one reservation form one chain from its base to its end, holes included.

    Returns:
        shape (n, CHAIN_WORDS) int64.
    """
    program = packed.program
    seg, blk = program.start.segments, program.start.blocks
    rows: list[tuple[int, ...]] = []
    reservations: dict[tuple[int, int, int, int], list[int]] = {}
    age = 0

    def blocks_of(k: int, lane: int, expandable: int, phase: int, order: int, link: int) -> None:
        first = int(seg["first_block"][k])
        for j in range(first, first + int(seg["n_blocks"][k])):
            alloc = int(blk["alloc"][j])
            state = int(blk["state"][j])
            kind = FREE if state == BlockState.INACTIVE else USED
            if state == BlockState.PENDING:
                kind = PENDING_ROW
            slot = int(packed.start_slot[alloc]) if alloc >= 0 else 0
            klass = int(program.request[alloc]) + 1 if alloc >= 0 else 0
            rows.append(
                (int(blk["address"][j]), int(blk["size"][j]), kind, lane, expandable, phase,
                 order, slot, klass, link)
            )  # fmt: skip
            link = 1

    for k in range(len(seg["address"])):
        pool, small, stream = (int(seg[c][k]) for c in ("pool", "is_small", "stream"))
        if seg["is_expandable"][k]:
            key = (int(seg["reservation"][k]), pool, small, stream)
            reservations.setdefault(key, []).append(k)
            continue
        age += 1
        blocks_of(k, plan.lane_of[pool, small, stream], 0, 0, age if ages else 0, 0)
    for (base, pool, small, stream), runs in reservations.items():
        age += 1
        lane = plan.lane_of[pool, small, stream]
        page = int(plan.lanes[lane, START_PAGE])
        kind = IS_EXPANDABLE | (OLD_PAGE if page != plan.lanes[lane, PAGE] else 0)
        order = age if ages else 0
        end = base + -(-requests.reserve_bytes // page) * page
        at, link = base, 0
        for k in sorted(runs, key=lambda k: int(seg["address"][k])):
            a = int(seg["address"][k])
            if a > at:
                rows.append((at, a - at, UNMAPPED, lane, kind, base % page, order, 0, 0, link))
                link = 1
            blocks_of(k, lane, kind, base % page, order, link)
            link = 1
            at = a + int(seg["size"][k])
        if end > at:
            rows.append((at, end - at, UNMAPPED, lane, kind, base % page, order, 0, 0, link))
    return np.array(rows, np.int64).reshape(-1, CHAIN_WORDS)


@kernel
def adopt(state, plan, rows):
    """Load rows of chain_rows into an empty state; counters included, statistics not."""
    s = view(state, plan, nothing())
    n = rows.shape[0]
    ids = np.empty(n, np.int64)
    for k in range(n):
        b = new_id(s)
        ids[k] = b
        lane = rows[k, 3]
        s.addr[b] = rows[k, 0]
        s.size[b] = rows[k, 1]
        s.phase[b] = rows[k, 5]
        s.order[b] = rows[k, 6]
        s.prev[b] = 0
        s.next[b] = 0
        if rows[k, 9] != 0:
            s.prev[b] = ids[k - 1]
            s.next[ids[k - 1]] = b
        expandable = rows[k, 4]
        s.tag[b] = (rank(s, lane, s.size[b]) << BIN_SHIFT) | expandable | USED
        if rows[k, 2] == USED or rows[k, 2] == PENDING_ROW:
            s.slot[rows[k, 7]] = b
            s.asked[b] = s.classes[rows[k, 8] * CLASS_WORDS + ASKED]
            s.g[REQUESTED] += s.asked[b]
            if rows[k, 2] == USED:
                s.g[ALLOCATED] += s.size[b]
            else:
                s.g[PENDING] += s.size[b]
                add_pending(s, rows[k, 7])
        if rows[k, 2] != UNMAPPED:
            s.g[RESERVED] += s.size[b]
            s.pool[s.lanes[lane * LANE_WORDS + POOL] * POOL_WORDS + HELD] += s.size[b]
    for k in range(n):
        if rows[k, 2] == UNMAPPED:
            insert_unmapped(s, ids[k])
    for k in range(n):
        if rows[k, 2] == FREE:
            place(s, ids[k])


def load_start(f: Fields, packed: Packed, plan: Plan, requests: Requests, device: Device) -> None:
    """Load the program's start layout into an empty state whose options are set."""
    g, opt = f["g"], f["opt"]
    rows = chain_rows(packed, plan, requests, opt[TIE_BREAK] != TIE_ADDRESS)
    if not len(rows):
        return
    adopt(f.buffer, plan.buffer, rows)
    g[PEAK_ALLOCATED] = g[ALLOCATED]
    g[PEAK_ACTIVE] = g[ALLOCATED] + g[PENDING]
    g[PEAK_REQUESTED] = g[REQUESTED]
    g[PEAK_RESERVED] = g[RESERVED]
    g[NEXT_ORDER] = rows[:, 6].max()
    g[NEXT_ADDRESS] = max(
        FIRST_ADDRESS, -(-int((rows[:, 0] + rows[:, 1]).max()) // ALIGNMENT) * ALIGNMENT
    )
    seg = packed.program.start.segments
    step = device.granularity
    used = 0
    columns = ("size", "pool", "is_small", "stream", "is_expandable")
    for size, pool, small, stream, expandable in zip(
        *(seg[name].tolist() for name in columns), strict=True
    ):
        page = int(plan.lanes[plan.lane_of[pool, small, stream], START_PAGE])
        quantum = page if expandable else size
        used += size // quantum * (-(-quantum // step) * step) if size else 0
    g[DRIVER_USED] = used
    if opt[TRACK]:
        _load_statistics(f["stat"], packed, int(opt[MAX_SPLIT]))


def _load_statistics(stat: np.ndarray, packed: Packed, max_split: int) -> None:
    """Set the current and peak values that the start layout implies."""
    program = packed.program
    seg, blk = program.start.segments, program.start.blocks
    per_block = np.repeat(np.arange(len(seg["address"])), seg["n_blocks"])
    small = seg["is_small"][per_block] != 0
    fixed = seg["is_expandable"][per_block] == 0
    split = seg["n_blocks"][per_block] > 1
    allocated = blk["state"] == BlockState.ALLOCATED
    active = blk["state"] != BlockState.INACTIVE
    free_split = ~active & split & fixed
    owned = blk["alloc"] >= 0
    asked = np.zeros(len(owned), np.int64)
    asked[owned] = program.req_size[program.request[blk["alloc"][owned]]]
    by_block = {
        ALLOCATION: allocated.astype(np.int64),
        ALLOCATED_BYTES: blk["size"] * allocated,
        ACTIVE: active.astype(np.int64),
        ACTIVE_BYTES: blk["size"] * active,
        REQUESTED_BYTES: asked * active,
        INACTIVE_SPLIT: free_split.astype(np.int64),
        INACTIVE_SPLIT_BYTES: blk["size"] * free_split,
        OVERSIZE_ALLOCATIONS: (allocated & (blk["size"] >= max_split)).astype(np.int64),
    }
    seg_small, seg_fixed = seg["is_small"] != 0, seg["is_expandable"] == 0
    by_segment = {
        SEGMENTS: seg_fixed.astype(np.int64),
        RESERVED_BYTES: seg["size"],
        OVERSIZE_SEGMENTS: (seg_fixed & (seg["size"] >= max_split)).astype(np.int64),
    }
    for values, is_small in ((by_block, small), (by_segment, seg_small)):
        for k, amount in values.items():
            sums = (amount.sum(), amount[is_small].sum(), amount[~is_small].sum())
            for row, total in enumerate(sums):
                stat[stat_index(k, row, 0)] = stat[stat_index(k, row, 1)] = total

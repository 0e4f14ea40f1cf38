"""The plan of a configuration: lanes, classes and rank tables, shared by all of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..traces.program import Layout, Program
from ..traces.units import MiB
from .index import UNIT_BITS
from .memory import copied
from .packing import Packed
from .requests import Requests
from .state import (
    ASKED,
    BINS,
    CAPTURED,
    CEILING,
    CELL_BIN,
    CELL_BITS,
    CELL_LIMIT,
    CELL_ZEROS,
    CELLS,
    CLASS_WORDS,
    END_BIN,
    END_LANE,
    EXPANDS,
    FIRST_BIN,
    FIRST_LANE,
    FRONTIER,
    HUGE,
    IS_SMALL,
    LANE,
    LANE_WORDS,
    LEAST_REST,
    MAX_NON_SPLIT_ROUNDING,
    MAX_SPLIT,
    NEED,
    PAGE,
    PLAN,
    POOL,
    POOL_WORDS,
    SEGMENT,
    START_PAGE,
    STREAM,
    TABLE_UNITS,
    TOP_UNITS,
)

UNIT = 1 << UNIT_BITS
USUAL_PAGES = (20 * MiB, 2 * MiB)
LONG_TRACE = 200_000  # events from which a finer rank table pays for itself
PLANS_KEPT = 16  # per packed program
COARSE, FINE = 6, 10  # cells per octave = 2 ** these


@dataclass(frozen=True)
class Plan:
    """A built plan.

    Attributes:
        buffer: state.PLAN fields.
        later: the same after each change of conditions; lanes and bins are common to all.
        lanes: shape (L, LANE_WORDS) int64, the lane table.
        pools: shape (P, POOL_WORDS) int64, the initial pool table.
        n_bins: bins used, bin 0 (which stays empty) included.
        lane_of_bin: shape (n_bins,).
        lane_of: (pool, is_small, stream) -> lane.
        asked: shape (R + 1,); requested bytes by class.
    """

    buffer: np.ndarray
    later: tuple[np.ndarray, ...]
    lanes: np.ndarray
    pools: np.ndarray
    n_bins: int
    lane_of_bin: np.ndarray
    lane_of: dict[tuple[int, int, int], int]
    asked: np.ndarray


def _cell_of(units: np.ndarray, bits: int) -> np.ndarray:
    """Cell of each size, in units, in a rank table of 2 ** bits cells per octave."""
    e = np.maximum(np.frexp(units.astype(np.float64))[1] - 1 - bits, 0)
    return (e << bits) + (units >> e)


def _rank_table(units: np.ndarray, finest: int) -> tuple[int, int, np.ndarray]:
    """A table that ranks block sizes among request sizes.

    Args:
        units: shape (n,) ascending distinct request sizes in units.
        finest: largest number of bits worth its memory.

    Returns:
        bits; the size from which a block holds every request; and per cell up to that size's,
        how many requests its smallest size holds.
    """
    bits = COARSE
    cell = _cell_of(units, bits)
    while bits < finest and len(cell) and np.bincount(np.diff(cell), minlength=1)[0]:
        bits = min(bits + 2, finest)
        cell = _cell_of(units, bits)
    if not len(cell):
        return bits, 0, np.zeros(1, np.int64)
    e = np.maximum((cell >> bits) - 1, 0)
    is_lowest = units & ((np.int64(1) << e) - 1) == 0
    beyond = int(cell[-1]) + 1
    e_beyond = max((beyond >> bits) - 1, 0)
    counts = np.bincount(cell + ~is_lowest, minlength=beyond + 1)
    return bits, (beyond - (e_beyond << bits)) << e_beyond, np.cumsum(counts)


def _lane_keys(of_requests: np.ndarray, start: Layout | None) -> np.ndarray:
    """Distinct pool << 33 | large << 32 | stream of requests and start segments, sorted."""
    keys = np.unique(of_requests)
    if start is not None:
        t = start.segments
        keys = np.union1d(keys, _lane_key(t["pool"], t["is_small"] == 0, t["stream"]))
    return keys


def _lane_key(pool: np.ndarray, is_large: np.ndarray, stream: np.ndarray) -> np.ndarray:
    return (pool.astype(np.int64) << 33) | (is_large.astype(np.int64) << 32) | stream


def _find_start_pages(
    lanes: np.ndarray, lane_of: dict[tuple[int, int, int], int], start: Layout
) -> None:
    """Set START_PAGE where mapped runs of the start are not whole pages of the settings.

    A reservation keeps the page size it was created with, whatever large_segment_size_mb says now.
    """
    t = start.segments
    for k in np.flatnonzero(t["is_expandable"]):
        lane = lane_of[int(t["pool"][k]), int(t["is_small"][k]), int(t["stream"][k])]
        ends = [int(t["address"][k]) - int(t["reservation"][k])]
        ends.append(ends[0] + int(t["size"][k]))
        for page in (int(lanes[lane, START_PAGE]), *USUAL_PAGES):
            if all(x % page == 0 for x in ends):
                lanes[lane, START_PAGE] = page
                break


def _expands_pools(program: Program, requests: Requests) -> tuple[bool, bool]:
    """Whether new memory is expandable in (the default pools, private pools)."""
    expands = requests.expands
    if not expands.any():
        return False, False
    is_private = program.req_pool > 0
    return bool(expands[~is_private].any()), bool(expands[is_private].any())


def plan_of(packed: Packed, requests: Requests, start: Layout | None) -> Plan:
    """The plan of one configuration that does not change; arguments as for build_plan.

    Most settings leave sizes and pools alone: what follows from those is worked out once.
    """
    # A start layout's pages are searched for, those of the settings first.
    pages = None if start is None else (requests.small_page, requests.large_page)
    key = (pages, requests.need.tobytes(), requests.is_small.tobytes())
    plan: Plan | None = packed.plans.get(key)
    if plan is None:
        plan = build_plan(packed.program, [requests], start)
        if len(packed.plans) >= PLANS_KEPT:
            packed.plans.clear()
        packed.plans[key] = plan
        return plan
    buffer, lanes = copied(plan.buffer), plan.lanes.copy()
    fields = PLAN.views(buffer)
    n = len(requests.need) + 1
    classes = fields["classes"][: n * CLASS_WORDS].reshape(n, CLASS_WORDS)
    classes[1:, SEGMENT] = requests.segment
    classes[1:, LEAST_REST] = requests.least_rest
    classes[1:, CEILING] = ceiling_of(requests)
    lanes[classes[1:, LANE], CAPTURED] = requests.captured
    _set_growth(lanes, requests, _expands_pools(packed.program, requests))
    fields["lanes"][: lanes.size] = lanes.ravel()
    return Plan(
        buffer, (), lanes, plan.pools, plan.n_bins, plan.lane_of_bin, plan.lane_of, plan.asked
    )


def _set_growth(lanes: np.ndarray, requests: Requests, expands: tuple[bool, bool]) -> None:
    """Set what a lane's new memory is like.

    Args:
        lanes: the lane table; modified in place.
        requests: of which only the sizes of pages are looked at.
        expands: as _expands_pools answers.
    """
    small, private = lanes[:, IS_SMALL] != 0, lanes[:, POOL] > 1
    lanes[:, PAGE] = np.where(small, requests.small_page, requests.large_page)
    lanes[:, EXPANDS] = np.where(private, expands[1], expands[0])


def ceiling_of(requests: Requests) -> np.ndarray:
    """Size from which a block is too large for a request; shape (R,).

    Source: CUDACachingAllocator.cpp, get_free_block, the rules of max_split_size.
    """
    most = requests.options.get(MAX_SPLIT, HUGE)
    rounding = requests.options.get(MAX_NON_SPLIT_ROUNDING, HUGE)
    return np.where(
        requests.need < most, most, np.minimum(requests.need, HUGE - rounding) + rounding
    )


def build_plan(program: Program, parts: Sequence[Requests], start: Layout | None = None) -> Plan:
    """Build the plan of one configuration.

    Args:
        program: the program to be replayed.
        parts: its requests as the policy decided them, at first and after each change.
        start: the layout the replay starts from, if it keeps one.

    Raises:
        ValueError: pages of expandable memory change their size, which is not simulated.
    """
    requests = parts[0]
    expands = [_expands_pools(program, part) for part in parts]
    if any(p.large_page != requests.large_page for p in parts) and any(map(any, expands)):
        raise ValueError("large_segment_size_mb changes at run time, and segments expand")
    # Row k * n + r is request r after change k.
    need = np.concatenate([p.need for p in parts])
    of_requests = _lane_key(
        np.tile(program.req_pool, len(parts)),
        ~np.concatenate([p.is_small for p in parts]),
        np.tile(program.req_stream, len(parts)),
    )
    packed_keys = _lane_keys(of_requests, start)
    keys = np.stack([packed_keys >> 33, packed_keys >> 32 & 1, packed_keys & 0xFFFFFFFF], axis=1)
    n_lanes = len(keys)
    lane_of = {(p, 1 - large, st): k for k, (p, large, st) in enumerate(keys.tolist())}
    lane = np.searchsorted(packed_keys, of_requests)

    rows = np.zeros((len(need), CLASS_WORDS), np.int64)
    rows[:, NEED] = need
    rows[:, ASKED] = np.tile(program.req_size, len(parts))
    rows[:, SEGMENT] = np.concatenate([p.segment for p in parts])
    rows[:, LEAST_REST] = np.concatenate([p.least_rest for p in parts])
    rows[:, CEILING] = np.concatenate([ceiling_of(p) for p in parts])
    rows[:, LANE] = lane

    lanes = np.zeros((n_lanes, LANE_WORDS), np.int64)
    finest = FINE if program.n_ops > LONG_TRACE and n_lanes <= 8 else COARSE
    limits: list[np.ndarray] = [np.zeros(1, np.int64)]
    bins_of_lane: list[int] = []
    cells: list[np.ndarray] = []
    n_cells = 0
    n_bins = 1
    for k in range(n_lanes):
        of_lane = lane == k
        sizes = np.unique(need[of_lane])
        bits, top_units, counts = _rank_table(-(-sizes // UNIT), finest)
        row = lanes[k]
        row[POOL] = 2 * keys[k, 0] + keys[k, 1]
        row[STREAM] = keys[k, 2]
        row[IS_SMALL] = not keys[k, 1]
        row[BINS] = n_bins
        row[FRONTIER] = n_bins + len(sizes) + 1
        row[CELLS] = n_cells
        row[CELL_BITS], row[CELL_ZEROS] = bits, 63 - bits
        row[TOP_UNITS] = min(top_units, TABLE_UNITS)
        rows[of_lane, FIRST_BIN] = n_bins + 1 + np.searchsorted(sizes, need[of_lane])
        rows[of_lane, END_BIN] = n_bins + len(sizes) + 1
        limits += [sizes, np.array([HUGE, 0])]
        units = np.append(-(-sizes // UNIT), CELL_LIMIT)
        cells.append((n_bins + counts + 1 << CELL_BIN) - np.minimum(units[counts], CELL_LIMIT))
        n_cells += len(counts)
        bins_of_lane.append(len(sizes) + 2)
        n_bins += bins_of_lane[-1]
    lane_of_bin = np.append(0, np.repeat(np.arange(n_lanes), bins_of_lane))

    lanes[lane, CAPTURED] = np.concatenate([p.captured for p in parts])
    _set_growth(lanes, requests, expands[0])
    lanes[:, START_PAGE] = lanes[:, PAGE]
    if start is not None:
        _find_start_pages(lanes, lane_of, start)

    pools = np.zeros((2 * len(program.pools), POOL_WORDS), np.int64)
    for p in range(len(pools)):
        inside = np.flatnonzero(lanes[:, POOL] == p) if n_lanes else np.zeros(0, int)
        if len(inside):
            pools[p, FIRST_LANE], pools[p, END_LANE] = inside[0], inside[-1] + 1

    n = len(program.req_size)
    calls = len(program.driver_op)
    buffer = PLAN.new(
        classes=(n + 1) * CLASS_WORDS,
        lanes=max(1, lanes.size),
        bins=n_bins,
        cells=max(1, n_cells),
        script=max(1, 4 * calls),
    )
    fields = PLAN.views(buffer)
    fields["limits"][:n_bins] = np.concatenate(limits)
    fields["lane_of_bin"][:n_bins] = lane_of_bin
    if n_cells:
        fields["cells"][:n_cells] = np.concatenate(cells)
    if calls:
        script = np.stack(
            [
                program.driver_op.astype(np.int64),
                program.driver_action.astype(np.int64),
                program.driver_addr.astype(np.int64),
                program.driver_size.astype(np.int64),
            ],
            axis=1,
        )
        fields["script"][: 4 * calls] = script.ravel()
    buffers = [buffer, *(copied(buffer) for _ in parts[1:])]
    for k, (part, in_pools) in enumerate(zip(buffers, expands, strict=True)):
        fields = PLAN.views(part)
        classes = fields["classes"][: (n + 1) * CLASS_WORDS].reshape(n + 1, CLASS_WORDS)
        classes[1:] = rows[k * n : (k + 1) * n]  # row 0 is no request's
        _set_growth(lanes, requests, in_pools)
        fields["lanes"][: lanes.size] = lanes.ravel()
    asked = np.append(0, program.req_size)
    return Plan(buffer, tuple(buffers[1:]), lanes, pools, n_bins, lane_of_bin, lane_of, asked)

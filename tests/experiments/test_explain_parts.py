"""The parts of an explanation beside slow, plain ways to come to the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from tightfit.experiments.explain.maps import drawn
from tightfit.experiments.explain.pins import holders_of, pins_of
from tightfit.experiments.explain.standing import (
    Block,
    Lane,
    Segment,
    segments_of,
    shares_of,
    units_of,
)
from tightfit.experiments.explain.ways import cheapest_hole, cheapest_release, size_of
from tightfit.experiments.explain.what_if import (
    flushed_before,
    freed_before,
    in_own_pool,
    until,
)
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.event import BlockState
from tightfit.traces.program import Op, Program
from tightfit.traces.units import MiB

from ..strategies import programs

pytestmark = pytest.mark.interpreted

LANES = (Lane(0, 0, False), Lane(1, 0, False), Lane(0, 0, True), Lane(0, 1, False))
FREE, USED, PENDING = BlockState.INACTIVE, BlockState.ALLOCATED, BlockState.PENDING
NOT_FREED = np.zeros(1000, bool)


@st.composite
def memory(draw: st.DrawFn, most: int = 5, unit: int = MiB) -> list[Segment]:
    """Up to `most` segments; no two free blocks are neighbours, as in the allocator."""
    out: list[Segment] = []
    alloc = 0
    for k in range(draw(st.integers(1, most))):
        at = start = (1 + k) << 40
        blocks: list[Block] = []
        for size, state in draw(
            st.lists(
                st.tuples(st.integers(1, 5), st.sampled_from([FREE, FREE, USED, USED, PENDING])),
                min_size=1, max_size=6,
            )
        ):  # fmt: skip
            if state == FREE and blocks and blocks[-1].is_free:
                state = USED
            is_free = state == FREE
            asked = 0 if is_free else size * unit - draw(st.sampled_from([0, 12]))
            blocks.append(Block(k, at, size * unit, asked, state, -1 if is_free else alloc))
            alloc += not is_free
            at += size * unit
        lane = draw(st.sampled_from(LANES))
        page = draw(st.sampled_from([at - start, at - start, 2 * unit]))
        out.append(Segment(lane, start, at - start, page, tuple(blocks)))
    return out


def place(alloc: int) -> str:
    return f"train.py:{alloc % 3} f"


@given(memory(), st.sampled_from(LANES), st.integers(1, 20))
def test_no_hole_is_cheaper(segments: list[Segment], lane: Lane, size: int) -> None:
    costs = [
        sum(b.size for b in part if not b.is_free)
        for s in segments
        if s.lane == lane
        for first, last in combinations(range(len(s.blocks) + 1), 2)
        for part in [s.blocks[first:last]]
        if sum(b.size for b in part) >= size * MiB and all(b.state != PENDING for b in part)
    ]
    found = cheapest_hole(segments, lane, size * MiB)
    assert size_of(found) == min(costs, default=0)
    if found:
        assert all(b.state == USED for b in found) and len({b.segment for b in found}) == 1
        of = segments[found[0].segment]
        freed = {b.address for b in found}
        assert _longest_hole(of, freed) >= size * MiB


def _longest_hole(segment: Segment, freed: set[int]) -> int:
    best = run = 0
    for b in segment.blocks:
        run = run + b.size if b.is_free or b.address in freed else 0
        best = max(best, run)
    return best


@given(memory(most=6, unit=2 * MiB), st.integers(1, 40))
def test_no_release_of_segments_is_cheaper(segments: list[Segment], size: int) -> None:
    whole = [
        s for s in segments
        if s.lane.pool == 0 and s.page == s.size and all(b.state != PENDING for b in s.blocks)
    ]  # fmt: skip
    costs = [
        sum(b.size for s in chosen for b in s.blocks if not b.is_free)
        for n in range(len(whole) + 1)
        for chosen in combinations(whole, n)
        if sum(s.size for s in chosen) >= size * 2 * MiB
    ]
    only = [s for s in segments if s.page == s.size]
    assert size_of(cheapest_release(only, size * 2 * MiB)) == min(costs, default=0)


@given(memory(most=6, unit=2 * MiB), st.integers(1, 40))
def test_what_is_to_be_freed_gives_enough_back(segments: list[Segment], size: int) -> None:
    found = cheapest_release(segments, size * 2 * MiB)
    freed = {b.address for b in found}
    assert len(freed) == len(found), "a block that two pages share is named once"
    if found:
        assert all(b.state == USED for b in found)
        back = sum(
            u.size for s in segments if s.lane.pool == 0 for u in units_of([s])
            if all(b.address in freed for b in u.users)
        )  # fmt: skip
        assert back >= size * 2 * MiB


@given(memory())
def test_units_cover_the_segments_and_know_who_is_in_them(segments: list[Segment]) -> None:
    for segment in segments:
        units = units_of([segment])
        assert sum(u.size for u in units) == segment.size
        assert sum(u.free for u in units) == segment.free
        for k, unit in enumerate(units):
            start = segment.address + k * segment.page
            end = start + unit.size
            inside = [
                b for b in segment.blocks
                if not b.is_free and b.address < end and b.address + b.size > start
            ]  # fmt: skip
            assert unit.users == inside


@given(memory(), st.sampled_from([*LANES, None]), st.sampled_from([None, 0, 50 * MiB]))
def test_shares_add_up(segments: list[Segment], lane: Lane | None, rest: int | None) -> None:
    reserved = sum(s.size for s in segments)
    room = None if rest is None else reserved + rest
    shares = shares_of(segments, lane, room)
    pending = [b for s in segments for b in s.blocks if b.state == PENDING]
    assert sum(s.bytes for s in shares) == (reserved if room is None else room)
    told = [s for s in shares if s.what.startswith("freed")]
    assert [s.bytes for s in told] == ([sum(b.size for b in pending)] if pending else [])
    free = [s for s in shares if s.what.startswith("free") and s not in told]
    assert sum(s.pieces or 0 for s in free) == sum(b.is_free for s in segments for b in s.blocks)
    idle = [u.size for s in segments for u in units_of([s]) if not u.users]
    assert sum(s.whole or 0 for s in free) == sum(idle)
    if lane is not None:
        mine = [b.size for s in segments if s.lane == lane for b in s.blocks if b.is_free]
        here = [s for s in free if s.what == "free, where the request looks"]
        assert [(s.bytes, s.largest) for s in here] == ([(sum(mine), max(mine))] if mine else [])


@given(memory())
def test_who_pins_what_is_counted_unit_by_unit(segments: list[Segment]) -> None:
    pins = {p.where: p for p in pins_of(units_of(segments), place, NOT_FREED)}
    for where in {place(k) for k in range(3)}:
        alone = shared = 0
        blocks = set()
        for unit in units_of(segments):
            users = {place(b.alloc) for b in unit.users}
            if where in users and unit.free:
                alone += unit.free if users == {where} else 0
                shared += unit.free if users != {where} else 0
                blocks |= {b.address for b in unit.users if place(b.alloc) == where}
        if not blocks:
            assert where not in pins
            continue
        pin = pins[where]
        assert (pin.alone_bytes, pin.shared_bytes, pin.blocks) == (alone, shared, len(blocks))
        assert pin.never_freed == pin.blocks
    order = [(p.alone_bytes, p.shared_bytes) for p in pins_of(units_of(segments), place, None)]
    assert order == sorted(order, reverse=True)


@given(memory())
def test_holders_hold_all_that_is_in_use(segments: list[Segment]) -> None:
    used = [b for s in segments for b in s.blocks if not b.is_free]
    holders = holders_of(segments, place, None)
    assert sum(h.bytes for h in holders) == sum(b.asked for b in used)
    assert sum(h.blocks for h in holders) == len(used)
    assert all(h.never_freed is None for h in holders)


@given(memory(most=1, unit=1), st.integers(1, 30))
def test_a_map_says_of_each_part_whether_it_is_in_use(segments: list[Segment], width: int) -> None:
    (segment,) = segments
    used = [not b.is_free for b in segment.blocks for _ in range(b.size * width)]
    parts = [used[k : k + segment.size] for k in range(0, len(used), segment.size)]
    drawing = "".join("#" if all(p) else "+" if any(p) else "." for p in parts)
    assert drawn(segment, width) == drawing


def live_sets(program: Program) -> list[set[int]]:
    """Allocations in use before each op and at the end; an alloc given or freed twice fails."""
    start = program.start.blocks
    live = set(start["alloc"][start["state"] == USED].tolist())
    freed: set[int] = set()
    out = [set(live)]
    for op, arg in zip(program.op.tolist(), program.arg.tolist(), strict=True):
        if op == Op.MALLOC:
            assert arg not in live and arg not in freed
            live.add(arg)
        elif op in (Op.FREE, Op.FREE_LATER):
            assert arg in live
            live.remove(arg)
            freed.add(arg)
        out.append(set(live))
    return out


def replayed(program: Program, conf: Settings = Settings()) -> dict[str, int]:  # noqa: B008
    return replay_reference(program, conf, release("2.15")).stats


@given(programs(), st.data())
@effort(max_examples=50, deadline=None)
def test_freed_earlier_they_are_in_use_until_then_and_never_again(
    program: Program, data: st.DataObject
) -> None:
    before = live_sets(program)
    op = data.draw(st.integers(0, program.n_ops))
    allocs = sorted(data.draw(st.sets(st.sampled_from(sorted(before[op])))) if before[op] else [])
    changed = freed_before(program, op, allocs)
    after = live_sets(changed)
    assert after[: op + 1] == before[: op + 1]
    kept = [k for k in range(program.n_ops) if not _frees(program, k, allocs) or k < op]
    rest = [before[k + 1] - set(allocs) for k in kept if k >= op]
    assert after[op + len(allocs) + 1 :] == rest
    replayed(changed)


def _frees(program: Program, op: int, allocs: Sequence[int]) -> bool:
    ends = (Op.FREE, Op.FREE_LATER, Op.COMPLETE)
    return program.op[op] in ends and program.arg[op] in allocs


@given(programs(), st.data())
@effort(max_examples=50, deadline=None)
def test_a_pool_of_their_own_changes_where_they_come_from_and_nothing_else(
    program: Program, data: st.DataObject
) -> None:
    n = len(program.request)
    allocs = np.array(sorted(data.draw(st.sets(st.integers(0, n - 1)))) if n else [], np.int64)
    tries = np.flatnonzero(program.op == Op.TRY)
    changed = in_own_pool(program, allocs, tries)
    own = len(program.pools)
    for k in range(n):
        old, new = program.request[k], changed.request[k]
        assert changed.req_size[new] == program.req_size[old]
        assert changed.req_stream[new] == program.req_stream[old]
        moves = k in allocs and k >= program.n_start and program.req_pool[old] == 0
        assert changed.req_pool[new] == (own if moves else program.req_pool[old])
    for op in tries:
        old, new = program.arg[op], changed.arg[op]
        assert changed.req_size[new] == program.req_size[old]
        assert changed.req_pool[new] == (program.req_pool[old] or own)
    assert np.array_equal(changed.op, program.op)
    assert live_sets(changed) == live_sets(program)
    replayed(changed)


@given(programs(), st.data())
@effort(max_examples=30, deadline=None)
def test_the_first_ops_lead_where_the_whole_program_was_then(
    program: Program, data: st.DataObject
) -> None:
    n = data.draw(st.integers(0, program.n_ops))
    cut = until(program, n)
    assert live_sets(cut) == live_sets(program)[: n + 1]
    rules, conf = release("2.15"), Settings(expandable_segments=data.draw(st.booleans()))
    layout = replay_reference(cut, conf, rules).layout
    assert layout is not None
    segments = segments_of(layout, conf.large_segment_size)
    used = [b for s in segments for b in s.blocks if not b.is_free]
    assert {b.alloc for b in used if b.state == USED} == live_sets(program)[n]
    assert sum(s.size for s in segments) == layout.reserved_bytes
    for segment in segments:
        ends = [segment.address, *(b.address + b.size for b in segment.blocks)]
        assert [b.address for b in segment.blocks] == ends[:-1]
    flushed = replay_reference(until(program, n, flushed=True), conf, rules).layout
    assert flushed is not None
    idle = [
        u for s in segments_of(flushed, conf.large_segment_size) if s.lane.pool == 0
        for u in units_of([s]) if not u.users
    ]  # fmt: skip
    assert not idle or Op.CAPTURE in program.op[:n], "what can be given back was"


@given(programs())
@effort(max_examples=20, deadline=None)
def test_a_flush_is_one_more_op(program: Program) -> None:
    places = [0, program.n_ops // 2, program.n_ops]
    changed = flushed_before(program, places)
    assert changed.n_ops == program.n_ops + 3
    emptied = [k for k in range(changed.n_ops) if changed.entry[k] == -1]
    assert {p + k for k, p in enumerate(places)} <= set(emptied)
    assert live_sets(changed)[-1] == live_sets(program)[-1]
    replayed(changed)

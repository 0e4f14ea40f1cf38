"""The reference replay: the slow, plain referee of the compiled kernel.

It answers the same question as the kernel, from the same specification, and shares nothing with it
but the types. Use it to check answers, not to get them: an event takes it ten microseconds when few
blocks are free, and more with every free block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..traces.errors import TraceError
from ..traces.event import BlockState
from ..traces.program import Op, Program
from ..traces.units import MiB
from .conditions import Conditions
from .device import Device
from .reference_allocator import (
    SMALL_SEGMENT,
    Allocator,
    Rejected,
    round_size,
)
from .reference_driver import Driver, RecordedDriver
from .reference_heap import UNMAPPED, Block, Segment, layout_of, rows_of
from .release import Release
from .run import RUN_EVENT, Run
from .settings import OFF, Settings

# Pages a recorded expandable segment may have been mapped in, if not in those of the settings.
USUAL_PAGES = (20 * MiB, 2 * MiB)


def replay_reference(
    program: Program,
    settings: Settings,
    rules: Release,
    device: Device | None = None,
    *,
    limit_fraction: float | None = None,
    later: Sequence[Conditions] = (),
    stop_at_oom: bool = True,
    keep_start: bool = True,
    recorded_driver: bool = False,
) -> Run:
    """Replay a program through PyTorch's native allocator, slowly and completely.

    Args:
        program: what to replay.
        settings: the allocator's settings, in force from the first op on.
        rules: the PyTorch release whose behaviour to follow.
        device: the device; by default one that never runs out.
        limit_fraction: as in Conditions.
        later: what holds after each CHANGE of the program.
        stop_at_oom: end at the first request that is not served, else ignore that allocation's
            later frees and go on. A request is not served when memory ran out or when
            throw_on_cudamalloc_oom rejected it.
        keep_start: begin with the layout the recording began with; else place its allocations
            anew before the first op, in the order of their numbers (events with op -1).
        recorded_driver: let the driver grant what the recorded calls granted, at the recorded
            addresses, instead of what the device's capacity allows.

    Returns:
        The run with all events, all statistics and the final layout. Statistics accumulate from
        the start of the program; a start layout counts in `current` and `peak` only. An
        allocation of the start that could not be placed anew ends the replay with n_ops 0.

    Raises:
        TraceError: the start layout contradicts itself.
    """
    device = device or Device()
    driver = RecordedDriver(device, program) if recorded_driver else Driver(device)
    allocator = Allocator(Conditions(settings, device, limit_fraction), rules, driver)
    replay = _Replay(program, allocator, stop_at_oom, list(later))
    served = replay.load_start() if keep_start else replay.place_start()
    n_ops = 0
    while served and n_ops < program.n_ops:
        served = replay.step(n_ops)
        n_ops += 1
    max_split = settings.max_split_size  # noted once, when the allocator is made
    return Run(
        n_ops=n_ops,
        first_oom_op=replay.first_oom_op,
        first_oom_bytes=replay.first_oom_bytes,
        stats=allocator.stats.flat() | {"max_split_size": -1 if max_split >= OFF else max_split},
        addr=np.array(replay.addr, np.uint64),
        events=np.array(allocator.events, RUN_EVENT),
        layout=layout_of(allocator.segments),
    )


class _Replay:
    """A program on its way through an allocator.

    Attributes:
        blocks: allocation number -> its block, while allocated or pending.
        addr: address of each allocation; 0 = never served.
    """

    def __init__(
        self,
        program: Program,
        allocator: Allocator,
        stop_at_oom: bool,
        later: list[Conditions],
    ) -> None:
        self.program = program
        self.allocator = allocator
        self.stop_at_oom = stop_at_oom
        self.later = later
        self.blocks: dict[int, Block] = {}
        self.addr = [0] * len(program.request)
        self.first_oom_op = -1
        self.first_oom_bytes = 0

    def step(self, i: int) -> bool:
        """Carry out op number i; return False if the replay is to end with it."""
        op, arg = Op(int(self.program.op[i])), int(self.program.arg[i])
        allocator = self.allocator
        allocator.op = i
        allocator.driver.begin(i, may_fail=op == Op.TRY)
        if op == Op.MALLOC:
            return self.malloc(int(self.program.request[arg]), arg) is not None or (
                not self.stop_at_oom
            )
        if op == Op.TRY:
            block = self.malloc(arg, -1)
            if block is not None:
                allocator.free(block)
            return block is not None or not self.stop_at_oom
        if op == Op.EMPTY_CACHE:
            allocator.release_cached_blocks(arg if allocator.rules.empties_single_pools else 0)
        elif op == Op.RELEASE_POOL:
            allocator.freeable.add(arg)
        elif op == Op.CAPTURE:
            allocator.capturing = bool(arg)
        elif op == Op.CHANGE:
            allocator.meet(self.later[arg - 1])
        elif arg in self.blocks:
            self.free(op, arg)
        return True

    def malloc(self, request: int, alloc: int) -> Block | None:
        """Serve a request for an allocation, or note that it was not served and return None."""
        size = int(self.program.req_size[request])
        try:
            block = self.allocator.malloc(
                size,
                int(self.program.req_stream[request]),
                pool := int(self.program.req_pool[request]),
                alloc,
                captured=self.allocator.rules.is_captured(self.program.pools[pool]),
            )
        except Rejected:
            block = None
        if block is None and self.first_oom_bytes == 0:
            self.first_oom_op = self.allocator.op
            self.first_oom_bytes = round_size(size, self.allocator.settings)
        if block is not None and alloc >= 0:
            self.blocks[alloc] = block
            self.addr[alloc] = block.addr
        return block

    def free(self, op: Op, alloc: int) -> None:
        """Carry out FREE, FREE_LATER or COMPLETE of an allocation that was served."""
        block = self.blocks[alloc]
        if op == Op.COMPLETE:
            if block.alloc == alloc:  # else a synchronize completed it, and it may serve another
                self.allocator.complete(block)
            del self.blocks[alloc]
            return
        self.allocator.free(block, later=op == Op.FREE_LATER)
        if op == Op.FREE:
            del self.blocks[alloc]

    def place_start(self) -> bool:
        """Place the allocations of the start anew; False if the replay ends there."""
        rows = [b for b in rows_of(self.program.start.blocks) if b["alloc"] >= 0]
        for row in sorted(rows, key=lambda b: b["alloc"]):
            alloc = row["alloc"]
            block = self.malloc(int(self.program.request[alloc]), alloc)
            if block is None and self.stop_at_oom:
                return False
            if block is not None and row["state"] == BlockState.PENDING:
                self.allocator.free(block, later=True)
        return True

    def load_start(self) -> bool:
        """Begin with the start's segments and blocks; always True.

        Raises:
            TraceError: an expandable run does not lie on page boundaries, or overlaps another.
        """
        allocator, driver = self.allocator, self.allocator.driver
        segments, blocks = rows_of(self.program.start.segments), rows_of(self.program.start.blocks)
        reservations: dict[tuple[int, int, int, int], list[tuple[dict[str, int], Segment]]] = {}
        for row in segments:
            pool = allocator.pool(row["pool"], bool(row["is_small"]))
            key = (row["reservation"], row["stream"], row["pool"], row["is_small"])
            if not row["is_expandable"]:
                segment = Segment(row["address"], row["stream"], 0, allocator.tick())
                driver.used += driver.physical(row["size"])
            elif key in reservations:
                segment = reservations[key][0][1]
            else:
                segment = Segment(row["reservation"], row["stream"], -1, allocator.tick())
            if row["is_expandable"]:
                reservations.setdefault(key, []).append((row, segment))
            if segment not in allocator.segments:
                allocator.segments.append(segment)
            for b in blocks[row["first_block"] : row["first_block"] + row["n_blocks"]]:
                block = Block(b["address"], b["size"], pool, segment, segment.age, b["state"])
                block.alloc = b["alloc"]
                block.requested = b["requested_size"]
                if block.requested < 0:
                    used = block.alloc >= 0
                    request = self.program.request[block.alloc] if used else -1
                    block.requested = int(self.program.req_size[request]) if used else 0
                segment.blocks.append(block)
            driver.keep_clear(row["address"] + row["size"])
        for runs in reservations.values():
            self._load_reservation(runs)
        for segment in allocator.segments:
            for block in segment.blocks:
                self._load_block(block)
        self._count_start(segments)
        return True

    def _load_reservation(self, runs: list[tuple[dict[str, int], Segment]]) -> None:
        """Find an expandable segment's page and fill the gaps between its mapped runs."""
        allocator, driver, segment = self.allocator, self.allocator.driver, runs[0][1]
        base, is_small = segment.base, bool(runs[0][0]["is_small"])
        usual = SMALL_SEGMENT if is_small else allocator.settings.large_segment_size
        spans = sorted((row["address"], row["address"] + row["size"]) for row, _ in runs)
        for page in (usual, *USUAL_PAGES):
            if all((x - base) % page == 0 for span in spans for x in span):
                break
        else:
            raise TraceError(
                f"start layout: the expandable segment at {base:#x} holds mapped runs that are "
                f"not whole pages, expected multiples of {usual} or {USUAL_PAGES[-1]} bytes"
            )
        segment.page = page
        size = allocator.reservation_size(page)
        end = max(base + size, spans[-1][1])
        driver.keep_clear(end)
        pool = segment.blocks[0].pool
        at = base
        for start, stop in [*spans, (end, end)]:
            if start < at:
                raise TraceError(
                    f"start layout: expandable memory at {start:#x} lies before {at:#x}, where "
                    f"the run before it ends; expected runs that do not overlap"
                )
            if start > at:
                segment.blocks.append(Block(at, start - at, pool, segment, segment.age, UNMAPPED))
            at = stop
            for _ in range((stop - start) // page):
                driver.used += driver.physical(page)
        segment.blocks.sort(key=lambda b: b.addr)

    def _load_block(self, block: Block) -> None:
        """Enter a block of the start in the set it belongs to."""
        if block.state == BlockState.INACTIVE:
            block.pool.insert(block)
        elif block.state == UNMAPPED:
            block.pool.unmapped.append(block)
        else:
            self.blocks[block.alloc] = block
            self.addr[block.alloc] = block.addr
            if block.state == BlockState.PENDING:
                self.allocator.pending.append(block)

    def _count_start(self, segments: list[dict[str, int]]) -> None:
        """Let the counters say what the start holds; peaks and accumulators begin there."""
        allocator = self.allocator
        stats = allocator.stats
        for row in segments:
            pool = allocator.pool(row["pool"], bool(row["is_small"]))
            stats.change("reserved_bytes", pool, row["size"])
            allocator.total_allocated += row["size"]
            if not row["is_expandable"]:
                stats.change("segment", pool, 1)
                if row["size"] >= allocator.settings.max_split_size:
                    stats.change_oversize("oversize_segments", 1)
        for segment in allocator.segments:
            for block in segment.blocks:
                if block.state == BlockState.ALLOCATED:
                    allocator.count_allocated(block, 1)
                if block.state in (BlockState.ALLOCATED, BlockState.PENDING):
                    allocator.count_active(block, 1)
                elif block.state == BlockState.INACTIVE and block.is_split and not block.expandable:
                    stats.change("inactive_split", block.pool, 1)
                    stats.change("inactive_split_bytes", block.pool, block.size)
        stats.forget_history()

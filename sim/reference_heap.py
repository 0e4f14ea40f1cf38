"""What the reference replay's allocator is made of: blocks, segments, pools and counters.

Everything is a plain Python list searched from end to end: this is the referee, not the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..traces.event import BlockState, empty_columns
from ..traces.program import LAYOUT_BLOCK_COLUMNS, LAYOUT_SEGMENT_COLUMNS, Layout

UNMAPPED = -1  # state of address space without memory behind it; else a traces.event.BlockState


@dataclass(eq=False)
class Block:
    """A contiguous address range inside one segment.

    Source: c10/cuda/CUDACachingAllocator.cpp, struct Block.

    Attributes:
        addr, size: its range, in bytes.
        pool: the pool it belongs to for ever.
        segment: the segment (or expandable reservation) it is a piece of.
        age: creation counter of the block (2.12) or of its segment (2.13), for equal sizes.
        state: BlockState, or UNMAPPED.
        requested: bytes asked for by the last request this object served; 0 if none did.
        alloc: allocation number while allocated or pending; -1 otherwise.
        gc_base: reading of its pool's clock when it last entered the free set.
    """

    addr: int
    size: int
    pool: BlockPool
    segment: Segment
    age: int
    state: int = BlockState.INACTIVE
    requested: int = 0
    alloc: int = -1
    gc_base: int = 0

    @property
    def stream(self) -> int:
        return self.segment.stream

    @property
    def is_split(self) -> bool:
        """Whether the block has neighbours (Source: Block::is_split)."""
        return len(self.segment.blocks) > 1

    @property
    def expandable(self) -> bool:
        return self.segment.page > 0

    def neighbour(self, step: int) -> Block | None:
        """Return the block before (step -1) or after (step 1) this one in its segment."""
        i = self.segment.blocks.index(self) + step
        return self.segment.blocks[i] if 0 <= i < len(self.segment.blocks) else None


@dataclass(eq=False)
class Segment:
    """Memory of one cudaMalloc, or one expandable reservation; its blocks tile it.

    Source: ExpandableSegment for page > 0; otherwise a chain of Block::prev and ::next.

    Attributes:
        base: first address. An expandable segment's memory starts at any page above it.
        stream: index of the stream it serves.
        page: bytes mapped at a time; 0 = not expandable.
        age: creation counter.
        blocks: in address order.
    """

    base: int
    stream: int
    page: int
    age: int
    blocks: list[Block] = field(default_factory=list)


@dataclass(eq=False)
class BlockPool:
    """The small or the large half of the default pools or of one private pool.

    Source: struct BlockPool.

    Attributes:
        number: index into Program.pools; 0 = default.
        is_small: serves rounded sizes up to 1 MiB.
        free, unmapped: blocks in no particular order; whoever needs one sorts.
        call_count: clock of the garbage collection.
    """

    number: int
    is_small: bool
    free: list[Block] = field(default_factory=list)
    unmapped: list[Block] = field(default_factory=list)
    call_count: int = 0

    def insert(self, block: Block) -> None:
        """Put a block into the free set (Source: BlockPool::insert_into_blocks)."""
        block.gc_base = self.call_count
        self.free.append(block)


@dataclass
class Stat:
    """One counter with its history. Source: c10/core/CachingDeviceAllocator.h, struct Stat."""

    current: int = 0
    peak: int = 0
    allocated: int = 0
    freed: int = 0

    def change(self, amount: int) -> None:
        """Add a positive amount (Stat::increase) or take a negative one away (::decrease)."""
        self.current += amount
        if amount > 0:
            self.peak = max(self.peak, self.current)
            self.allocated += amount
        else:
            self.freed -= amount


POOL_STATS = (
    "allocation",
    "allocated_bytes",
    "active",
    "active_bytes",
    "requested_bytes",
    "segment",
    "reserved_bytes",
    "inactive_split",
    "inactive_split_bytes",
)
OVERSIZE_STATS = ("oversize_allocations", "oversize_segments")
COUNTS = (
    "num_alloc_retries",
    "num_ooms",
    "num_sync_all_streams",
    "num_device_alloc",
    "num_device_free",
    "num_oom_rejections",
)


class Stats:
    """All counters of `torch.cuda.memory_stats` of one device.

    Source: c10/core/CachingDeviceAllocator.h, struct DeviceStats.
    """

    def __init__(self) -> None:
        rows = [f"{s}.{row}" for s in POOL_STATS for row in ("all", "small_pool", "large_pool")]
        self.stats = {key: Stat() for key in [*rows, *OVERSIZE_STATS]}
        self.counts = dict.fromkeys(COUNTS, 0)

    def change(self, name: str, pool: BlockPool, amount: int) -> None:
        """Change an array counter by an amount, for all memory and for the pool's kind."""
        self.stats[f"{name}.all"].change(amount)
        self.stats[f"{name}.{'small' if pool.is_small else 'large'}_pool"].change(amount)

    def change_oversize(self, name: str, amount: int) -> None:
        """Change one of the two counters that have a single row."""
        self.stats[name].change(amount)

    def forget_history(self) -> None:
        """Let peaks and accumulators start at the present state."""
        for stat in self.stats.values():
            stat.peak, stat.allocated, stat.freed = stat.current, 0, 0

    def flat(self) -> dict[str, int]:
        """Return the flat keys of `memory_stats`, without max_split_size."""
        out = {f"{k}.{part}": v for k, s in self.stats.items() for part, v in vars(s).items()}
        return out | self.counts


def layout_of(segments: list[Segment]) -> Layout:
    """Show segments as a snapshot does: expandable memory as its maximal mapped runs.

    Source: DeviceCachingAllocator::snapshot, without its sorting by address.
    """
    runs: list[list[Block]] = []
    for segment in segments:
        run: list[Block] = []
        for block in segment.blocks:
            if block.state == UNMAPPED:
                run = []
                continue
            if not run:
                runs.append(run)
            run.append(block)
    layout = Layout(
        empty_columns(LAYOUT_SEGMENT_COLUMNS, len(runs)),
        empty_columns(LAYOUT_BLOCK_COLUMNS, sum(map(len, runs))),
    )
    row = 0
    for i, run in enumerate(runs):
        first = run[0]
        columns = {
            "address": first.addr,
            "size": sum(b.size for b in run),
            "stream": first.stream,
            "pool": first.pool.number,
            "is_small": first.pool.is_small,
            "is_expandable": first.expandable,
            "reservation": first.segment.base if first.expandable else 0,
            "first_block": row,
            "n_blocks": len(run),
        }
        for name, value in columns.items():
            layout.segments[name][i] = value
        for b in run:
            for name, value in zip(
                ("address", "size", "requested_size", "state", "alloc"),
                (b.addr, b.size, b.requested, b.state, b.alloc),
                strict=True,
            ):
                layout.blocks[name][row] = value
            row += 1
    return layout


def rows_of(columns: dict[str, np.ndarray]) -> list[dict[str, int]]:
    """Return the rows of a table of columns as dictionaries of plain integers."""
    names = list(columns)
    return [
        dict(zip(names, row, strict=True))
        for row in zip(*(columns[n].tolist() for n in names), strict=True)
    ]

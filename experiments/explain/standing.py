"""All memory of an allocator at one moment: what is in use, what is free, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...traces.event import BlockState
from ...traces.program import Layout
from ...traces.units import MiB

SMALL_PAGE = 2 * MiB  # what expandable memory of the small pool is mapped in


@dataclass(frozen=True)
class Lane:
    """Blocks that are searched together: one stream's, of one size class, in one pool.

    Attributes:
        stream: index into the program's streams.
        pool: index into the program's pools; 0 = the default pools.
        is_small: whether they are of the small pool (requests of up to 1 MiB).
    """

    stream: int
    pool: int
    is_small: bool


@dataclass(frozen=True)
class Block:
    """A block.

    Attributes:
        segment: index of its segment; of expandable memory, of its mapped run.
        address, size: where it lies, bytes.
        asked: what it was asked for, bytes; 0 if it is free.
        state: whether it is free.
        alloc: number of the allocation that owns it; -1 if it is free.
    """

    segment: int
    address: int
    size: int
    asked: int
    state: BlockState
    alloc: int

    @property
    def is_free(self) -> bool:
        return self.state == BlockState.INACTIVE


@dataclass
class Unit:
    """The least that can be given back to the driver: a segment, or a page of expandable memory.

    Attributes:
        lane: whose memory it is.
        size: bytes.
        free: bytes of it that no block in use covers.
        users: blocks in use that reach into it.
    """

    lane: Lane
    size: int
    free: int = 0
    users: list[Block] = field(default_factory=list)

    @property
    def is_pinned(self) -> bool:
        """It has free memory, and blocks in use keep it from being given back."""
        return self.free > 0 and bool(self.users)


@dataclass(frozen=True)
class Segment:
    """A segment, or a mapped run of expandable memory.

    Attributes:
        lane: whose memory it is.
        address, size: where it lies, bytes.
        page: what it can be given back in, bytes; its size, if only as a whole.
        blocks: all of it, in address order.
    """

    lane: Lane
    address: int
    size: int
    page: int
    blocks: tuple[Block, ...]

    @property
    def free(self) -> int:
        """Bytes of its free blocks."""
        return sum(b.size for b in self.blocks if b.is_free)


@dataclass(frozen=True)
class Share:
    """A part of the device's memory.

    Attributes:
        what: in words.
        bytes: how much it is.
        pieces: in how many blocks; None where it is not made of blocks.
        largest: the largest of them, bytes.
        whole: bytes of it in segments and pages that nothing is in use of; None = none.
    """

    what: str
    bytes: int
    pieces: int | None = None
    largest: int | None = None
    whole: int | None = None


def segments_of(layout: Layout, large_page: int) -> list[Segment]:
    """Return a layout's segments with their blocks.

    Args:
        layout: as a replay ends, or as a snapshot shows it.
        large_page: bytes that expandable memory of the large pool is mapped in.
    """
    s = {name: column.tolist() for name, column in layout.segments.items()}
    b = {name: column.tolist() for name, column in layout.blocks.items()}
    out = []
    for k, first in enumerate(s["first_block"]):
        rows = range(first, first + s["n_blocks"][k])
        blocks = tuple(
            Block(
                k, b["address"][i], b["size"][i], max(0, b["requested_size"][i]),
                BlockState(b["state"][i]), b["alloc"][i],
            )
            for i in rows
        )  # fmt: skip
        is_small = bool(s["is_small"][k])
        page = SMALL_PAGE if is_small else large_page
        lane = Lane(s["stream"][k], s["pool"][k], is_small)
        size = s["size"][k]
        out.append(
            Segment(lane, s["address"][k], size, page if s["is_expandable"][k] else size, blocks)
        )
    return out


def units_of(segments: Sequence[Segment]) -> list[Unit]:
    """Return what can be given back to the driver piece by piece, with who keeps it."""
    out = []
    for segment in segments:
        n = -(-segment.size // segment.page)
        sizes = [segment.page] * (n - 1) + [segment.size - segment.page * (n - 1)]
        units = [Unit(segment.lane, size) for size in sizes]
        for block in segment.blocks:
            start = block.address - segment.address
            end = start + block.size
            for k in range(start // segment.page, (end - 1) // segment.page + 1):
                inside = min(end, (k + 1) * segment.page) - max(start, k * segment.page)
                if block.is_free:
                    units[k].free += inside
                else:
                    units[k].users.append(block)
        out += units
    return out


def free_in(segments: Sequence[Segment], lane: Lane) -> list[int]:
    """Return the sizes of a lane's free blocks."""
    return [b.size for s in segments if s.lane == lane for b in s.blocks if b.is_free]


def shares_of(segments: Sequence[Segment], lane: Lane | None, room: int | None) -> list[Share]:
    """Say where all the memory is; the shares add up to the room, or to what is reserved.

    Args:
        segments: all of them.
        lane: of a request, which free memory can or cannot serve; None = there is none.
        room: what the allocator may reserve, bytes; None = without limit.
    """
    used = [b for s in segments for b in s.blocks if b.state == BlockState.ALLOCATED]
    pending = [b.size for s in segments for b in s.blocks if b.state == BlockState.PENDING]
    out = [
        Share("in use, as asked for", sum(b.asked for b in used), len(used)),
        Share("rounding of what is in use", sum(b.size - b.asked for b in used)),
    ]
    if pending:
        words = "freed, but another stream may still use it"
        out.append(Share(words, sum(pending), len(pending), max(pending)))
    free: dict[str, list[int]] = {}
    whole: dict[str, int] = {}
    for segment in segments:
        words = "free" if lane is None else _place_of(segment.lane, lane)
        sizes = [b.size for b in segment.blocks if b.is_free]
        if sizes:
            free.setdefault(words, []).extend(sizes)
        idle = sum(u.free for u in units_of([segment]) if not u.users)
        whole[words] = whole.get(words, 0) + idle
    out += [
        Share(words, sum(sizes), len(sizes), max(sizes), whole[words] or None)
        for words, sizes in sorted(free.items(), key=lambda item: -sum(item[1]))
    ]
    if room is not None:
        out.append(Share("not reserved", max(0, room - sum(s.size for s in segments))))
    return out


def _place_of(own: Lane, wanted: Lane) -> str:
    """Why free memory of a lane can or cannot serve a request of another."""
    if own == wanted:
        return "free, where the request looks"
    if own.pool != wanted.pool:
        return "free in a private pool" if own.pool else "free outside the request's pool"
    if own.stream != wanted.stream:
        return "free on another stream"
    return (
        "free in the pool of small requests" if own.is_small else "free in the pool of large ones"
    )

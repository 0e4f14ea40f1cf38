"""What a device held when the recording began: live blocks, and the layout they lie in."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from .event import Action, BlockState, empty_columns
from .program import LAYOUT_BLOCK_COLUMNS, LAYOUT_SEGMENT_COLUMNS, Layout
from .rollback import Extents
from .units import MiB, round_up
from .view import NEVER, History, completes_nothing

MIN_BLOCK = 512
SMALL_LIMIT = MiB  # rounded sizes up to this belong to the small pool
SLACK_LIMIT = MiB  # a large block is split only if more than this remains
MOST_DIGITS = 19  # of a 64-bit number
MOST_DIVISIONS = 1 << 40  # more divide no block of any device


@dataclass(frozen=True)
class Rounding:
    """The recorded settings that decide how large a block is.

    Attributes:
        divisions: shape (16,); `roundup_power2_divisions`, entry i for [2**i, 2**(i+1)) MiB.
        max_split: bytes; blocks of this size and more are not split. NEVER = off.
        max_non_split: bytes; bound on the slack of such a block.
        large_segment: bytes; segment for requests of 1 to 10 MiB.
        gc: garbage collection is on.
        expandable: expandable segments are on.
    """

    divisions: np.ndarray
    max_split: int = NEVER
    max_non_split: int = 20 * MiB
    large_segment: int = 20 * MiB
    gc: bool = False
    expandable: bool = False

    @classmethod
    def of(cls, settings: dict[str, Any], conf: str) -> Rounding:
        """Read them from a recording's settings; what is absent or strange has its default."""
        keys = dict(
            part.replace(" ", "").split(":", 1) for part in conf.split(",") if part.count(":") == 1
        )

        def mebibytes(key: str, default: int) -> int:
            value = keys.get(key, "")
            is_number = value.isascii() and value.isdecimal() and len(value) <= MOST_DIGITS
            number = int(value) if is_number else 0
            return min(number * MiB, NEVER) if number else default

        large = mebibytes("large_segment_size_mb", 20 * MiB)
        found = settings.get("roundup_power2_divisions")
        table = found if isinstance(found, dict) else {}
        divisions = [_whole(table.get(str(1 << i)), MOST_DIVISIONS) for i in range(16)]
        threshold = settings.get("garbage_collection_threshold", 0)
        return cls(
            divisions=np.array(divisions, np.int64),
            max_split=_whole(settings.get("max_split_size"), NEVER) or NEVER,
            max_non_split=mebibytes("max_non_split_rounding_mb", large),
            large_segment=large,
            gc=isinstance(threshold, float) and threshold > 0,
            expandable=bool(settings.get("expandable_segments", False)),
        )

    def round(self, size: np.ndarray) -> np.ndarray:
        """Return the block sizes that requests of these sizes get, in bytes.

        Source: c10/cuda/CUDACachingAllocator.cpp, round_size; c10/core/AllocatorConfig.cpp,
        roundup_power2_next_division.
        """
        size = np.asarray(size, np.int64)
        plain = np.maximum(-(-size // MIN_BLOCK) * MIN_BLOCK, MIN_BLOCK)
        if not (self.divisions > 1).any():
            return plain
        log = np.floor(np.log2(np.maximum(size, 1))).astype(np.int64)
        log -= (np.int64(1) << log) > size  # log2 of a float may round up
        parts = self.divisions[np.clip(log - 20, 0, 15)]
        floor = np.int64(1) << log
        step = np.maximum(floor // np.maximum(parts, 1), 1)
        stepped = np.where(size == floor, size, -(-size // step) * step)
        return np.where((parts > 1) & (size > MIN_BLOCK * parts), stepped, plain)


def _whole(value: object, most: int) -> int:
    """A whole number of 1 to `most`; 0 = something else was recorded, or nothing."""
    return value if type(value) is int and 0 < value <= most else 0


@dataclass
class StartBlocks:
    """Blocks live or pending at the start, by address; columns of equal length.

    Attributes:
        address, size, requested, state: int64; size 0 = not shown by the final state.
        completed: entry at which the block is free again; NEVER = not in the recording.
    """

    address: np.ndarray
    size: np.ndarray
    requested: np.ndarray
    state: np.ndarray
    completed: np.ndarray


def find_start_blocks(
    h: History, addresses: np.ndarray, first: np.ndarray, second: np.ndarray
) -> StartBlocks:
    """Find the blocks that no recorded alloc explains.

    Two kinds: those of the final state whose address no entry names, and those whose first entry
    is a free.

    Args:
        h: the history.
        addresses: shape (d,) int64; distinct addresses of allocs and frees, ascending.
        first, second: shape (d,) int64; first and second such entry at each, NEVER = none.
    """
    b = h.blocks
    active = np.flatnonzero(b["state"] != BlockState.INACTIVE)
    where = b["address"][active].astype(np.int64)
    silent = active[~np.isin(where, addresses)]
    freed = np.flatnonzero(h.action[first] != Action.ALLOC) if len(first) else first
    entry, after = first[freed], second[freed]
    requested = h.action[entry] == Action.FREE_REQUESTED
    no_completions = completes_nothing(h)
    follows = after < NEVER
    follows[follows] = h.action[after[follows]] == Action.FREE_COMPLETED
    ends = np.where(requested & ~follows, entry if no_completions else NEVER, entry)
    ends = np.where(requested & follows, after, ends)
    pending = b["state"][silent] == BlockState.PENDING
    known = b["requested_size"][silent]
    table = np.concatenate(
        [
            np.stack(
                [
                    b["address"][silent].astype(np.int64),
                    b["size"][silent],
                    np.where(known > 0, known, b["size"][silent]),
                    np.where(pending, BlockState.PENDING, BlockState.ALLOCATED).astype(np.int64),
                    np.full(len(silent), NEVER),
                ]
            ),
            np.stack(
                [
                    addresses[freed],
                    np.zeros(len(freed), np.int64),
                    np.maximum(h.size[entry], 1),
                    np.where(requested, BlockState.ALLOCATED, BlockState.PENDING).astype(np.int64),
                    ends,
                ]
            ),
        ],
        axis=1,
    )
    return StartBlocks(*table[:, np.argsort(table[0], kind="stable")])


def lay_out_start(
    extents: Extents,
    blocks: StartBlocks,
    rounding: Rounding,
    addresses: np.ndarray,
    first_alloc: np.ndarray,
    notes: Counter[str],
) -> Layout:
    """Place the start's blocks in the start's segments; set the sizes that were not known.

    Args:
        extents: driver memory; segments are put in address order, because nothing in a
            recording tells which of those that were there before it is the older.
        blocks: sizes are filled in.
        rounding: recorded settings.
        addresses: shape (d,) int64; distinct addresses of allocs and frees, ascending.
        first_alloc: shape (d,) int64; first alloc at each, NEVER = none.
        notes: counts of what was guessed, added to: "no_segment", "overlap", "unknown_slack".
    """
    unknown = blocks.size == 0
    rounded = rounding.round(blocks.requested)
    blocks.size = np.where(unknown, rounded, blocks.size)
    segments = _start_segments(extents, blocks, notes)
    begin = segments["address"].astype(np.int64)
    end = begin + segments["size"]
    home = np.searchsorted(begin, blocks.address, "right") - 1
    following = np.append(blocks.address, NEVER)[1:]
    limit = np.minimum(end[home], following)
    over = blocks.address + blocks.size > limit
    notes["overlap"] += int(over.sum())
    blocks.size = np.where(over, limit - blocks.address, blocks.size)

    splits = (segments["is_small"][home] == 0) & (segments["is_expandable"][home] == 0)
    gap = limit - blocks.address - blocks.size
    oversize = unknown & splits & (rounded >= rounding.max_split)
    whole = splits & unknown & (gap <= SLACK_LIMIT) | oversize & (gap < rounding.max_non_split)
    blocks.size = np.where(whole, blocks.size + gap, blocks.size)
    for k in np.flatnonzero(unknown & splits & ~whole & ~oversize).tolist():
        # The free memory behind the block begins where its slack ends, and the first allocation
        # that lands there begins with it.
        tail = int(blocks.address[k] + blocks.size[k])
        low, high = np.searchsorted(addresses, [tail, tail + SLACK_LIMIT + 1])
        seen = first_alloc[low:high]
        if len(seen) and int(seen.min()) < blocks.completed[k]:
            blocks.size[k] += int(addresses[low + int(seen.argmin())]) - tail
        else:
            notes["unknown_slack"] += 1
    return _tile(segments, blocks, home)


def _start_segments(
    extents: Extents, blocks: StartBlocks, notes: Counter[str]
) -> dict[str, np.ndarray]:
    """Return the start's segments, with one made up wherever a block lies in none."""
    rows = extents.start
    known = np.stack(
        [
            getattr(extents, name)[rows]
            for name in (
                "address", "size", "stream", "pool", "is_small", "is_expandable", "reservation"
            )
        ]
    )  # fmt: skip
    begin, end = known[0], known[0] + known[1]
    at = np.searchsorted(begin, blocks.address, "right") - 1
    outside = (at < 0) | (blocks.address >= end[np.maximum(at, 0)]) if len(begin) else at < 0
    made: list[list[int]] = []
    for k in np.flatnonzero(outside).tolist():
        address, size = int(blocks.address[k]), int(blocks.size[k])
        low, high = address // (2 * MiB) * 2 * MiB, round_up(address + size, 2 * MiB)
        before = int(end[at[k]]) if at[k] >= 0 else 0
        after = int(begin[at[k] + 1]) if at[k] + 1 < len(begin) else NEVER
        low, high = max(low, before), min(high, after)
        small = int(size <= SMALL_LIMIT)
        if made and low < made[-1][0] + made[-1][1]:
            made[-1][1] = max(high - made[-1][0], made[-1][1])
            made[-1][4] &= small
        else:
            made.append([low, high - low, 0, 0, small, 0, 0])
    notes["no_segment"] += int(outside.sum())
    if made:
        known = np.concatenate([known, np.array(made, np.int64).T], axis=1)
        known = known[:, np.argsort(known[0], kind="stable")]
    segments = empty_columns(LAYOUT_SEGMENT_COLUMNS, known.shape[1])
    for name, column in zip(list(LAYOUT_SEGMENT_COLUMNS)[:7], known, strict=True):
        segments[name][:] = np.maximum(column, 0)
    return segments


def _tile(segments: dict[str, np.ndarray], blocks: StartBlocks, home: np.ndarray) -> Layout:
    """Fill the gaps between the blocks with free ones: free neighbours are always merged."""
    begin = segments["address"].astype(np.int64)
    end = begin + segments["size"]
    n = len(blocks.address)
    tail = blocks.address + blocks.size
    # A gap may lie in front of each block and behind the last block of each segment.
    is_first = np.ones(n, bool)
    is_first[1:] = home[1:] != home[:-1]
    previous = np.where(is_first, begin[home], np.append(0, tail)[:n])
    used = np.zeros(len(begin), np.int64)
    used[:] = begin
    is_last = np.append(is_first[1:], True)[:n]
    used[home[is_last]] = tail[is_last]
    address = np.concatenate([blocks.address, previous, used])
    size = np.concatenate([blocks.size, blocks.address - previous, end - used])
    owner = np.concatenate([home, home, np.arange(len(begin))])
    live = np.arange(len(address)) < n
    keep = live | (size > 0)
    order = np.flatnonzero(keep)[np.lexsort((address[keep], owner[keep]))]
    out = empty_columns(LAYOUT_BLOCK_COLUMNS, len(order))
    out["address"][:] = address[order]
    out["size"][:] = size[order]
    alloc = np.concatenate([np.arange(n), np.full(len(address) - n, -1)])
    out["alloc"][:] = alloc[order]
    requested = np.concatenate([blocks.requested, np.full(len(address) - n, -1)])
    out["requested_size"][:] = requested[order]
    out["state"][:] = np.concatenate([blocks.state, np.zeros(len(address) - n, np.int64)])[order]
    segments["n_blocks"][:] = np.bincount(owner[order], minlength=len(begin))
    segments["first_block"][:] = np.cumsum(segments["n_blocks"]) - segments["n_blocks"]
    return Layout(segments, out)

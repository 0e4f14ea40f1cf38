"""What would have let a request be served: the fewest bytes to free, in one place or to the driver.

Each way is a guess of this file's until a replay has shown that the request is then served.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...traces.event import BlockState
from ...traces.units import MiB
from .standing import Block, Lane, Segment, Unit, units_of

STEP = 2 * MiB  # the driver gives and takes no less
CELLS = 64_000_000  # of the table that `cheapest_release` fills, at most


def cheapest_hole(segments: Sequence[Segment], lane: Lane, size: int) -> list[Block]:
    """Return the blocks in use, of least size together, whose absence leaves a hole.

    Args:
        segments: all of them.
        lane: where the request looks.
        size: what the hole must have, bytes.

    Returns:
        Blocks of one segment; none if no hole can be made, or one is there.
    """
    best: tuple[int, list[Block]] | None = None
    for segment in segments:
        if segment.lane != lane:
            continue
        left = wide = cost = 0
        blocks = segment.blocks
        for right, block in enumerate(blocks):
            wide += block.size
            cost += 0 if block.is_free else block.size
            if block.state == BlockState.PENDING:  # nothing the program does frees it
                left, wide, cost = right + 1, 0, 0
            while left <= right and wide - blocks[left].size >= size:
                wide -= blocks[left].size
                cost -= 0 if blocks[left].is_free else blocks[left].size
                left += 1
            if wide >= size and (best is None or cost < best[0]):
                best = cost, [b for b in blocks[left : right + 1] if not b.is_free]
    return best[1] if best else []


def cheapest_release(segments: Sequence[Segment], size: int) -> list[Block]:
    """Return the blocks in use, of least size together, whose absence frees enough for the driver.

    Only memory of the default pools is given back when a request fails. Segments are chosen with
    dynamic programming over multiples of 2 MiB, exactly unless there are very many; pages of
    expandable memory, which blocks may share, only next to each other.

    Args:
        segments: all of them.
        size: what has to be given back, bytes.

    Returns:
        Blocks; none if that much cannot be given back.
    """
    own = [s for s in segments if s.lane.pool == 0]
    whole = [u for s in own if s.page == s.size for u in units_of([s]) if _can_be_freed(u)]
    found = [_by_segments(whole, size)] if whole else []
    found += [_by_pages(units_of([s]), size) for s in own if s.page < s.size]
    return min(filter(None, found), key=size_of, default=[])


def size_of(blocks: Sequence[Block]) -> int:
    """Bytes of some blocks."""
    return sum(b.size for b in blocks)


def _can_be_freed(unit: Unit) -> bool:
    return all(b.state == BlockState.ALLOCATED for b in unit.users)


def _by_segments(units: Sequence[Unit], size: int) -> list[Block]:
    """Choose segments of `size` bytes or more whose blocks in use are least: a knapsack."""
    if sum(u.size for u in units) < size:
        return []
    step = STEP
    while len(units) * (-(-size // step) + 1) > CELLS:
        step *= 2
    steps = -(-size // step)
    cost = np.full(steps + 1, np.iinfo(np.int64).max // 2)
    cost[0] = 0
    taken = np.zeros((len(units), steps + 1), bool)
    before = np.arange(steps + 1)
    for k, unit in enumerate(units):
        with_it = cost[np.maximum(0, before - unit.size // step)] + size_of(unit.users)
        taken[k] = with_it < cost
        cost = np.minimum(cost, with_it)
    if cost[steps] >= np.iinfo(np.int64).max // 2:
        return []
    blocks: list[Block] = []
    left = steps
    for k in range(len(units) - 1, -1, -1):
        if taken[k, left]:
            blocks += units[k].users
            left = max(0, left - units[k].size // step)
    return blocks


def _by_pages(pages: Sequence[Unit], size: int) -> list[Block]:
    """Choose pages of one run, next to each other, whose blocks in use are least."""
    best: tuple[int, list[Block]] | None = None
    left = wide = 0
    for right, page in enumerate(pages):
        wide += page.size
        if not _can_be_freed(page):
            left, wide = right + 1, 0
        while left <= right and wide - pages[left].size >= size:
            wide -= pages[left].size
            left += 1
        if wide >= size and left <= right:
            users = {b.address: b for p in pages[left : right + 1] for b in p.users}
            cost = size_of(list(users.values()))
            if best is None or cost < best[0]:
                best = cost, list(users.values())
    return best[1] if best else []

"""Which private pool released memory belonged to, for releases that do not record it.

Before 2.12 only the final segments carry a pool. Memory that is gone by then is assigned from what
it did: two segments of one stream and kind lie in different pools if one was created although the
other had room, and no default segment stays cached when caches are emptied.
"""

from __future__ import annotations

from bisect import insort

import numpy as np

from .event import Action
from .matching import Followed
from .rollback import Extents
from .units import MiB
from .view import NEVER, UNKNOWN, History
from .warm_start import SLACK_LIMIT, Rounding, StartBlocks

UNNAMED = -1  # first half of the id of a pool that must have existed and is named nowhere


def assign_pools(
    h: History,
    extents: Extents,
    followed: Followed,
    start: StartBlocks,
    rounding: Rounding,
    pools: list[tuple[int, int]],
) -> int:
    """Give every extent of unknown pool one; return how many had to be guessed.

    Args:
        h: the history.
        extents: `pool` is completed in place.
        followed: what became of every block.
        start: blocks of the start.
        rounding: recorded settings.
        pools: the program's pools; one is added if memory fits in none of them.
    """
    # Oldest first: what is decided about one bears on those that came while it was there.
    birth = np.full(len(extents.pool), -1, np.int64)
    birth[extents.created[extents.created >= 0]] = extents.entries[extents.created >= 0]
    unknown = np.unique(extents.group[extents.pool == UNKNOWN])
    unknown = unknown[np.lexsort((extents.address[unknown], birth[unknown]))]
    if not len(unknown) or not (extents.pool > 0).any():
        extents.pool[extents.pool == UNKNOWN] = 0
        _join_reservations(extents, unknown)
        return 0
    size = np.concatenate([start.requested, h.size[followed.alloc_entry]])
    addr = np.concatenate([start.address, h.addr[followed.alloc_entry]])
    partial = rounding.gc or rounding.max_split < NEVER
    watch = _Watch(h, extents, rounding.round(size), followed.alloc_extent, addr, partial)
    watch.play(followed.entry_alloc, followed.from_extent, followed.n_start)
    neighbours = _neighbours(h, extents, followed.alloc_extent[followed.n_start :], unknown)
    pool_of = {
        g: int(p) for g, p in zip(extents.group.tolist(), extents.pool.tolist(), strict=True)
    }
    for group in unknown.tolist():
        excluded = {pool_of[other] for other in watch.apart.get(group, ())}
        if group in watch.kept:
            excluded.add(0)
        wanted = [neighbours[group], 0, *range(1, len(pools))]
        pool = next((p for p in wanted if p != UNKNOWN and p not in excluded), UNKNOWN)
        if pool == UNKNOWN:
            pool = len(pools)
            pools.append((UNNAMED, pool))
        pool_of[group] = pool
    extents.pool[:] = [pool_of[g] for g in extents.group.tolist()]
    _join_reservations(extents, unknown)
    return len(unknown)


def _join_reservations(extents: Extents, unsure: np.ndarray) -> None:
    """Join expandable runs of the start that turned out to be of one stream, pool and kind."""
    guessed = set(unsure.tolist())
    first: dict[tuple[int, int, int], int] = {}
    joins: dict[int, int] = {}  # group -> the group it becomes part of
    for row in extents.start[extents.is_expandable[extents.start] == 1].tolist():
        key = (
            int(extents.stream[row]), int(extents.pool[row]), int(extents.is_small[row])
        )  # fmt: skip
        group = int(extents.group[row])
        other = first.setdefault(key, group)
        if other != group and (group in guessed or other in guessed):
            joins[group] = joins[other] = other
    if not joins:
        return
    joined = np.isin(extents.group, list(joins))
    becomes = np.arange(len(extents.group))
    becomes[list(joins)] = list(joins.values())
    extents.group[:] = becomes[extents.group]
    groups, reservation = extents.group[joined], extents.reservation[joined]
    lowest = np.full(len(extents.group), NEVER)
    np.minimum.at(lowest, groups, reservation)
    extents.reservation[joined] = lowest[groups]


def _neighbours(
    h: History, extents: Extents, inside: np.ndarray, unknown: np.ndarray
) -> dict[int, int]:
    """Return the pool that the stream's allocations just before and after each group share."""
    at = np.flatnonzero(h.action == Action.ALLOC)
    stream = h.stream[at]
    has = inside >= 0
    known, group = np.full(len(at), UNKNOWN), np.full(len(at), UNKNOWN)
    known[has], group[has] = extents.pool[inside[has]], extents.group[inside[has]]
    out = {}
    for g in unknown.tolist():
        mine = np.flatnonzero(group == g)
        sure = np.flatnonzero((known != UNKNOWN) & (stream == extents.stream[g]))
        out[g] = UNKNOWN
        if len(mine) and len(sure):
            k = int(np.searchsorted(sure, mine[0]))
            if 0 < k < len(sure) and known[sure[k - 1]] == known[sure[k]]:
                out[g] = int(known[sure[k]])
    return out


class _Watch:
    """Replays which bytes are occupied, and notes what that says about pools.

    Attributes:
        apart: group -> groups that lie in another pool.
        kept: groups that were empty and yet not released when caches were emptied.
    """

    def __init__(
        self,
        h: History,
        extents: Extents,
        size: np.ndarray,
        alloc_extent: np.ndarray,
        alloc_addr: np.ndarray,
        partial: bool,
    ) -> None:
        self.h, self.extents = h, extents
        self.size, self.alloc_extent, self.alloc_addr = size, alloc_extent, alloc_addr
        self.blocks: dict[int, list[tuple[int, int]]] = {r: [] for r in extents.start.tolist()}
        self.home: dict[int, int] = {}
        self.apart: dict[int, set[int]] = {}
        self.kept: set[int] = set()
        self.unsure = set(np.flatnonzero(extents.pool == UNKNOWN).tolist())
        # Garbage collection and max_split_size release single segments of a pool.
        self.partial = partial

    def play(self, entry_alloc: np.ndarray, created: np.ndarray, n_start: int) -> None:
        for alloc in range(n_start):
            self._allocate(alloc)
        action, owner = self.h.action.tolist(), entry_alloc.tolist()
        row_of = dict(zip(self.extents.entries.tolist(), created.tolist(), strict=True))
        grown: list[int] = []
        idle: set[int] | None = None  # extents without blocks when the last release run began
        released: list[int] = []
        for i, a in enumerate(action):
            if a in (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP):
                if idle is None:
                    idle = {r for r, b in self.blocks.items() if not b}
                    released.clear()
                row = row_of[i]
                released.append(row)
                idle.discard(row)
                if a == Action.SEGMENT_FREE:
                    self.blocks.pop(row, None)
                else:
                    self._unmap(int(self.h.addr[i]), int(self.h.size[i]))
            elif a in (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP):
                grown.append(row_of[i])
                self.blocks[row_of[i]] = []
            elif a == Action.ALLOC:
                self._compare(owner[i], grown[-1] if grown else UNKNOWN)
                grown.clear()
                self._allocate(owner[i])
            elif a == Action.FREE_COMPLETED and owner[i] in self.home:
                row = self.home.pop(owner[i])
                begin = int(self.alloc_addr[owner[i]])
                blocks = self.blocks.get(row, [])
                self.blocks[row] = [b for b in blocks if b[0] != begin]
            if idle is not None and a in (Action.ALLOC, Action.FREE_REQUESTED, Action.OOM):
                self._emptied(released, [r for r in idle if not self.extents.is_expandable[r]])
                idle = None

    def _emptied(self, released: list[int], stayed: list[int]) -> None:
        """Note what a run of releases says: a pool is emptied as a whole or not at all."""
        e = self.extents
        if any(e.pool[row] <= 0 for row in released):
            self.kept.update(int(e.group[row]) for row in stayed)
        if self.partial:
            return
        for row in released:
            for other in stayed:
                self._part(int(e.group[row]), int(e.group[other]))

    def _part(self, group: int, other: int) -> None:
        self.apart.setdefault(group, set()).add(other)
        self.apart.setdefault(other, set()).add(group)

    def _allocate(self, alloc: int) -> None:
        row = int(self.alloc_extent[alloc])
        if row in self.blocks:
            begin = int(self.alloc_addr[alloc])
            insort(self.blocks[row], (begin, begin + int(self.size[alloc])))
            self.home[alloc] = row

    def _unmap(self, begin: int, size: int) -> None:
        """Take a range out of the mapped runs it lies in, by counting it as occupied for good."""
        for row, blocks in self.blocks.items():
            low = max(begin, int(self.extents.address[row]))
            high = min(begin + size, int(self.extents.address[row] + self.extents.size[row]))
            if low < high and self.extents.is_expandable[row]:
                insort(blocks, (low, high))

    def _compare(self, alloc: int, grown: int) -> None:
        """Note which extents would have served an allocation better than where it went.

        Best fit takes the smallest block that is large enough, and new memory only if there is
        none: an extent of the same stream and kind that holds such a block is in another pool.

        Args:
            alloc: an allocation about to be placed.
            grown: the extent obtained for it, or UNKNOWN if none was.
        """
        e = self.extents
        new = grown if grown != UNKNOWN else int(self.alloc_extent[alloc])
        if new not in self.blocks:
            return
        need, hole = int(self.size[alloc]), NEVER
        if grown == UNKNOWN:
            if e.is_expandable[new]:
                return  # weighs what a block could grow to, too
            at = int(self.alloc_addr[alloc])
            hole = min((low for low, _ in self.blocks[new] if low > at), default=NEVER)
            hole = min(hole, int(e.address[new] + e.size[new])) - at
        if need > MiB and not e.is_expandable[new]:
            need += SLACK_LIMIT  # so much of a gap may belong to the block in front of it
        group = int(e.group[new])
        # Two extents of known pools have nothing to tell each other.
        rows = self.blocks if e.pool[new] == UNKNOWN else self.unsure & self.blocks.keys()
        for row in rows:
            other = int(e.group[row])
            if (
                other != group
                and e.stream[row] == e.stream[new]
                and e.is_small[row] == e.is_small[new]
                and self._has_gap(row, need, hole)
            ):
                self._part(group, other)

    def _has_gap(self, row: int, need: int, below: int) -> bool:
        """Return whether an extent has a gap of at least `need` and less than `below` bytes."""
        begin = int(self.extents.address[row])
        end = begin + int(self.extents.size[row])
        for low, high in self.blocks[row]:
            if need <= low - begin < below:
                return True
            begin = max(begin, high)
        return need <= end - begin < below

"""Why memory went back to the driver: inside a malloc that found none, or in an empty_cache.

A history shows that segments were released, not who asked for it. Between two entries that a
program causes directly (an alloc, an out-of-memory error, the request of a free) stand those the
allocator adds on its own: completed frees, segments obtained and released. This module reads such
a gap as zero or more calls of empty_cache, followed by what the next malloc did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from .event import Action
from .matching import Followed
from .recording import Stacks
from .rollback import Extents
from .view import NEVER, UNKNOWN, History, reserved_after, reserved_before
from .warm_start import Rounding

EMPTY_CACHE = "empty_cache"  # torch/cuda/memory.py, the function a program calls


@dataclass
class EmptyCache:
    """One inferred call of empty_cache.

    Attributes:
        entries: entries of the segments it released, ascending; the call stands before the
            completed frees in front of the first. Empty if its stack on such a free is all that
            shows it.
        first: entry it stands before.
        pool: the only pool it may have been meant for, 0 = all.
        releases: private pools that must have been freeable.
        syncs: whether every pending free completed in it.
    """

    entries: list[int]
    first: int
    pool: int
    releases: list[int]
    syncs: bool


@dataclass
class Causes:
    """What the gaps of a history were.

    Attributes:
        empty_caches: in order.
        late: completed frees (entries) that a synchronize inside the next malloc caused -> the
            entry of that malloc's alloc or oom.
        releases: alloc or oom entry -> private pools that must have been freeable in it.
        in_capture: oom entries at which frees stayed pending: nothing synchronized.
        by_stack, by_shape, by_rule: how many gaps with releases were decided by a recorded stack,
            by what was released, and by the rule that a release in front of a malloc is its own.
    """

    empty_caches: list[EmptyCache] = field(default_factory=list)
    late: dict[int, int] = field(default_factory=dict)
    releases: dict[int, list[int]] = field(default_factory=dict)
    in_capture: list[int] = field(default_factory=list)
    by_stack: int = 0
    by_shape: int = 0
    by_rule: int = 0


def find_causes(
    h: History,
    extents: Extents,
    followed: Followed,
    rounding: Rounding,
    stacks: Stacks,
) -> Causes:
    """Decide for every release whether a malloc or an empty_cache asked for it.

    Args:
        h: the history.
        extents: driver memory over time.
        followed: what became of every block.
        rounding: recorded settings.
        stacks: recorded call stacks.
    """
    n = len(h.action)
    paired, pending_after = followed.at_once, followed.pending_after
    served = (h.action == Action.ALLOC) | (h.action == Action.OOM)
    hard = np.flatnonzero(served | (h.action == Action.FREE_REQUESTED) | paired)
    is_release = (h.action == Action.SEGMENT_FREE) | (h.action == Action.SEGMENT_UNMAP)
    completions = np.flatnonzero((h.action == Action.FREE_COMPLETED) & ~paired)
    asked = np.flatnonzero(is_release)
    ooms = np.flatnonzero(h.action == Action.OOM)
    closing = np.unique(np.concatenate([np.searchsorted(hard, asked), np.searchsorted(hard, ooms)]))
    is_empty_cache = _StackTest(stacks, EMPTY_CACHE)
    waited = [i for i in completions.tolist() if is_empty_cache(int(h.stack[i]))]
    closing = np.unique(np.concatenate([closing, np.searchsorted(hard, waited).astype(np.int64)]))
    reserved = np.concatenate([[0], reserved_after(h)])  # in front of each entry
    reserved[0] = reserved_before(h)
    highest = int(reserved.max())
    row_of = dict(zip(extents.entries.tolist(), followed.from_extent.tolist(), strict=True))
    room_of = dict(zip(extents.entries.tolist(), followed.room.tolist(), strict=True))
    telling = _stacks_tell(h, followed, is_empty_cache)
    causes = Causes()
    # Of each gap: what closes it, where it begins, and its releases and completed frees.
    last_of = np.append(hard, n)[closing]
    first_of = np.append(0, hard + 1)[closing]
    gaps = zip(
        last_of.tolist(),
        first_of.tolist(),
        _between(asked, first_of, last_of),
        _between(completions, first_of, last_of),
        strict=True,
    )
    serves_at, oom_at = served.tolist(), (h.action == Action.OOM).tolist()
    for last, first, outs, done in gaps:
        serves = last < n and serves_at[last]
        if not outs and not done:  # an error before which nothing was released or completed
            if serves and oom_at[last] and pending_after[last] > 0:
                causes.in_capture.append(last)
            continue
        cut = first  # entries before `cut` belong to empty_cache, the others to the malloc
        if outs and not serves:
            cut = outs[-1] + 1
        elif outs:
            if telling and h.stack[last] and h.stack[outs].all():
                # Whatever a malloc does bears the malloc's own stack.
                causes.by_stack += 1
                outside = [i for i in outs if h.stack[i] != h.stack[last]]
                cut = outside[-1] + 1 if outside else first
            elif _could_not_be_malloc(
                h, extents, row_of, room_of, outs, last, rounding, reserved, highest
            ):
                causes.by_shape += 1
                cut = outs[-1] + 1
            else:
                causes.by_rule += 1
        emptied = [i for i in outs if i < cut]
        if emptied:
            _add_empty_caches(causes, h, extents, row_of, emptied, done, first, cut, pending_after,
                              is_empty_cache)  # fmt: skip
        called = [i for i in done if is_empty_cache(int(h.stack[i]))]
        if called and not emptied:
            # It had nothing to release; under other settings it may have.
            causes.empty_caches.append(EmptyCache([], called[0], 0, [], True))
            done = sorted(set(done) - set(called))
        inside = [i for i in outs if i >= cut]
        pools = _private_pools(h, extents, row_of, inside)
        if pools:
            causes.releases[last] = pools
        if serves and oom_at[last] and pending_after[last] > 0:
            causes.in_capture.append(last)
        elif serves and (inside or oom_at[last]) and pending_after[last] == 0:
            causes.late.update((i, last) for i in done if i >= cut)
    return causes


def _between(entries: np.ndarray, first: np.ndarray, last: np.ndarray) -> Iterator[list[int]]:
    """Yield the entries within each [first, last)."""
    low, high = np.searchsorted(entries, first).tolist(), np.searchsorted(entries, last).tolist()
    values = entries.tolist()
    return (values[lo:hi] for lo, hi in zip(low, high, strict=True))


class _StackTest:
    """Whether a stack holds a function; each stack is read once."""

    def __init__(self, stacks: Stacks, name: str) -> None:
        self.stacks = stacks
        self.name = name
        self.known: dict[int, bool] = {}

    def __call__(self, stack: int) -> bool:
        if stack not in self.known:
            self.known[stack] = any(name == self.name for _, _, name in self.stacks[stack])
        return self.known[stack]


def _stacks_tell(h: History, followed: Followed, is_empty_cache: Callable[[int], bool]) -> bool:
    """Return whether releases bear the stack of what caused them.

    With a context level below "all" a free bears the stack of its allocation, and a release in
    empty_cache that of the segment's creation.

    Source: DeviceCachingAllocator::free and release_block.
    """
    frees = np.flatnonzero((h.action == Action.FREE_REQUESTED) & (followed.entry_alloc >= 0))
    alloc = followed.entry_alloc[frees] - followed.n_start
    frees, alloc = frees[alloc >= 0], alloc[alloc >= 0]
    if (h.stack[frees] != h.stack[followed.alloc_entry[alloc]]).any():
        return True
    releases = (h.action == Action.SEGMENT_FREE) | (h.action == Action.SEGMENT_UNMAP)
    return any(is_empty_cache(stack) for stack in np.unique(h.stack[releases]).tolist())


def _could_not_be_malloc(
    h: History,
    extents: Extents,
    row_of: dict[int, int],
    room: dict[int, int],
    outs: list[int],
    last: int,
    rounding: Rounding,
    reserved: np.ndarray,
    highest: int,
) -> bool:
    """Return whether a malloc had no reason to release what was released in front of it."""
    growth = np.flatnonzero(
        np.isin(h.action[outs[-1] : last], (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP))
    )
    grown = int(h.size[outs[-1] : last][growth].sum())
    oom = h.action[last] == Action.OOM
    if not oom and not grown:
        return True  # it was served from the cache, so it never missed
    need = int(h.size[last]) if oom else int(rounding.round(h.size[last : last + 1])[0])
    if need < rounding.max_split:
        # A block of max_split_size and more is not cut for a request of less.
        limit = NEVER if rounding.expandable else rounding.max_split
        for i in outs:
            row = row_of[i]
            pool = int(h.pool[i]) if h.pool[i] != UNKNOWN else int(extents.pool[row])
            same_pool = h.pool[last] == UNKNOWN or pool in (UNKNOWN, int(h.pool[last]))
            if (
                need <= room[i] < limit
                and h.stream[i] == h.stream[last]
                and same_pool
                and bool(extents.is_small[row]) == (need <= 1 << 20)
                and (h.action[i] == Action.SEGMENT_FREE or rounding.expandable)
            ):
                return True  # what was released could have served it
    # It got more than it asked for before, so the driver had no reason to refuse.
    return not oom and not rounding.gc and int(reserved[outs[0]]) + grown <= highest


def _add_empty_caches(
    causes: Causes,
    h: History,
    extents: Extents,
    row_of: dict[int, int],
    emptied: list[int],
    done: list[int],
    first: int,
    cut: int,
    pending_after: np.ndarray,
    is_empty_cache: Callable[[int], bool],
) -> None:
    """Read releases outside a malloc as one call for all pools, or one per private pool.

    Deleting a memory pool empties that pool alone, and the stack then names no empty_cache.
    """
    begins = min([i for i in done if i < cut], default=emptied[0])
    begins = min(begins, emptied[0])
    syncs = int(pending_after[cut - 1]) == 0
    # Releases with different stacks are different calls.
    changes = [k for k in range(1, len(emptied)) if h.stack[emptied[k]] != h.stack[emptied[k - 1]]]
    for low, high in zip([0, *changes], [*changes, len(emptied)], strict=True):
        part = emptied[low:high]
        pools = _private_pools(h, extents, row_of, part)
        of = [_pool_of(h, extents, row_of, i) for i in part]
        if 0 in of or not pools or is_empty_cache(int(h.stack[part[0]])):
            causes.empty_caches.append(EmptyCache(part, begins, 0, pools, syncs))
            begins = part[-1] + 1
            continue
        by_pool: dict[int, list[int]] = {}
        for i, pool in zip(part, of, strict=True):
            by_pool.setdefault(pool, []).append(i)
        for pool, mine in by_pool.items():
            causes.empty_caches.append(EmptyCache(mine, begins, pool, [pool], syncs))
            begins = mine[-1] + 1


def _pool_of(h: History, extents: Extents, row_of: dict[int, int], i: int) -> int:
    pool = int(h.pool[i])
    return max(pool if pool != UNKNOWN else int(extents.pool[row_of[i]]), 0)


def _private_pools(
    h: History, extents: Extents, row_of: dict[int, int], entries: list[int]
) -> list[int]:
    """Return the private pools some entries released from, in order of appearance."""
    return [p for p in dict.fromkeys(_pool_of(h, extents, row_of, i) for i in entries) if p > 0]

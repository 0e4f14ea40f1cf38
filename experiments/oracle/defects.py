"""Upstream defects a case can run into: detected, named, and nothing more than them excluded."""

from __future__ import annotations

from dataclasses import dataclass

from ...sim.release import Release
from ...sim.run import Run
from ...sim.settings import OFF, Settings
from ...traces.event import Action
from ...traces.program import Op
from .run import Answer
from .translate import Translated

POOL_COUNT = "segment count of an expandable private pool"
OVERSIZE_RELEASE = "oversize release meets an expandable block (until 2.4)"
PART_RELEASE = "oversize release returns a part of a segment"
REUSE_ASSERTION = "graph_capture_record_stream_reuse in a pool scope without a capture (2.9)"


# Plain numbers: attributes of an enum are slow in loops over every event.
RETURNS = (int(Action.SEGMENT_FREE), int(Action.SEGMENT_UNMAP))
OBTAINS = (int(Action.SEGMENT_ALLOC), int(Action.SEGMENT_MAP))
ALLOC = int(Action.ALLOC)
EMPTY_CACHE, RELEASE_POOL, CAPTURE = int(Op.EMPTY_CACHE), int(Op.RELEASE_POOL), int(Op.CAPTURE)


@dataclass(frozen=True)
class Defect:
    """A known defect of PyTorch.

    Attributes:
        name: which one.
        command: the first command whose effects cannot be compared.
    """

    name: str
    command: int


def known_defect(
    answer: Answer, rules: Release, settings: list[Settings], translated: Translated, run: Run
) -> Defect | None:
    """Return the first known defect a case reaches; `settings` are those it meets in turn."""
    found = []
    expands = any(s.expandable_segments for s in settings)
    splits = any(s.max_split_size < OFF for s in settings)
    if expands and rules.expandable_private_pools:
        op = _PoolCounts(translated, run).first_wrong_op
        if op >= 0:
            found.append(Defect(POOL_COUNT, int(translated.command[op])))
    if splits and expands and not rules.oversize_release_skips_expandable:
        found += [
            Defect(OVERSIZE_RELEASE, command)
            for command, words in answer.errors
            if "INTERNAL ASSERT" in words
        ][:1]
    # Oversize memory can be split only until 2.4, in private pools, where it is split as if it
    # were expandable and then it is not; or after max_split_size was changed at run time.
    if splits and (len(settings) > 1 or (expands and not rules.oversize_release_skips_expandable)):
        found += [Defect(PART_RELEASE, command) for command in _part_returns(answer)][:1]
    if rules.version == (2, 9) and any(s.graph_capture_record_stream_reuse for s in settings):
        found += [
            Defect(REUSE_ASSERTION, command)
            for command, words in answer.errors
            if "Invalid stream capture status" in words
        ][:1]
    return min(found, key=lambda d: d.command, default=None)


def _part_returns(answer: Answer) -> list[int]:
    """Return the commands that give the driver less, or more, than it gave at that address."""
    rows = answer.trace
    sizes: dict[int, int] = {}
    found = []
    for command, action, addr, size in zip(
        *(rows[c].tolist() for c in ("command", "action", "addr", "size")), strict=True
    ):
        if action == Action.SEGMENT_ALLOC:
            sizes[addr] = size
        elif action == Action.SEGMENT_FREE and sizes.pop(addr, 0) != size:
            found.append(command)
    return found


def missing_syncs(settings: list[Settings], translated: Translated, run: Run) -> tuple[int, int]:
    """Return how often the real allocator synchronizes for a pool that is empty already.

    Its count of a pool's segments can stay above zero although nothing is mapped any more; then
    it keeps the pool, and empty_cache of that pool synchronizes again.

    Returns:
        The least and the most times; they differ only where max_split_size lets a request pass
        over a free block and then "grow" into that very block, which no event shows.
    """
    if not any(s.expandable_segments for s in settings):
        return 0, 0
    counts = _PoolCounts(translated, run)
    hidden = any(s.max_split_size < OFF for s in settings)
    return counts.needless_syncs, counts.possible_syncs if hidden else counts.needless_syncs


class _PoolCounts:
    """PyTorch's own count of each private pool's segments, right or wrong.

    It grows by one for each request that mapped memory, in one piece or several, and shrinks by
    one for each unmapped range. When it is zero in a pool that nobody uses any more, PyTorch
    deletes the pool, even if blocks of it are in use.

    Source: c10/cuda/CUDACachingAllocator.cpp, PrivatePool::cudaMalloc_count in alloc_block,
    unmap_block, release_block and release_cached_blocks.

    Attributes:
        first_wrong_op: the op after which a pool is deleted with memory in it, or its count drops
            below zero; -1 = none.
        needless_syncs, possible_syncs: see `missing_syncs`.
    """

    def __init__(self, translated: Translated, run: Run) -> None:
        program = translated.program
        self.first_wrong_op = -1
        self.needless_syncs = self.possible_syncs = 0
        self.count = dict.fromkeys(range(1, len(program.pools)), 0)
        self.held = dict.fromkeys(self.count, 0)  # bytes
        self.freeable: set[int] = set()
        if not self.count:
            return
        of_op: dict[int, list[tuple[int, int, int]]] = {}
        for op, action, pool, size in zip(
            *(run.events[c].tolist() for c in ("op", "action", "pool", "size")), strict=True
        ):
            of_op.setdefault(op, []).append((action, pool, size))
        capturing = False
        released: set[int] = set()
        for op, (code, arg) in enumerate(
            zip(program.op.tolist(), program.arg.tolist(), strict=True)
        ):
            events = of_op.get(op, [])
            if code == RELEASE_POOL:
                self.freeable.add(arg)
                released.add(arg)
            elif code == CAPTURE:
                capturing = bool(arg)
            elif code == EMPTY_CACHE and arg in released and not capturing:
                empty = not self.held[arg]
                self.needless_syncs += empty and arg in self.freeable and self.count[arg] > 0
                self.possible_syncs += empty
            if not self._take_back(events):
                self.first_wrong_op = op
                return
            if code == EMPTY_CACHE or any(action in RETURNS for action, _, _ in events):
                emptied = self.freeable if code != EMPTY_CACHE or not arg else {arg}
                for pool in [p for p in emptied & self.freeable if not self.count[p]]:
                    if self.held[pool]:
                        self.first_wrong_op = op
                        return
                    self.freeable.discard(pool)
            self._give(events)

    def _take_back(self, events: list[tuple[int, int, int]]) -> bool:
        """Count what one op returned to the driver; False if PyTorch's count was zero already."""
        for action, pool, size in events:
            if pool and action in RETURNS:
                if not self.count[pool]:
                    return False
                self.count[pool] -= 1
                self.held[pool] -= size
        return True

    def _give(self, events: list[tuple[int, int, int]]) -> None:
        """Count what one op obtained from the driver."""
        for action, pool, size in events:
            if pool and action in OBTAINS:
                self.held[pool] += size
        # Whatever else happened happened because no free block was found. The memory may come
        # from frees that completed meanwhile, without a map.
        if len(events) > 1 and events[-1][0] == ALLOC and events[-1][1]:
            self.count[events[-1][1]] += 1

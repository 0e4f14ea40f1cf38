"""Changes to a program, each tried by a replay under the same conditions: does it help?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...policies.native import replay_native
from ...sim.packing import Packed
from ...sim.run import Run
from ...traces.program import Op, Program
from ..first_block import best_first_block
from .moment import Moment, Terms
from .pins import Pin
from .places import BEFORE, NOT_RECORDED, Places
from .standing import Block, Segment
from .ways import cheapest_hole, cheapest_release, size_of
from .what_if import flushed_before, freed_before, in_own_pool

Kind = Literal["hole", "release", "own pool", "flush", "first block"]

OWNERS_TRIED = 4  # of those who pin most, how many are given a pool of their own
FLUSHES_TRIED = 24  # requests before which cached memory is given back
FURTHER = 0.01  # of the recording, or of the peak: a change that gets or saves less does not help


@dataclass(frozen=True)
class Change:
    """A change to the program, and what a replay says of it.

    Attributes:
        kind: "hole" = blocks freed before the request, so that one place is large enough;
            "release" = blocks freed so that enough goes back to the driver; "own pool" = all
            allocations of a place made from a MemPool; "flush" = empty_cache() called once; "first
            block" = one block allocated and freed before anything else.
        where: places in the user's code, those of most bytes first; of a flush, what comes next.
        blocks: how many are freed, or moved; None = neither.
        bytes: their size, or that of the first block; None = of allocations that move.
        entry: of a flush, the recorded entry before which it is called.
        freed: the recorded entries that had allocated what is freed; -1 = before the first.
        fits: whether the whole program then runs.
        ends_at: the recorded entry at which memory runs out instead; None = it does not.
        peak_reserved_bytes: of the changed program, until it ends.
    """

    kind: Kind
    where: tuple[str, ...]
    blocks: int | None
    bytes: int | None
    entry: int | None
    freed: tuple[int, ...]
    fits: bool
    ends_at: int | None
    peak_reserved_bytes: int


class Trial:
    """Tries changes to a program that failed, or that reserved more than it used.

    Args:
        program: as recorded.
        places: of its allocations.
        under: what it is replayed under.
        moment: what is to change.
        advance: called after every replay.
    """

    def __init__(
        self,
        program: Program,
        places: Places,
        under: Terms,
        moment: Moment,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.program, self.places, self.under, self.moment = program, places, under, moment
        self.advance = advance

    def frees(self, segments: Sequence[Segment]) -> list[Change]:
        """Free the fewest bytes before the request: for one hole, or to give back to the driver."""
        want, room = self.moment.want, self.moment.room
        if want is None:
            return []
        hole = cheapest_hole(segments, want.lane, want.block_bytes)
        ways: list[tuple[Kind, list[Block]]] = [("hole", hole)]
        if room is not None and self.moment.kind == "failed":
            missing = want.segment_bytes - (room - sum(s.size for s in segments))
            release = cheapest_release(segments, missing)
            if {b.address for b in release} != {b.address for b in hole}:
                ways.append(("release", release))
        out = []
        for kind, blocks in ways:
            if not blocks:
                continue
            allocs = sorted(b.alloc for b in blocks)
            op = self.moment.op
            changed = freed_before(self.program, op, allocs)
            run = self.play(changed)
            if self._serves(run, op + len(allocs), size_of(blocks)):
                where = self._places_of(blocks)
                entries = tuple(int(self.places.entry[a]) for a in allocs)
                found = self._change(kind, run, changed, where, len(blocks))
                out.append(replace(found, bytes=size_of(blocks), freed=entries))
        return out

    def _serves(self, run: Run, op: int, freed: int) -> bool:
        """The request is served; or, where it was before, more is saved than was freed for it."""
        if self.moment.kind == "failed":
            return run.first_oom_op < 0 or run.first_oom_op > op
        saved = self.moment.peak - run.stats["reserved_bytes.all.peak"]
        return run.first_oom_op < 0 and saved > freed

    def own_pools(self, pins: Sequence[Pin]) -> list[Change]:
        """Give those who pin most a pool of their own, one at a time."""
        out = []
        named = [p for p in pins if p.where not in (BEFORE, NOT_RECORDED)]
        for pin in named[:OWNERS_TRIED]:
            allocs = self.places.allocs_at(pin.where)
            allocs = allocs[allocs >= self.program.n_start]
            if not len(allocs):
                continue
            changed = in_own_pool(self.program, allocs, self.places.tries_at(pin.where))
            run = self.play(changed)
            if self._helps(run, changed):
                out.append(self._change("own pool", run, changed, (pin.where,), len(allocs)))
        return out

    def flush(self) -> list[Change]:
        """Call empty_cache() once, before the request at which it helps most."""
        best: Change | None = None
        for op in self._quiet_ops():
            changed = flushed_before(self.program, [op])
            run = self.play(changed)
            if not self._helps(run, changed):
                continue
            entry = int(self.program.entry[op])
            found = self._change("flush", run, changed, (self.places.of_op(op),), None)
            found = replace(found, entry=entry)
            if best is None or _rank(found) < _rank(best):
                best = found
        return [best] if best else []

    def first_block(self, bound: int) -> list[Change]:
        """Allocate and free one block before anything else, of the size that helps most."""
        under = self.under

        def play(packed: Packed) -> Run:
            return replay_native(packed, under.settings, under.rules, under.gpu)

        found = best_first_block([self.program], play, [bound], self.advance)
        if found is None:
            return []
        (run,), (packed,) = found.runs, found.packed
        if not self._helps(run, packed.program):
            return []
        change = self._change("first block", run, packed.program, (), None)
        return [replace(change, bytes=found.bytes)]

    def play(self, program: Program) -> Run:
        """Replay a changed program until it first fails."""
        run = self.under.play(program)
        self.advance()
        return run

    def _helps(self, run: Run, changed: Program) -> bool:
        """It gets well further, or, where nothing failed, reserves less."""
        if self.moment.kind != "failed":
            peak = self.moment.peak
            saves = peak - run.stats["reserved_bytes.all.peak"]
            return run.first_oom_op < 0 and saves > FURTHER * peak
        if run.first_oom_op < 0:
            return True
        reached = int(changed.entry[: run.first_oom_op + 1].max(initial=-1))
        further = reached - (self.moment.entry or 0)
        return further > FURTHER * int(self.program.entry.max(initial=0))

    def _quiet_ops(self) -> list[int]:
        """Requests until then at which little is in use: the least of each stretch of them."""
        program, end = self.program, self.moment.op + 1
        size = np.zeros(end, np.int64)
        of = program.req_size[program.request]
        gives = program.op[:end] == Op.MALLOC
        takes = np.isin(program.op[:end], (Op.FREE, Op.FREE_LATER))
        size[gives] = of[program.arg[:end][gives]]
        size[takes] = -of[program.arg[:end][takes]]
        before = np.cumsum(size) - size
        known = program.entry[:end] >= 0
        known[known] = self.places.has_stack(program.entry[:end][known])
        asks = np.flatnonzero(gives & known)
        if not len(asks):  # nothing says where in the code it would be
            asks = np.flatnonzero(gives & (program.entry[:end] >= 0))
        stretches = np.array_split(asks, min(FLUSHES_TRIED, len(asks)) or 1)
        return [int(s[before[s].argmin()]) for s in stretches if len(s)]

    def _places_of(self, blocks: Sequence[Block]) -> tuple[str, ...]:
        held: dict[str, int] = {}
        for block in blocks:
            place = self.places[block.alloc]
            held[place] = held.get(place, 0) + block.size
        return tuple(sorted(held, key=lambda p: (-held[p], p)))

    def _change(
        self,
        kind: Kind,
        run: Run,
        changed: Program,
        where: tuple[str, ...],
        blocks: int | None,
    ) -> Change:
        ends_at = None
        if run.first_oom_op >= 0:
            ends_at = int(changed.entry[: run.first_oom_op + 1].max(initial=0))
        return Change(
            kind, where, blocks, None, None, (), run.first_oom_op < 0, ends_at,
            run.stats["reserved_bytes.all.peak"],
        )  # fmt: skip


def _rank(change: Change) -> tuple[bool, int, int]:
    """Lower is better: fits, gets far, reserves little."""
    return (not change.fits, -(change.ends_at or 0), change.peak_reserved_bytes)

"""The explanation of a moment: verdict, where memory is, who pins it, what would have helped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...sim.device import Device
from ...traces.program import Program
from ...traces.units import format_bytes
from ..screen import rounded
from ..smallest import Smallest
from .moment import Moment, Terms, Want
from .pins import Holder, Pin, holders_of, pins_of
from .places import Places
from .standing import Segment, Share, free_in, segments_of, shares_of, units_of
from .tried import Change, Trial

Verdict = Literal["exhaustion", "limit", "fragmentation", "reservation", "unexplained", "waste"]


@dataclass(frozen=True)
class Explanation:
    """Why memory ran out, or where it is at a moment; simulated.

    Attributes:
        kind: "exhaustion" = what the program holds and wants is more than there is; "limit" = more
            than the least that a limit of the process, which is not recorded, can have been;
            "fragmentation" = it is not, but no free piece will do; "reservation" = there is memory,
            but not in the address range that was reserved for it; "unexplained" = the recorded run
            failed, although a replay has room for the request; "waste" = nothing failed.
        moment: as Moment.kind, or "end" of a recording without a history.
        entry: the recorded entry; None = before the first.
        want: the request that failed, or for which memory was taken from the driver.
        room_bytes: what the allocator may reserve; None = without limit.
        met_limit: the room is only the least it can have been.
        reserved_bytes: what it has reserved.
        reached_bytes: what is reserved once the request is served; the same, if it is not.
        peak_reserved_bytes: the most that is reserved, until memory runs out.
        asked_bytes: what is in use was asked for.
        bound_bytes: most that the program holds at once; more than the room = no line can help.
            None = not known.
        smallest: smallest device on which the program runs under this line; None = not asked, or
            it runs on none.
        device_bytes: memory of the device that others do not use; None = without end.
        shares: where all the memory is.
        holders: who holds memory, most first.
        pins: who pins free memory, most first.
        changes: what would have helped; each was replayed. None was tried if there is a note.
        segments: those of the moment, in address order.
        note: how the moment was found; "" = as the replay fails.
    """

    kind: Verdict
    moment: str
    entry: int | None
    want: Want | None
    room_bytes: int | None
    met_limit: bool
    reserved_bytes: int
    reached_bytes: int
    peak_reserved_bytes: int
    asked_bytes: int
    bound_bytes: int | None
    smallest: Smallest | None
    device_bytes: int | None
    shares: list[Share]
    holders: list[Holder]
    pins: list[Pin]
    changes: list[Change]
    segments: list[Segment]
    note: str

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        when = "before the first entry" if self.entry is None else f"at entry {self.entry:,}"
        want = self.want
        if want is None:
            said = "nothing is reserved"
            if self.reserved_bytes:
                said = (
                    f"{self._idle} of {format_bytes(self.reserved_bytes)} reserved are not in use"
                )
            if self.moment == "end":
                return f"AT THE END: {said} (as recorded)"
            name = "MOST IS IN USE " if self.moment == "peak" and self.reserved_bytes else ""
            return f"{name}{when}: {said} (simulated)"
        size, room = format_bytes(want.bytes), self.room_bytes or 0
        if self.kind == "limit":
            return (
                f"A LIMIT WAS MET {when}: the program holds {format_bytes(self.asked_bytes)} and "
                f"asks for {size} more; of its limit nothing is known but that it was "
                f"{format_bytes(room)} or more"
            )
        if self.kind == "exhaustion":
            over = self.asked_bytes + want.bytes - room
            if self._limit_is_why(self.asked_bytes + want.bytes):
                return (
                    f"THE LINE'S LIMIT WAS MET {when}: the program holds "
                    f"{format_bytes(self.asked_bytes)} and asks for {size} more, "
                    f"{format_bytes(over)} more than per_process_memory_fraction leaves it of "
                    f"{format_bytes(self.device_bytes or 0)}"
                )
            return (
                f"TRUE EXHAUSTION {when}: the program holds {format_bytes(self.asked_bytes)} and "
                f"asks for {size} more, {format_bytes(over)} more than there is; no setting helps"
            )
        if self.kind == "reservation":
            return (
                f"ADDRESSES EXHAUSTED {when}: {size} were wanted, and there is memory, but not in "
                "the range of addresses that was reserved for expandable segments"
            )
        if self.kind == "unexplained":
            largest = max(self._free_here, default=0)
            rest = format_bytes(room - self.reserved_bytes)
            would = f"{rest} of {format_bytes(room)} were not reserved"
            if largest >= want.block_bytes:
                would = f"a free piece of {format_bytes(largest)} would have done"
            return f"UNEXPLAINED {when}: the recorded run did not get {size}, though {would}"
        if self.moment == "grew":
            near = "TO" if self.reached_bytes == self.peak_reserved_bytes else "NEAR"
            grew = f"GREW {near} ITS PEAK {when}: {size} were wanted and"
            if not self.reserved_bytes:
                return f"{grew} nothing was reserved (simulated)"
            return (
                f"{grew} {self._idle} of {format_bytes(self.reserved_bytes)} reserved were not in "
                f"use, but {self._largest} (simulated)"
            )
        return (
            f"FRAGMENTATION {when}: {size} were wanted and {format_bytes(room - self.asked_bytes)} "
            f"of {format_bytes(room)} are not in use, but {self._largest}"
        )

    @property
    def _idle(self) -> str:
        """What is reserved and not in use, and its share."""
        idle = self.reserved_bytes - self.asked_bytes
        share = rounded(100 * idle / max(1, self.reserved_bytes), 1)
        return f"{format_bytes(idle)} ({share}%)"

    @property
    def _free_here(self) -> list[int]:
        """Sizes of the pieces that are free where the request looks."""
        assert self.want is not None
        return free_in(self.segments, self.want.lane)

    @property
    def _largest(self) -> str:
        """The largest of them, in words."""
        if not self._free_here:
            return "nothing is free where it looks"
        return f"the largest free piece where it looks has {format_bytes(max(self._free_here))}"

    @property
    def words(self) -> list[str]:
        """What else there is to say, in plain sentences."""
        out = []
        room = self.room_bytes
        if self.met_limit and room is not None:
            taken = "" if self.kind == "limit" else f"; it was {format_bytes(room)} or more, and is"
            taken += "" if self.kind == "limit" else " taken to have been that"
            out.append(
                f"The limit of the process that was met is not recorded{taken}. --capacity asks "
                "about another."
            )
        elif self.moment == "failed" and room is not None and self.kind != "exhaustion":
            if self.bound_bytes is not None and self.bound_bytes > room:
                over, why = format_bytes(self.bound_bytes - room), "there is: then no setting helps"
                if self._limit_is_why(self.bound_bytes):
                    why = "per_process_memory_fraction leaves it"
                out.append(
                    f"Later the program holds {format_bytes(self.bound_bytes)} at once, "
                    f"{over} more than {why}."
                )
        least = self.smallest
        if least is not None and room is not None:
            line = f"The smallest GPU that works under this line has {format_bytes(least.bytes)}"
            if not least.proven:
                line += ", found by bisection"
            if least.sure_bytes > least.bytes:
                line += f"; of larger ones some fail, from {format_bytes(least.sure_bytes)} on all "
                line += "that were tried work"
            out.append(f"{line}.")
        return out

    def _limit_is_why(self, wanted: int) -> bool:
        """What was wanted is on the device, but the line leaves the process less."""
        return (
            self.device_bytes is not None and (self.room_bytes or 0) < wanted <= self.device_bytes
        )


def explain_moment(
    program: Program,
    places: Places,
    under: Terms,
    moment: Moment,
    smallest: Smallest | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Explanation:
    """Explain a moment.

    Args:
        program: the recorded program.
        places: of its allocations.
        under: what it is replayed under.
        moment: of that replay.
        smallest: the smallest device that it runs on, if that is known.
        advance: called after every replay.
    """
    segments = segments_of(moment.layout, under.settings.large_segment_size)
    units = units_of(segments)
    want, room = moment.want, moment.room
    pins = pins_of(units, places.__getitem__, places.freed)
    asked = sum(b.asked for s in segments for b in s.blocks if not b.is_free)
    reserved = sum(s.size for s in segments)
    kind: Verdict = "waste"
    if want is not None and room is not None and moment.kind == "failed":
        kind = "fragmentation"
        is_there = room - reserved >= want.segment_bytes
        if asked + want.bytes > room:
            kind = "limit" if moment.met_limit else "exhaustion"
        elif moment.note:
            found = max(free_in(segments, want.lane), default=0)
            kind = "unexplained" if is_there or found >= want.block_bytes else kind
        elif is_there:
            kind = "reservation"
    gpu = under.gpu
    device_bytes = None if gpu.capacity_bytes is None else gpu.capacity_bytes - gpu.other_bytes
    bound = under.play(program, Device()).stats["requested_bytes.all.peak"]
    trial = Trial(program, places, under, moment, advance)
    changes: list[Change] = []
    # A failure that no replay shows is gone whatever is changed: nothing can be tried on it.
    if kind in ("fragmentation", "waste") and moment.kind != "asked" and not moment.note:
        changes = trial.frees(segments) + trial.own_pools(pins) + trial.flush()
        changes += trial.first_block(bound)
    return Explanation(
        kind=kind,
        moment=moment.kind,
        entry=moment.entry,
        want=want,
        room_bytes=room,
        met_limit=moment.met_limit,
        reserved_bytes=reserved,
        reached_bytes=moment.reached,
        peak_reserved_bytes=moment.peak,
        asked_bytes=asked,
        bound_bytes=bound,
        smallest=smallest,
        device_bytes=device_bytes,
        shares=shares_of(segments, want.lane if want else None, room),
        holders=holders_of(segments, places.__getitem__, places.freed),
        pins=pins,
        changes=changes,
        segments=segments,
        note=moment.note,
    )

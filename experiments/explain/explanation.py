"""The explanation of a moment: verdict, where memory is, who pins it, what would have helped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ...sim.device import Device
from ...traces.program import Program
from ...traces.units import format_bytes
from ..screen import rounded
from .moment import Moment, Terms, Want
from .pins import Holder, Pin, holders_of, pins_of
from .places import Places
from .standing import Segment, Share, segments_of, shares_of, units_of
from .tried import Change, Trial

Verdict = Literal["exhaustion", "limit", "fragmentation", "reservation", "waste"]


@dataclass(frozen=True)
class Explanation:
    """Why memory ran out, or where it is at a moment; simulated.

    Attributes:
        kind: "exhaustion" = what the program holds and wants is more than there is; "limit" = more
            than the least that a limit of the process, which is not recorded, can have been;
            "fragmentation" = it is not, but no free piece will do; "reservation" = there is memory,
            but not in the address range that was reserved for it; "waste" = nothing failed.
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
        smallest_bytes: least memory on which the program runs under this line; None = not asked,
            or it runs on none.
        sure_bytes: from here on it runs on every size tried.
        device_bytes: memory of the device that others do not use; None = without end.
        shares: where all the memory is.
        holders: who holds memory, most first.
        pins: who pins free memory, most first.
        changes: what would have helped; each was replayed.
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
    smallest_bytes: int | None
    sure_bytes: int | None
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
            said = f"{self._idle} of {format_bytes(self.reserved_bytes)} reserved are not in use"
            if self.moment == "end":
                return f"AT THE END: {said} (as recorded)"
            name = "MOST IS IN USE " if self.moment == "peak" else ""
            return f"{name}{when}: {said} (simulated)"
        size = format_bytes(want.bytes)
        if self.kind == "limit":
            return (
                f"A LIMIT WAS MET {when}: the program holds {format_bytes(self.asked_bytes)} and "
                f"asks for {size} more; of its limit nothing is known but that it was "
                f"{format_bytes(self.room_bytes or 0)} or more"
            )
        if self.kind == "exhaustion":
            over = self.asked_bytes + want.bytes - (self.room_bytes or 0)
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
        if self.moment == "grew":
            near = "TO" if self.reached_bytes == self.peak_reserved_bytes else "NEAR"
            return (
                f"GREW {near} ITS PEAK {when}: {size} were wanted and {self._idle} of "
                f"{format_bytes(self.reserved_bytes)} reserved were not in use, but "
                f"{self._largest} (simulated)"
            )
        room = self.room_bytes or 0
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
    def _largest(self) -> str:
        """The largest piece that is free where the request looks."""
        assert self.want is not None
        lane = self.want.lane
        here = [b.size for s in self.segments if s.lane == lane for b in s.blocks if b.is_free]
        if not here:
            return "nothing is free where it looks"
        return f"the largest free piece where it looks has {format_bytes(max(here))}"

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
        least, sure = self.smallest_bytes, self.sure_bytes
        if least is not None and sure is not None and room is not None:
            line = f"The smallest GPU that works under this line has {format_bytes(least)}"
            if sure > least:
                line += f"; of larger ones some fail, from {format_bytes(sure)} on all that were "
                line += "tried work"
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
    smallest: int | None = None,
    sure: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Explanation:
    """Explain a moment.

    Args:
        program: the recorded program.
        places: of its allocations.
        under: what it is replayed under.
        moment: of that replay.
        smallest: least memory on which it runs, if that is known.
        sure: from here on it runs on every size tried, if that is known.
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
        if asked + want.bytes > room:
            kind = "limit" if moment.met_limit else "exhaustion"
        elif room - reserved >= want.segment_bytes:
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
        smallest_bytes=smallest,
        sure_bytes=sure,
        device_bytes=device_bytes,
        shares=shares_of(segments, want.lane if want else None, room),
        holders=holders_of(segments, places.__getitem__, places.freed),
        pins=pins,
        changes=changes,
        segments=segments,
        note=moment.note,
    )

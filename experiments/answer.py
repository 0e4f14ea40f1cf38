"""What tune found, and how it says so in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from ..sim.device import Device
from ..sim.release import Release
from ..traces.recording import Finding
from ..traces.units import format_bytes
from .outcome import Outcome
from .recommend import WORTH


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One line's result, worst case over the subjects; simulated.

    Attributes:
        conf: the settings line.
        peak_reserved_bytes: greatest over the subjects, on a device that never runs out.
        each_peak_bytes: the same of each.
        waste: greatest share of the peak that was not asked for.
        min_capacity_bytes: smallest device on which every subject runs without OOM; None = none.
        min_capacity_proven: no smaller one is large enough; every size was tried.
        sure_capacity_bytes: from here on every subject runs on every size tried: between the
            smallest and the peak some may fail.
        device_allocs, device_frees, alloc_retries: sums over the subjects.
        fits: no subject runs out of memory on the device asked about.
        first_oom_event: recorded entry at which the first of them does; None = none.
        smallest_retries: requests that gave all cached memory back on that smallest device; each
            waits for the GPU. None = not asked.
    """

    conf: str
    peak_reserved_bytes: int
    each_peak_bytes: tuple[int, ...]
    waste: float
    min_capacity_bytes: int | None = None
    min_capacity_proven: bool = False
    sure_capacity_bytes: int | None = None
    device_allocs: int
    device_frees: int
    alloc_retries: int
    fits: bool
    first_oom_event: int | None
    smallest_retries: int | None


@dataclass(frozen=True, kw_only=True)
class ShownFirst(Shown):
    """The default's result where every program allocates and frees one block before all else.

    Attributes:
        bytes: the block.
        streams: of each program the index of the stream that it is allocated on.
        statement: the block as a line of Python.
    """

    bytes: int
    streams: tuple[int, ...]
    statement: str


@dataclass(frozen=True)
class TraceResult:
    """One recording's share of the answer."""

    trace: str
    device: int
    bound_bytes: int
    default: Outcome
    best: Outcome

    @property
    def name(self) -> str:
        return PurePath(self.trace).name


@dataclass(frozen=True)
class Answer:
    """What tune found.

    Attributes:
        smallest: what counts is the smallest device that a line runs on, not its peak.
        default, recorded, best: results; recorded is None if it equals the default.
        expandable: `expandable_segments:True` alone; None where the release refuses it.
        carried: parts of the recorded line that move no device memory and that `best` lacks.
        unrestricted: the best line without regard to --without; None without that option.
        first_block: no line, but one block first; None for a long trace, for a program of which
            memory was live before recording began, and where it saves too little.
        bound_bytes: peak live bytes, which no allocator can go below.
        candidates, behaviours: lines tried, and how many of them differ in effect.
        recorded_peak_bytes: what the recording itself reached, where a warm start makes it differ.
        recorded_fails_at: entry at which that runs out of memory on the device asked about, as it
            lies there; None = it does not, or none began warm.
    """

    smallest: bool
    gpu: Device
    rules: Release
    rules_words: str
    default: Shown
    recorded: Shown | None
    expandable: Shown | None
    best: Shown
    carried: tuple[str, ...]
    unrestricted: Shown | None
    first_block: ShownFirst | None
    without: tuple[str, ...]
    bound_bytes: int
    candidates: int
    behaviours: int
    per_trace: list[TraceResult]
    findings: list[Finding]
    recorded_peak_bytes: int
    recorded_fails_at: int | None
    interrupted: bool

    @property
    def fails(self) -> bool:
        """Not even the best line fits the device asked about."""
        return not self.best.fits

    @property
    def export(self) -> str:
        """The best line as a user should set it."""
        return ",".join([*([self.best.conf] if self.best.conf else []), *self.carried])

    @property
    def helps(self) -> bool:
        """The best line is not simply the default."""
        return self.best.conf != ""

    def needed(self, shown: Shown) -> int:
        """What counts of a line: the smallest device, its others left out, or the peak.

        Of several recordings the peak of the one that the default wastes most on, relatively: what
        lines are ranked by.
        """
        if self.smallest and shown.min_capacity_bytes is not None:
            return shown.min_capacity_bytes - self.gpu.other_bytes
        return shown.each_peak_bytes[self._judged]

    @property
    def _judged(self) -> int:
        wastes = [t.default.peak_reserved_bytes / max(1, t.bound_bytes) for t in self.per_trace]
        return wastes.index(max(wastes))

    @property
    def saved_bytes(self) -> int:
        return self.needed(self.default) - self.needed(self.best)

    @property
    def verdict(self) -> str:
        room = self.gpu.capacity_bytes
        size = format_bytes(room) if room else ""
        first = self.first_block
        if self.fails:
            if first is not None and first.fits:
                return (
                    f"DOES NOT FIT on {size} under any setting; with one block allocated and freed "
                    "first it does (simulated)"
                )
            return f"DOES NOT FIT on {size}: no setting helps (simulated)"
        if room and not self.default.fits:
            return f"FITS on {size} with {self.best.conf}; the default does not (simulated)"
        little = self.saved_bytes <= WORTH * self.needed(self.default)
        if room and self.helps and (little or self._is_crowded):
            had, has = self.default.alloc_retries, self.best.alloc_retries
            if has < had:
                how = f"gives its cache back {_times(has)}" if has else "gives no cache back"
                return f"{self.best.conf} {how} on {size}, the default {_times(had)} (simulated)"
        if not self.helps and first is not None:
            saved = self.needed(self.default) - self.needed(first)
            if saved > WORTH * self.needed(self.default):
                share = saved / self.needed(self.default)
                return (
                    "NO SETTING HELPS; one block allocated and freed first saves "
                    f"{format_bytes(saved)}, {share:.1%}{self._where} (simulated)"
                )
        if not self.helps:
            return "NO SETTING HELPS: the default is as good as any line tried (simulated)"
        share = self.saved_bytes / max(1, self.needed(self.default))
        least = self.best.min_capacity_bytes
        if self.smallest and least is not None:
            return (
                f"{self.best.conf} runs on {format_bytes(least)}, "
                f"{format_bytes(self.saved_bytes)} or {share:.1%} less than the default (simulated)"
            )
        saved = format_bytes(self.saved_bytes)
        return f"{self.best.conf} saves {saved}, {share:.1%}{self._where} (simulated)"

    @property
    def _where(self) -> str:
        """What a saving is stated for: of several recordings the one, and on which GPU."""
        ample = " on a GPU with room for it" if self._is_crowded else ""
        if len(self.per_trace) < 2:
            return ample
        return f"{ample} on {self.per_trace[self._judged].name}, which the default wastes most on"

    @property
    def _is_crowded(self) -> bool:
        """The default's peak, that of a GPU with room for it, is more than was asked about has."""
        room = self.gpu.capacity_bytes
        return room is not None and self.needed(self.default) > room - self.gpu.other_bytes

    @property
    def what(self) -> str:
        """What counts, in words."""
        return "the smallest GPU" if self.smallest else "the peak"

    @property
    def words(self) -> list[str]:
        """Why, in plain sentences."""
        held = self.bound_bytes if self.smallest else self.per_trace[self._judged].bound_bytes
        waste = self.needed(self.default) - held
        out = []
        if self.fails and self.gpu.capacity_bytes is not None:
            room = self.gpu.capacity_bytes - self.gpu.other_bytes
            if self.bound_bytes > room:
                out.append(
                    f"True exhaustion: the program itself holds {format_bytes(self.bound_bytes)} "
                    f"at once, {format_bytes(self.bound_bytes - room)} more than there is."
                )
            else:
                works = self._least_words()
                out.append(
                    f"Fragmentation: the program holds {format_bytes(self.bound_bytes)} at once, "
                    "which would fit, but under every line tried live blocks stand in the way"
                    f"{works}."
                )
        elif not self.helps and waste <= WORTH * self.needed(self.default):
            out.append(
                f"Of {self.what} of {format_bytes(self.needed(self.default))} only "
                f"{format_bytes(waste)} is waste, and no setting can go below what is live."
            )
        elif not self.helps:
            out.append(
                f"{format_bytes(waste)} of {self.what} is waste, but no line "
                f"{'allowed' if self.without else 'tried'} saves more than {WORTH:.0%} of it all."
            )
        elif self.saved_bytes > 0:
            left = self.needed(self.best) - held
            it = "On a GPU with room for it, it" if self._is_crowded else "It"
            out.append(
                f"{it} saves {format_bytes(self.saved_bytes)} of the {format_bytes(waste)} that "
                f"the default wastes; {format_bytes(left)} of waste remain."
            )
        if self.carried and self.helps and not self.fails:
            verb = "move" if len(self.carried) > 1 else "moves"
            out.append(
                f"{' and '.join(self.carried)}, recorded with the program, {verb} no device memory "
                "and can stay in the line."
            )
        retries = self.best.smallest_retries
        if self.smallest and retries and not self.fails:
            out.append(
                f"On so little memory it gives its cache back {_times(retries)}, and waits for the "
                "GPU."
            )
        bisected = [s for _, s in self.rows() if s.min_capacity_bytes and not s.min_capacity_proven]
        if bisected:
            lines = " and ".join(s.conf or "the default" for s in bisected)
            out.append(
                f"The smallest GPU under {lines} is bisected: not every smaller size was tried."
            )
        least, sure = self.best.min_capacity_bytes, self.best.sure_capacity_bytes
        if least is not None and sure is not None and sure > least and not self.fails:
            out.append(
                f"More is not always enough: of the sizes tried above {format_bytes(least)} some "
                f"fail; from {format_bytes(sure)} on all run."
            )
        shown = [shown for _, shown in self.rows()]
        if self.gpu.capacity_bytes is not None and any(
            s.alloc_retries or not s.fits for s in shown
        ):
            out.append(
                "Peaks and waste are those on a GPU with room for them; driver calls, retries and "
                f"what fits are those on {format_bytes(self.gpu.capacity_bytes)}."
            )
        if len(self.per_trace) > 1:
            out.append("Each column shows the worst of the recordings; calls and retries are sums.")
            peaks = [
                (t.name, t.default.peak_reserved_bytes, t.best.peak_reserved_bytes)
                for t in self.per_trace
            ]
            grown = [
                f"{name} (by {format_bytes(now - was)})"
                for name, was, now in peaks
                if now > (1 + WORTH) * was
            ]
            if grown:
                out.append(f"It reserves more than the default on {', '.join(grown)}.")
        if self.recorded and self.recorded.conf == self.best.conf and not self.fails:
            out.append("The recorded program ran with this line already: keep it.")
        if self.unrestricted and self.unrestricted.conf != self.best.conf:
            out.append(
                f"Without {', '.join(self.without)} you give up "
                + format_bytes(self.needed(self.best) - self.needed(self.unrestricted))
                + f" against {self.unrestricted.conf or 'the default'}."
            )
        if self.interrupted:
            out.append(
                "Interrupted: the best of the lines tried until then. "
                "The same command goes on from here."
            )
        return out

    def _least_words(self) -> str:
        """Which of the lines shown runs on least, where none runs on what there is."""
        able = [s for _, s in self.rows() if s.min_capacity_bytes is not None]
        if not able:
            return ""
        least = min(able, key=lambda s: s.min_capacity_bytes or 0)
        size = format_bytes(least.min_capacity_bytes or 0)
        seek = "" if self.smallest else "; --smallest seeks the line that runs on least"
        return f"; of those shown {least.conf or 'the default'} runs on least, {size}{seek}"

    def rows(self) -> list[tuple[str, Shown]]:
        """The lines of the table, each with its role; equal lines once."""
        named = [
            ("default", self.default),
            ("recorded", self.recorded),
            ("expandable", self.expandable),
            ("best", self.best),
            ("unrestricted", self.unrestricted),
        ]
        out: dict[str, tuple[str, Shown]] = {}
        for role, shown in named:
            if shown is None:
                continue
            if shown.conf in out:
                out[shown.conf] = (f"{out[shown.conf][0]}, {role}", shown)
            else:
                out[shown.conf] = (role, shown)
        return list(out.values())

    def document(self) -> dict[str, Any]:
        """The answer as `--json` prints it."""
        return {
            "simulated": True,
            "verdict": self.verdict,
            "words": self.words,
            "torch": self.rules.name,
            "torch_found": self.rules_words,
            "capacity_bytes": self.gpu.capacity_bytes,
            "smallest": self.smallest,
            "other_bytes": self.gpu.other_bytes,
            "default": self.default,
            "recorded": self.recorded or self.default,
            "expandable": self.expandable,
            "best": {**asdict(self.best), "without": list(self.without)},
            "export": self.export,
            "unrestricted": self.unrestricted,
            "first_block": self.first_block,
            "bound_bytes": self.bound_bytes,
            "candidates": self.candidates,
            "behaviours": self.behaviours,
            "interrupted": self.interrupted,
            "traces": self.per_trace,
            "recorded_peak_bytes": self.recorded_peak_bytes or None,
            "recorded_fails_at": self.recorded_fails_at,
            "findings": self.findings,
        }


def _times(n: int) -> str:
    """How often, in words."""
    return {1: "once", 2: "twice"}.get(n, f"{n:,} times")

"""Tuning: enumerate, search, choose, and say in plain words what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..policies.native import replay_native
from ..sim.device import Device
from ..sim.release import Release
from ..sim.settings import Settings
from ..sim.settings_line import format_settings, parse_settings
from ..traces.recording import Finding
from ..traces.units import format_bytes
from .candidates import finite_lines, forbidden_keys
from .measure import Bench
from .outcome import Outcome
from .recommend import WORTH, Line, rank, recommend
from .screen import progress
from .search import search
from .subject import Subject, find_release
from .worth import FIRST

EXPANDABLE = "expandable_segments:True"
MOST_EVENTS = 4_000_000_000  # events replayed at most while enumerating; about two minutes


@dataclass(frozen=True)
class Shown:
    """One line's result, worst case over the subjects; simulated.

    Attributes:
        conf: the settings line.
        peak_reserved_bytes: greatest over the subjects, on a device that never runs out.
        waste: greatest share of the peak that was not asked for.
        min_capacity_bytes: smallest device on which every subject runs without OOM.
        device_allocs, device_frees, alloc_retries: sums over the subjects.
        fits: no subject runs out of memory on the device asked about.
        first_oom_event: recorded entry at which the first of them does; None = none.
    """

    conf: str
    peak_reserved_bytes: int
    waste: float
    min_capacity_bytes: int
    device_allocs: int
    device_frees: int
    alloc_retries: int
    fits: bool
    first_oom_event: int | None


@dataclass(frozen=True)
class TraceResult:
    """One recording's share of the answer."""

    trace: str
    device: int
    bound_bytes: int
    default: Outcome
    best: Outcome


@dataclass(frozen=True)
class Answer:
    """What tune found.

    Attributes:
        default, recorded, best: results; recorded is None if it equals the default.
        expandable: `expandable_segments:True` alone; None where the release refuses it.
        unrestricted: the best line without regard to --without; None without that option.
        bound_bytes: peak live bytes, which no allocator can go below.
        candidates, behaviours: lines tried, and how many of them differ in effect.
        recorded_peak_bytes: what the recording itself reached, where a warm start makes it differ.
    """

    gpu: Device
    rules: Release
    rules_words: str
    default: Shown
    recorded: Shown | None
    expandable: Shown | None
    best: Shown
    unrestricted: Shown | None
    without: tuple[str, ...]
    bound_bytes: int
    candidates: int
    behaviours: int
    per_trace: list[TraceResult]
    findings: list[Finding]
    recorded_peak_bytes: int
    interrupted: bool

    @property
    def fails(self) -> bool:
        """Not even the best line fits the device asked about."""
        return not self.best.fits

    @property
    def helps(self) -> bool:
        """The best line is not simply the default."""
        return self.best.conf != ""

    @property
    def saved_bytes(self) -> int:
        return self.default.peak_reserved_bytes - self.best.peak_reserved_bytes

    @property
    def verdict(self) -> str:
        room = self.gpu.capacity_bytes
        size = format_bytes(room) if room else ""
        if self.fails:
            return f"DOES NOT FIT on {size}: no setting helps (simulated)"
        if room and not self.default.fits:
            return f"FITS on {size} with {self.best.conf}; the default does not (simulated)"
        if not self.helps:
            return "NO SETTING HELPS: the default is as good as any line tried (simulated)"
        share = self.saved_bytes / max(1, self.default.peak_reserved_bytes)
        return f"{self.best.conf} saves {format_bytes(self.saved_bytes)}, {share:.1%} (simulated)"

    @property
    def words(self) -> list[str]:
        """Why, in plain sentences."""
        waste = self.default.peak_reserved_bytes - self.bound_bytes
        out = []
        if self.fails and self.gpu.capacity_bytes is not None:
            room = self.gpu.capacity_bytes - self.gpu.other_bytes
            if self.bound_bytes > room:
                out.append(
                    f"True exhaustion: the program itself holds {format_bytes(self.bound_bytes)} "
                    f"at once, {format_bytes(self.bound_bytes - room)} more than there is."
                )
            else:
                out.append(
                    f"Fragmentation: the program holds {format_bytes(self.bound_bytes)} at once, "
                    "which would fit, but under every line tried live blocks stand in the way; "
                    f"the smallest GPU that works is {format_bytes(self.best.min_capacity_bytes)}."
                )
        elif not self.helps and waste <= WORTH * self.default.peak_reserved_bytes:
            out.append(
                f"Of the peak of {format_bytes(self.default.peak_reserved_bytes)} only "
                f"{format_bytes(waste)} is waste, and no setting can go below what is live."
            )
        elif not self.helps:
            out.append(
                f"{format_bytes(waste)} of the peak is waste, but no line tried saves more than "
                f"{WORTH:.0%} of it all."
            )
        elif self.saved_bytes > 0:
            left = self.best.peak_reserved_bytes - self.bound_bytes
            out.append(
                f"It saves {format_bytes(self.saved_bytes)} of the {format_bytes(waste)} that the "
                f"default wastes; {format_bytes(left)} of waste remain."
            )
        if self.recorded and self.recorded.conf == self.best.conf and not self.fails:
            out.append("The recorded program ran with this line already: keep it.")
        if self.unrestricted and self.unrestricted.conf != self.best.conf:
            out.append(
                f"Without {', '.join(self.without)} you give up "
                + format_bytes(
                    self.best.peak_reserved_bytes - self.unrestricted.peak_reserved_bytes
                )
                + f" against {self.unrestricted.conf or 'the default'}."
            )
        if self.interrupted:
            out.append(
                "Interrupted: the best of the lines tried until then. "
                "The same command goes on from here."
            )
        return out

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
            "other_bytes": self.gpu.other_bytes,
            "default": self.default,
            "recorded": self.recorded or self.default,
            "expandable": self.expandable,
            "best": {**asdict(self.best), "without": list(self.without)},
            "unrestricted": self.unrestricted,
            "bound_bytes": self.bound_bytes,
            "candidates": self.candidates,
            "behaviours": self.behaviours,
            "interrupted": self.interrupted,
            "traces": self.per_trace,
            "findings": self.findings,
        }


def find_line(
    subjects: Sequence[Subject],
    gpu: Device,
    torch: str | None,
    without: Sequence[str],
    trials: int,
) -> Answer:
    """Search the settings of a release for one line that suits all subjects.

    Args:
        subjects: the programs.
        gpu: the device to fit on; without a capacity, the lowest peak is sought.
        torch: the release; None = the one that reproduces the recordings best.
        without: keys the recommended line must not use.
        trials: lines that Optuna proposes.

    Raises:
        ConfigError: the release or a key is unknown.
    """
    fit = find_release(list(subjects), torch)
    rules = fit.rules
    forbidden = forbidden_keys(without, rules)
    bench = Bench(subjects, rules, gpu)
    default = Settings()
    recorded, findings = subjects[0].recorded_settings(rules)
    lines = [default, recorded, *_enumerated(bench, rules, gpu, forbidden)]
    if "expandable_segments" not in forbidden:
        lines.append(parse_settings(EXPANDABLE, rules))
    unrestricted = list(_enumerated(bench, rules, gpu, frozenset())) if forbidden else []
    interrupted = False
    try:
        with progress(len(lines) + len(unrestricted) + trials, "replaying lines") as advance:
            shown = [default, recorded, parse_settings(EXPANDABLE, rules)]
            usable = [s for s in lines if not _uses(format_settings(s, rules), forbidden)]
            bench.measure_all([*lines, *unrestricted], advance, shown, usable)
            if trials:
                lines += _searched(bench, rules, forbidden, trials, lines, advance)
    except KeyboardInterrupt:
        interrupted = True
    bench.keep(interrupted)
    known = _lines(bench, lines, rules)
    allowed = [x for x in known if not _uses(x.conf, forbidden)]
    chosen = recommend(allowed)
    free = recommend(_lines(bench, [*lines, *unrestricted], rules)) if forbidden else None
    outcomes = {s.conf: bench.measure(s.settings) for s in (_line(bench, default, rules), chosen)}

    def show(settings: Settings, conf: str) -> Shown:
        return _shown(bench, settings, conf)

    expandable = None
    if not (interrupted and bench.effect(parse_settings(EXPANDABLE, rules)) not in bench.seen):
        expandable = show(parse_settings(EXPANDABLE, rules), EXPANDABLE)
    return Answer(
        gpu=gpu,
        rules=rules,
        rules_words=fit.words,
        default=show(default, ""),
        recorded=show(recorded, recorded.conf) if recorded.conf else None,
        expandable=expandable,
        best=show(chosen.settings, chosen.conf),
        unrestricted=show(free.settings, free.conf) if free else None,
        without=tuple(without),
        bound_bytes=max(o.peak_requested_bytes for o in outcomes[""]),
        candidates=bench.lines,
        behaviours=len(bench.asked),
        per_trace=[
            TraceResult(s.name, s.device, d.peak_requested_bytes, d, b)
            for s, d, b in zip(subjects, outcomes[""], outcomes[chosen.conf], strict=True)
        ],
        findings=[*findings, *(f for s in subjects for f in s.program.findings)],
        recorded_peak_bytes=_recorded_peak(subjects, rules),
        interrupted=interrupted,
    )


def _recorded_peak(subjects: Sequence[Subject], rules: Release) -> int:
    """Peak reserved bytes from the recorded start on; 0 where no recording began warm."""
    peaks = [
        replay_native(s.kept, s.recorded_settings(rules)[0], rules).stats["reserved_bytes.all.peak"]
        for s in subjects
        if s.is_warm
    ]
    return max(peaks, default=0)


def _enumerated(
    bench: Bench, rules: Release, gpu: Device, forbidden: frozenset[str]
) -> list[Settings]:
    """The finite lines that behave differently, as many as the patience of a user allows."""
    different = bench.distinct(finite_lines(bench.subjects, rules, gpu, forbidden))
    events = sum(s.program.n_ops for s in bench.subjects)
    return different[: max(64, MOST_EVENTS // max(1, events))]


def _searched(
    bench: Bench,
    rules: Release,
    forbidden: frozenset[str],
    trials: int,
    lines: Sequence[Settings],
    advance: Any,
) -> list[Settings]:
    known = [x for x in _lines(bench, lines, rules) if not _uses(x.conf, forbidden)]
    first = sorted(known, key=lambda x: x.rank.key)[:FIRST]

    def judge(settings: Settings) -> float:
        r = rank(bench.measure(settings))
        return r.failures * 1000.0 + r.retries * 10.0 + r.worst

    return search(
        bench.subjects, rules, forbidden, judge, trials, [x.settings for x in first], advance
    )


def _uses(conf: str, forbidden: frozenset[str]) -> bool:
    return any(f"{key}:" in conf for key in forbidden)


def _line(bench: Bench, settings: Settings, rules: Release) -> Line:
    return Line(format_settings(settings, rules), settings, rank(bench.measure(settings)))


def _lines(bench: Bench, lines: Sequence[Settings], rules: Release) -> list[Line]:
    """The measured ones of some lines, each written in its shortest form."""
    out: dict[str, Line] = {}
    for settings in lines:
        outcomes = bench.seen.get(bench.effect(settings))
        if outcomes is not None:
            conf = format_settings(settings, rules)
            out.setdefault(conf, Line(conf, settings, rank(outcomes)))
    return list(out.values())


def _shown(bench: Bench, settings: Settings, conf: str) -> Shown:
    outcomes = bench.measure(settings)
    failed = [o.first_oom_event for o in outcomes if o.ooms]
    return Shown(
        conf=conf,
        peak_reserved_bytes=max(o.peak_reserved_bytes for o in outcomes),
        waste=max(1 - o.peak_requested_bytes / max(1, o.peak_reserved_bytes) for o in outcomes),
        min_capacity_bytes=max(bench.min_capacity(s, settings) for s in bench.subjects),
        device_allocs=sum(o.device_allocs for o in outcomes),
        device_frees=sum(o.device_frees for o in outcomes),
        alloc_retries=sum(o.alloc_retries for o in outcomes),
        fits=not failed,
        first_oom_event=failed[0] if failed else None,
    )

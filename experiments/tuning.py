"""Tuning: enumerate, search and choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..sim.device import Device
from ..sim.release import Release
from ..sim.settings import Settings
from ..sim.settings_line import format_settings, parse_settings, parts_that_move_nothing
from ..traces.recording import Finding
from .answer import Answer, Shown, TraceResult
from .candidates import finite_lines, forbidden_keys
from .measure import Bench
from .recommend import WORTH, Line, rank, recommend
from .recorded_start import recorded_failure, recorded_peak
from .release_fit import find_release
from .screen import progress
from .search import search
from .share_out import share_out
from .smallest import with_smallest
from .subject import Subject
from .tune_first_block import tune_first_block
from .worth import FIRST

EXPANDABLE = "expandable_segments:True"
NEVER = 1e18  # how a line is judged that the program's own settings calls refuse
MOST_EVENTS = 4_000_000_000  # events replayed at most while enumerating; about two minutes


def find_line(
    subjects: Sequence[Subject],
    gpu: Device,
    torch: str | None,
    without: Sequence[str],
    trials: int,
    smallest: bool = False,
) -> Answer:
    """Search the settings of a release for one line that suits all subjects.

    Args:
        subjects: the programs.
        gpu: the device to fit on.
        torch: the release; None = the one that reproduces the recordings best.
        without: keys the recommended line must not use.
        trials: lines that Optuna proposes.
        smallest: seek the line that runs on the smallest device, not the one that reserves least
            on one that has the memory.

    Raises:
        ConfigError: the release or a key is unknown.
    """
    fit = find_release(list(subjects), torch)
    rules = fit.rules
    forbidden = forbidden_keys(without, rules)
    bench = Bench(subjects, rules, gpu, smallest)
    default = Settings()
    recorded, findings = _recorded(subjects, rules)
    expandable = parse_settings(EXPANDABLE, rules)
    expands = bench.admits(expandable)
    lines = [default, recorded, *_enumerated(bench, rules, gpu, forbidden)]
    if "expandable_segments" not in forbidden and expands:
        lines.append(expandable)
    unrestricted = list(_enumerated(bench, rules, gpu, frozenset())) if forbidden else []
    interrupted = False
    try:
        with progress(len(lines) + len(unrestricted) + trials, "replaying lines") as advance:
            shown = [default, recorded, *([expandable] if expands else [])]
            usable = [s for s in lines if not _uses(format_settings(s, rules), forbidden)]
            bench.measure_all([*lines, *unrestricted], advance, shown, usable)
            if trials:
                lines += _searched(bench, rules, forbidden, trials, lines, advance)
    except KeyboardInterrupt:
        interrupted = True
    if bench.effect(default) not in bench.seen:
        raise KeyboardInterrupt  # so early that there is nothing to compare with
    bench.keep(interrupted)
    known = _lines(bench, lines, rules)
    allowed = [x for x in known if not _uses(x.conf, forbidden)]
    chosen = recommend(allowed)
    same = bench.effect(chosen.settings) == bench.effect(recorded)
    if same and chosen.conf and recorded.conf and not _uses(recorded.conf, forbidden):
        chosen = Line(recorded.conf, recorded, chosen.rank)  # with its keys that move no memory
    free = recommend(_lines(bench, [*lines, *unrestricted], rules)) if forbidden else None
    named = {"": default, recorded.conf: recorded, chosen.conf: chosen.settings}
    if free is not None:
        named[free.conf] = free.settings
    if expands and (not interrupted or bench.effect(expandable) in bench.seen):
        named[EXPANDABLE] = expandable
    shown = _shown(bench, named)
    if smallest and not _worth_it(shown[""], shown[chosen.conf], gpu):
        chosen = _line(bench, default, rules)
    outcomes = {conf: bench.measure(named[conf]) for conf in ("", chosen.conf)}
    first_block = None
    if not interrupted:
        try:
            first_block = tune_first_block(subjects, rules, gpu, outcomes[""])
        except KeyboardInterrupt:
            interrupted = True
    return Answer(
        smallest=smallest,
        gpu=gpu,
        rules=rules,
        rules_words=fit.words,
        default=shown[""],
        recorded=shown[recorded.conf] if recorded.conf else None,
        expandable=shown.get(EXPANDABLE),
        best=shown[chosen.conf],
        carried=_carried(subjects, chosen.conf, forbidden),
        unrestricted=shown[free.conf] if free else None,
        first_block=first_block,
        without=tuple(without),
        bound_bytes=max(o.peak_requested_bytes for o in outcomes[""]),
        candidates=len(bench.tried),
        behaviours=len(bench.asked),
        per_trace=[
            TraceResult(s.name, s.device, d.peak_requested_bytes, d, b)
            for s, d, b in zip(subjects, outcomes[""], outcomes[chosen.conf], strict=True)
        ],
        findings=list(
            dict.fromkeys([*findings, *(f for s in subjects for f in s.program.findings)])
        ),
        recorded_peak_bytes=recorded_peak(subjects, rules),
        recorded_fails_at=recorded_failure(subjects, rules, gpu),
        interrupted=interrupted,
    )


def _recorded(subjects: Sequence[Subject], rules: Release) -> tuple[Settings, Sequence[Finding]]:
    """The line that all recordings were made under; the default if they differ."""
    every = [s.recorded_settings(rules) for s in subjects]
    findings = list(dict.fromkeys(f for _, found in every for f in found))
    if len({settings for settings, _ in every}) > 1:
        findings.append(Finding("settings", len(every), "made under different settings lines"))
        return Settings(), findings
    return every[0][0], findings


def _carried(subjects: Sequence[Subject], conf: str, forbidden: frozenset[str]) -> tuple[str, ...]:
    """What all recordings were made under, moves no device memory, and is not in a line yet."""
    parts = [parts_that_move_nothing(s.conf) for s in subjects]
    there = parts_that_move_nothing(conf)
    kept = [p for p in dict.fromkeys(parts[0]) if all(p in others for others in parts)]
    return tuple(p for p in kept if p not in there and not _uses(p, forbidden))


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
        if not bench.admits(settings):
            return NEVER
        r = rank(bench.measure(settings))
        return r.failures * 1000.0 + r.retries * 10.0 + r.worst

    proposed = search(
        bench.subjects, rules, forbidden, judge, trials, [x.settings for x in first], advance
    )
    return list(filter(bench.admits, proposed))


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


def _worth_it(default: Shown, best: Shown, gpu: Device) -> bool:
    """Lines are ranked by bisection: once all sizes were tried, the best may save nothing."""
    was, now = default.min_capacity_bytes, best.min_capacity_bytes
    if was is None or now is None or (best.fits and not default.fits):
        return True
    return was - now > WORTH * (was - gpu.other_bytes)


def _shown(bench: Bench, named: Mapping[str, Settings]) -> dict[str, Shown]:
    """What is shown of some lines, on all cores."""
    shown: dict[str, Shown] = {}

    with progress(len(named), "the smallest GPU of each line shown") as advance:

        def show(conf: str) -> None:
            shown[conf] = _shown_of(bench, named[conf], conf)
            advance()

        share_out(show, named)
    return shown


def _shown_of(bench: Bench, settings: Settings, conf: str) -> Shown:
    outcomes = bench.measure(settings)
    failed = [o.first_oom_event for o in outcomes if o.ooms]
    least = bench.smallest_device(settings)
    shown = Shown(
        conf=conf,
        peak_reserved_bytes=max(o.peak_reserved_bytes for o in outcomes),
        each_peak_bytes=tuple(o.peak_reserved_bytes for o in outcomes),
        waste=max(1 - o.peak_requested_bytes / max(1, o.peak_reserved_bytes) for o in outcomes),
        device_allocs=sum(o.device_allocs for o in outcomes),
        device_frees=sum(o.device_frees for o in outcomes),
        alloc_retries=sum(o.alloc_retries for o in outcomes),
        fits=not failed,
        first_oom_event=failed[0] if failed else None,
        smallest_retries=None if least is None else bench.retries_on(least.bytes, settings),
    )
    return with_smallest(shown, least)

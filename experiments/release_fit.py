"""The release whose rules a recording follows: the one asked for, or the one that fits best."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..policies.native import conditions_of, replay_native
from ..sim.device import Device
from ..sim.packing import pack
from ..sim.release import KNOWN, Release, release
from ..sim.settings import Settings
from ..traces.errors import PolicyError
from ..traces.lost_frees import settle_lost_frees
from ..traces.program import Program
from ..traces.recording import Finding
from ..traces.settings_calls import SWITCHES, without_settings_calls
from ..traces.switches import MOST_SWITCHES, find_switches, narrow_switches, switching
from .exactness import LOST, Exactness, compare_with_recording
from .recorded_by import recorded_by
from .subject import Subject

SAID = re.compile(r"expandable_segments\s*:\s*(True|False)")
MOST_REPLAYS = 200  # while switches of expandable segments are narrowed down
NARROWING_EVENTS = 100_000_000  # events replayed at most for it


@dataclass(frozen=True)
class Fit:
    """The release whose rules a recording follows.

    Attributes:
        rules: the release.
        words: how it was found, ready to print.
        exactness: how well its rules reproduce the recording, for each device of which anything
            was recorded that can be compared.
    """

    rules: Release
    words: str
    exactness: list[Exactness]


def find_release(subjects: list[Subject], asked: str | None) -> Fit:
    """Return the release asked for, or the one whose rules reproduce the recordings best.

    A recording does not name its release. Each rule about ties between free blocks stands for the
    newest release that has it and could have written the file; of equals the newest wins.
    """
    for subject in subjects:
        if not subject.program.settings_calls:
            _note_switches(subject)
    if asked is None and not any(s.shows_driver for s in subjects):
        rules = release(KNOWN[-1])
        return Fit(rules, f"torch {rules.name}: the newest known; the recording names none", [])
    if asked is not None:
        rules = release(asked)
        _settle(subjects, rules)
        return Fit(rules, f"torch {rules.name}, as asked", _exactness(subjects, rules))
    tried: list[tuple[int, Release, list[Exactness]]] = []
    for rules in _candidates(subjects):
        found = _exactness(subjects, rules)
        missed = _missed(found)
        tried.append((missed, rules, found))
        if missed == 0:
            break
    missed, rules, found = min(tried, key=lambda t: t[0])
    if missed and _settle(subjects, rules):
        found = _exactness(subjects, rules)
        missed = _missed(found)
    alike = "no release tried reproduces all of it" if missed else "its rules reproduce everything"
    if all(e.is_empty for e in found):
        alike = "the newest that can have written it; nothing recorded tells more"
    return Fit(rules, f"torch {rules.name}: {alike}", found)


def _missed(found: list[Exactness]) -> int:
    """How much of what was recorded is not reproduced."""
    missed = sum(e.allocs - e.allocs_exact + e.segments - e.segments_exact for e in found)
    return missed + sum(not e.final_blocks_exact for e in found)


def _settle(subjects: list[Subject], rules: Release) -> bool:
    """Let replays show when something happened that was not recorded; True if it helped.

    That is: blocks were freed, or expandable segments switched.
    """
    helped = False
    for subject in subjects:
        kinds = {f.kind for f in subject.program.findings}
        if not subject.shows_driver or kinds.isdisjoint((*LOST, SWITCHES)):
            continue
        settings, _ = subject.recorded_settings(rules)

        def addresses(program: Program, settings: Settings = settings) -> np.ndarray:
            return replay_native(
                pack(program), settings, rules, stop_at_oom=False, recorded_driver=True, events=True
            ).addr

        def differs_at(program: Program, settings: Settings = settings) -> int | None:
            return compare_with_recording(pack(program), settings, rules).differs_at

        if SWITCHES in kinds:
            helped |= _note_switches(subject, differs_at)
        if not kinds.isdisjoint(LOST):
            settled = settle_lost_frees(subject.program, addresses)
            helped |= settled is not subject.program
            subject.use(settled)
    return helped


def _note_switches(
    subject: Subject, differs_at: Callable[[Program], int | None] | None = None
) -> bool:
    """Let a program begin and go on as the recording shows of expandable segments.

    Args:
        subject: whose program may get settings calls.
        differs_at: as for `narrow_switches`; None = they stand as late as they can have been made.

    Returns:
        Whether it got any.
    """
    conf, settings = subject.recording.conf, subject.recording.settings
    said = SAID.findall(conf)
    are_on = bool(said) and said[-1] == "True"
    on_at_end = settings.get("expandable_segments", are_on)
    is_known = not settings.keys().isdisjoint(("expandable_segments", "PYTORCH_CUDA_ALLOC_CONF"))
    program = without_settings_calls(subject.program)
    first, switches = find_switches(program, bool(on_at_end) if is_known else None)
    others = ",".join(part for part in conf.split(",") if not SAID.search(part))

    def line(on: bool) -> str:  # names the key: a line set later leaves it alone otherwise
        if said and on == are_on:
            return conf
        return ",".join(filter(None, (others, f"expandable_segments:{on}")))

    if first is None or len(switches) > MOST_SWITCHES:
        return False
    if subject.begun_under is None and first != are_on:
        subject.begun_under = line(True) if first else others
        if not switches:
            state = "on" if first else "off"
            text = f"expandable segments were {state}, as memory taken from the driver shows"
            note = Finding("expandable", 1, text, program.device)
            subject.use(replace(program, findings=[*program.findings, note]))
    if not switches:
        return False
    if differs_at is not None:
        replays = min(MOST_REPLAYS, NARROWING_EVENTS // max(1, program.n_ops))
        switches = narrow_switches(program, switches, line, differs_at, replays)
    subject.use(switching(program, switches, line))
    return True


def _candidates(subjects: list[Subject]) -> list[Release]:
    """One release per tie-break, newest first, within what the files' keys allow."""
    bounds = [recorded_by(s.recording) for s in subjects if s.shows_driver]
    oldest = [release(b.oldest).version for b in bounds if b.oldest in KNOWN]
    newest = [release(b.newest).version for b in bounds if b.newest in KNOWN]
    chosen: dict[str, Release] = {}
    for text in reversed(KNOWN):
        rules = release(text)
        within = all(rules.version >= v for v in oldest) and all(rules.version <= v for v in newest)
        if within and all(_accepts(rules, s) for s in subjects):
            chosen.setdefault(rules.tie_break, rules)
    return list(chosen.values()) or [release(KNOWN[-1])]


def _accepts(rules: Release, subject: Subject) -> bool:
    """Whether a release accepts the lines that the program sets while it runs."""
    try:
        conditions_of(subject.kept, subject.recorded_settings(rules)[0], rules, Device())
    except PolicyError:
        return False
    return True


def _exactness(subjects: list[Subject], rules: Release) -> list[Exactness]:
    return [
        compare_with_recording(s.kept, s.recorded_settings(rules)[0], rules)
        for s in subjects
        if s.shows_driver
    ]

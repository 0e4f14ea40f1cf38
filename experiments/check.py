"""`tightfit check`: does the simulator reproduce this recording, and what does that mean?"""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from .options import MAIN_PATH_SECONDS, AsJson, RecordedConf, Then, Torch, TraceOrLong

if TYPE_CHECKING:
    from ..traces.recording import Finding
    from .exactness import Exactness
    from .subject import Subject


def check(
    trace: TraceOrLong,
    conf: RecordedConf = None,
    then: Then = None,
    torch: Torch = None,
    as_json: AsJson = False,
) -> None:
    """Replay as recorded and compare every address."""
    from ..traces.load import check_there
    from .asked_calls import make_calls, parse_then, then_words
    from .asked_device import torch_words
    from .release_fit import find_release
    from .screen import announce_compiling, emit_json, note, say, suggest, table, verdict
    from .subject import load_subjects

    calls = parse_then(then or [])
    check_there(trace)
    announce_compiling(MAIN_PATH_SECONDS)
    subjects = load_subjects(trace)
    make_calls(subjects, calls)
    for subject in subjects:
        subject.begun_under = conf
    fit = find_release(subjects, torch)
    exact = all(e.is_exact for e in fit.exactness)
    complete = all(e.complete for e in fit.exactness)
    settings = subjects[0].recorded_settings(fit.rules)[0].conf
    refused = [f for s in subjects for f in s.recorded_settings(fit.rules)[1]]
    findings = [*refused, *(f for s in subjects for f in s.program.findings)]
    compared = not all(e.is_empty for e in fit.exactness)
    ours = _own_replay(subjects)
    if not fit.exactness:
        line = "NOTHING TO CHECK: requests and frees were recorded, not what the allocator did"
    elif not compared:
        line = "NOTHING TO CHECK: a state was recorded, and no allocation that led to it"
    elif exact and complete:
        line = "EXACT: the simulator reproduces this recording to the byte"
    elif exact:
        line = "EXACT where it can be known: every recorded address is reproduced"
    else:
        line = _not_exact(fit.exactness)
    if as_json:
        devices = [asdict(e) for e in fit.exactness]
        emit_json(
            {
                "verdict": line,
                "compared": compared,
                "torch": fit.rules.name,
                "torch_found": fit.words,
                "conf": settings,
                "devices": devices,
                "findings": ours + findings,
            }
        )
    else:
        next_one = f"tightfit tune {shlex.quote(str(trace))}{then_words(then or [])}"
        next_one += torch_words(torch)
        verdict(line)
        if not compared:
            note(ours)
            _show_nothing(subjects, next_one)
            return
        columns = ["device", "allocations", "exact", "driver calls", "exact", "final state"]
        rows = [
            [
                str(e.device),
                e.allocs,
                e.allocs_exact,
                e.segments,
                e.segments_exact,
                "identical" if e.final_blocks_exact else "differs",
            ]
            for e in fit.exactness
        ]
        table("", columns, rows)
        say(f"rules: {fit.words}")
        say(f"settings: {settings or '(default)'}")
        for e in fit.exactness:
            if e.divergence:
                say(f"device {e.device}, first difference: {e.divergence}")
        say(f"What it means: {ours[0].text if ours else _what_it_means(exact, complete)}.")
        note(findings)
        suggest(next_one)
    if not exact:
        raise typer.Exit(1)


def _not_exact(found: list[Exactness]) -> str:
    """The verdict where something differs; never "100 %" of what is not all."""
    known, exact = sum(e.allocs for e in found), sum(e.allocs_exact for e in found)
    if exact < known:
        share = (10_000 * exact // known) / 100
        return f"NOT EXACT: {share:.2f}% of the recorded addresses are reproduced"
    calls = any(e.segments != e.segments_exact or e.segments_extra for e in found)
    what = "calls of the driver differ" if calls else "the final state differs"
    return f"NOT EXACT: every recorded address is reproduced, but {what}"


def _show_nothing(subjects: list[Subject], then: str) -> None:
    from .screen import note, say, suggest

    say(
        "What it means: replays of this program follow the allocator's rules, but whether the "
        "recorded run did what they say cannot be known. A memory snapshot with a history would "
        "tell."
    )
    note([f for s in subjects for f in s.program.findings])
    suggest(then)


def _own_replay(subjects: list[Subject]) -> list[Finding]:
    """Say so where the simulator is compared with itself."""
    from ..traces.recording import Finding
    from .recorded_by import recorded_by

    if not subjects or not recorded_by(subjects[0].recording).simulated:
        return []
    text = (
        "tightfit's own replay wrote this file, not PyTorch, so how well the simulator reproduces "
        "it proves nothing about PyTorch's allocator"
    )
    return [Finding("own_replay", 1, text)]


def _what_it_means(exact: bool, complete: bool) -> str:
    if exact and complete:
        return (
            "the allocator's decisions are fully known here, so a replay under other settings is "
            "exact for this program; only what the program itself would do differently is not in it"
        )
    if exact:
        return (
            "the decisions are reproduced, but part of the history had to be inferred (see the "
            "notes); predictions under other settings are exact for the part recorded"
        )
    return (
        "from the first difference on the replay is a different run of the same program; take "
        "predictions as estimates, and try --torch with the release that recorded"
    )

"""`tightfit tune`: the settings line that would have fitted."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import (
    MAIN_PATH_SECONDS,
    AsJson,
    Capacity,
    DeviceIndex,
    DriverCosts,
    Other,
    Then,
    Torch,
)

if TYPE_CHECKING:
    from .answer import Answer
    from .tune_policy import PolicyAnswer

TRIALS = 64


def tune(
    traces: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACE...",
            help="Recordings to find one line for, NAME.events too; the worst case counts first.",
            show_default=False,
        ),
    ],
    capacity: Capacity = None,
    other: Other = None,
    torch: Torch = None,
    device: DeviceIndex = None,
    without: Annotated[
        list[str] | None,
        typer.Option(
            "--without",
            metavar="KEY",
            help="A key that must not be used, e.g. expandable_segments; may be repeated.",
            show_default=False,
        ),
    ] = None,
    then: Then = None,
    trials: Annotated[
        int,
        typer.Option(
            "--trials", min=0, help="Lines Optuna proposes after the finite ones were all tried."
        ),
    ] = TRIALS,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            metavar="NAME",
            help="Tune the parameters of this policy instead, e.g. best_fit or my_fit.py:MyFit.",
            show_default=False,
        ),
    ] = None,
    smallest: Annotated[
        bool,
        typer.Option(
            "--smallest",
            help="Find what runs on the smallest GPU, not what reserves least on a GPU that has "
            "the memory.",
        ),
    ] = False,
    driver_costs: DriverCosts = None,
    as_json: AsJson = False,
) -> None:
    """Find the PYTORCH_CUDA_ALLOC_CONF line that fits best."""
    from ..traces.errors import ConfigError
    from ..traces.load import check_there
    from .asked_calls import make_calls, parse_then, then_words
    from .asked_device import device_words, parse_device
    from .line_notes import notes_on_releases
    from .out_of_memory import advice_on_capacity
    from .release_fit import find_release
    from .screen import BESIDE_PLAIN, announce_compiling, emit_json, progress
    from .subject import load_subjects
    from .tuning import find_line

    gpu = parse_device(capacity, other)
    if policy is not None and without:
        raise ConfigError("--without: names a key of the settings line, which --policy has none of")
    if policy is None and driver_costs is not None:
        raise ConfigError("--driver-costs: only --policy has a column of time")
    calls = parse_then(then or [])
    if calls and (len(traces) > 1 or policy is not None):
        other_one = "--policy" if policy is not None else f"{len(traces)} recordings"
        raise ConfigError(f"--then: found {other_one}, expected one recording and no --policy")
    check_there(*traces)
    if policy is not None:
        _check_policy(policy, traces)
    announce_compiling(MAIN_PATH_SECONDS, BESIDE_PLAIN)
    subjects = [s for path in traces for s in load_subjects(path, device)]
    make_calls(subjects, calls)
    if policy is not None:
        from ..sim.costs import costs_words, read_costs
        from .tune_policy import tune_policy

        costs = None if driver_costs is None else read_costs(driver_costs)
        costs_from = costs_words() if costs is None else costs_words(costs, str(driver_costs))
        rules = find_release(subjects, torch).rules
        with progress(trials + 1, "trying values") as advance:
            found = tune_policy(subjects, policy, gpu, rules, trials, advance, costs, smallest)
        if gpu.capacity_bytes is None:
            found = replace(found, findings=[*found.findings, *advice_on_capacity(subjects)])
        if as_json:
            emit_json({**found.document(), "driver_costs": costs_from})
        else:
            paths = " ".join(shlex.quote(str(t)) for t in traces)
            _show_policy(found, paths, costs_from, device_words(gpu, device))
        if not found.fits:
            raise typer.Exit(1)
        return
    answer = find_line(subjects, gpu, torch, without or [], trials, smallest)
    if gpu.capacity_bytes is None:
        answer = replace(answer, findings=[*answer.findings, *advice_on_capacity(subjects)])
    if torch is None:
        needs = notes_on_releases(answer.best.conf, [s.recording for s in subjects])
        answer = replace(answer, findings=[*answer.findings, *needs])
    if as_json:
        emit_json(answer.document())
    else:
        _show(answer, traces, torch, then_words(then or []), device)
    if answer.fails:
        raise typer.Exit(1)


def _check_policy(policy: str, traces: Sequence[Path]) -> None:
    """Refuse a policy that cannot be tuned on recordings, before those are read.

    Raises:
        PolicyError: there is no such policy.
        ConfigError: it is told of the whole program beforehand, and one is a long trace.
    """
    from ..policies.named import find_policy
    from .subject import refuse_long

    label, found = find_policy(policy)
    for path in traces if found.honours.knows else ():
        refuse_long(path, f"--policy {label}")


def _show_policy(answer: PolicyAnswer, paths: str, costs_from: str, asked: str) -> None:
    from .screen import Column, note, say, suggest, table, verdict

    verdict(answer.verdict)
    columns: list[str | Column] = [
        "",
        "policy",
        Column("peak reserved", "bytes"),
        Column("above bound", "%"),
        "driver calls",
        Column("driver time", "ms"),
    ]
    smallest = answer.best.min_capacity_bytes is not None
    if smallest:
        columns.insert(4, Column("smallest GPU", "bytes"))
    bound: list[str | int | float | None] = ["bound", "peak live bytes", answer.bound_bytes]
    rows = [bound + [None] * (len(columns) - len(bound))]
    named = (("best", answer.best), ("default", answer.default), ("baseline", answer.baseline))
    for role, t in named:
        time = 1e3 * t.driver_seconds
        peak: str | int = "OOM" if t.peak_reserved_bytes is None else t.peak_reserved_bytes
        least = [t.min_capacity_bytes] if smallest else []
        rows.append(
            [role, _folded(t.policy, 36), peak, t.above_bound, *least, t.driver_calls, time]
        )
    table("", columns, rows)
    say(
        f"{answer.tried:,} different values tried" + (", interrupted" if answer.interrupted else "")
    )
    say(f"driver time: simulated; costs {costs_from}")
    note(answer.findings)
    suggest(f"tightfit compare {paths} --policy {shlex.quote(answer.best.policy)}{asked}")


def _folded(conf: str, width: int = 32) -> str:
    """Break a line after its commas, in brackets too, where it is too long for a table."""
    lines = [""]
    for part in re.findall(r"[^,]+,?", conf):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part if lines[-1] else part.lstrip()
    return "\n".join(lines)


def _show(
    answer: Answer, traces: Sequence[Path], torch: str | None, calls: str, device: int | None
) -> None:
    from ..traces.units import format_bytes
    from .asked_device import device_words
    from .screen import Column, note, say, suggest, table, verdict

    verdict(answer.verdict)
    columns: list[str | Column] = [
        "",
        "settings",
        Column("peak reserved", "bytes"),
        Column("wasted", "%"),
        "driver calls",
        Column("smallest GPU", "bytes"),
    ]
    if answer.smallest:
        columns += ["retries there"]
    if answer.gpu.capacity_bytes is not None:
        columns += ["retries", "fits"]
    rows: list[list[str | int | float | None]] = []
    first = answer.first_block
    named = [(role, shown, _folded(shown.conf) or "(default)") for role, shown in answer.rows()]
    if first is not None:
        named.append(("first block", first, f"{format_bytes(first.bytes)} freed,\nthen (default)"))
    for role, shown, line in named:
        row: list[str | int | float | None] = [
            _folded(role, 18),
            line,
            shown.peak_reserved_bytes,
            shown.waste,
            shown.device_allocs + shown.device_frees,
            shown.min_capacity_bytes,
        ]
        if answer.smallest:
            row.append(shown.smallest_retries)
        if answer.gpu.capacity_bytes is not None:
            at = shown.first_oom_event
            row += [shown.alloc_retries, "yes" if shown.fits else f"OOM at\n{at:,}"]
        rows.append(row)
    bound: list[str | int | float | None] = ["bound", "peak live bytes", answer.bound_bytes, 0.0]
    rows.append(bound + [None] * (len(columns) - len(bound)))
    table("", columns, rows)
    if len(answer.per_trace) > 1:
        columns = ["recording", "device", Column("default", "bytes"), Column("best", "bytes")]
        rows = [
            [Path(t.trace).name, str(t.device), t.default.peak_reserved_bytes,
             t.best.peak_reserved_bytes]
            for t in answer.per_trace
        ]  # fmt: skip
        if first is not None:
            columns.append(Column("first block", "bytes"))
            rows = [[*row, peak] for row, peak in zip(rows, first.each_peak_bytes, strict=True)]
        table("each recording", columns, rows)
    say(f"{answer.behaviours:,} lines tried that behave differently here")
    say(f"rules: {answer.rules_words}")
    for line in answer.words:
        say(line)
    if answer.best.conf and not answer.fails:
        print(f"export PYTORCH_CUDA_ALLOC_CONF={shlex.quote(answer.export)}")
    if first is not None and first.fits:
        say(
            "First block: no line, but one statement before the program allocates anything else"
            + (", on each of the GPUs recorded" if len(answer.per_trace) > 1 else "")
            + (", on the stream that holds most" if any(first.streams) else "")
            + "; this size was replayed, others may save less:"
        )
        print(first.statement)
        say(
            "If the program calls empty_cache() while all of it is free, it is gone; recordings do "
            "not show calls that released nothing."
        )
    note(answer.findings)
    recorded = answer.recorded_peak_bytes
    if recorded:
        room, failed, but = answer.gpu.capacity_bytes, answer.recorded_fails_at, ""
        if room is not None and failed is not None:
            but = f", and run out of memory on {format_bytes(room)} at entry {failed:,}; see replay"
        say(
            "Memory that was live before recording began is placed anew under every line. Where it "
            f"was recorded, the recorded settings reach {format_bytes(recorded)}{but}."
        )
    # The recording that fails, or that needs most: one that fits says nothing of the others.
    worst = max(answer.per_trace, key=lambda t: (t.best.ooms > 0, t.best.peak_reserved_bytes))
    path = shlex.quote(worst.trace)
    command = "explain" if answer.fails else "replay"
    gpu = answer.gpu
    if answer.smallest and not answer.fails:
        gpu = replace(gpu, capacity_bytes=answer.best.min_capacity_bytes)
    rules = f" --torch {answer.rules.name}" if torch or len(traces) > 1 else ""
    line = shlex.quote(answer.best.conf)
    suggest(f"tightfit {command} {path} --conf {line}{calls}{device_words(gpu, device)}{rules}")

"""`tightfit compare`: allocation policies side by side, and the bound none can pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import MAIN_PATH_SECONDS, AsJson, Capacity, DeviceIndex, DriverCosts, Other, Torch

POLICY_SECONDS = 2  # what compiling one policy took
# Columns (row_columns.py) of what is printed, and of what is written for papers.
SHOWN = (
    "peak_reserved", "above_bound", "smallest_gpu", "peak_allocated", "driver_calls", "driver_time",
)  # fmt: skip
WRITTEN = (
    "peak_reserved", "above_bound", "smallest_gpu", "driver_calls", "driver_time", "retries",
)  # fmt: skip

if TYPE_CHECKING:
    from ..sim.device import Device
    from .comparison import TraceRows


def compare(
    traces: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACE...",
            help="Recordings to compare on, NAME.events too.",
            show_default=False,
        ),
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="NAME",
            help="A policy, e.g. best_fit:quantum=4096, pytorch:LINE or my_fit.py:MyFit; may be "
            "repeated (default: all of them; see tightfit policy list).",
            show_default=False,
        ),
    ] = None,
    capacity: Capacity = None,
    other: Other = None,
    torch: Torch = None,
    device: DeviceIndex = None,
    packing: Annotated[
        float,
        typer.Option(
            "--packing",
            metavar="SECONDS",
            min=0.0,
            help="Time to search for an offline packing of each recording; 0 = none.",
        ),
    ] = 2.0,
    smallest: Annotated[
        bool,
        typer.Option(
            "--smallest",
            help="Find the smallest GPU each policy runs on, too: a dozen replays more for each.",
        ),
    ] = False,
    driver_costs: DriverCosts = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all rows as one CSV table.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX tables.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare allocation policies on the same recordings."""
    from ..policies.contender import names
    from ..sim.costs import costs_words, read_costs
    from ..traces.errors import ConfigError
    from ..traces.load import check_there
    from ..traces.units import format_bytes
    from .asked_device import parse_device
    from .comparison import (
        compare_all,
        contenders,
        notes_on_mismatches,
        notes_on_recordings,
        without_foresight,
    )
    from .formats import comma_separated, latex, markdown
    from .out_of_memory import advice_on_capacity
    from .release_fit import find_release
    from .row_columns import chosen as columns_of
    from .screen import BESIDE_PLAIN, announce_compiling, emit_json, note, progress
    from .subject import load_subjects

    if as_markdown + as_csv + as_latex + as_json > 1:
        raise ConfigError("--markdown, --csv, --latex and --json: choose one of them")
    gpu = parse_device(capacity, other)
    costs = None if driver_costs is None else read_costs(driver_costs)
    costs_from = costs_words() if costs is None else costs_words(costs, str(driver_costs))
    check_there(*traces)
    announce_compiling(MAIN_PATH_SECONDS + POLICY_SECONDS * len(policy or names()), BESIDE_PLAIN)
    subjects = [s for path in traces for s in load_subjects(path, device)]
    fit = find_release(subjects, torch)
    chosen = contenders(policy or [], fit.rules)
    left_out = []
    if any(s.kept.source is not None for s in subjects):
        chosen, left_out = without_foresight(chosen, asked=bool(policy))
        packing = 0.0
    steps = (len(chosen) + (packing > 0)) * len(subjects)
    with progress(steps, "comparing") as advance:
        compared = compare_all(subjects, chosen, gpu, advance, packing, costs, smallest)
    findings = [*left_out, *notes_on_recordings(subjects, fit.rules, gpu)]
    room = gpu.capacity_bytes
    if room is None:
        findings += advice_on_capacity(subjects)
    setting = f"torch {fit.rules.name} · " + (format_bytes(room) if room else "unlimited memory")
    setting += f", {format_bytes(gpu.other_bytes)} of it others'" if gpu.other_bytes else ""
    setting += f" · driver time: simulated, costs {costs_from}"
    if as_json:
        emit_json(
            {
                "simulated": True,
                "torch": fit.rules.name,
                "capacity_bytes": gpu.capacity_bytes,
                "other_bytes": gpu.other_bytes,
                "driver_costs": costs_from,
                "torch_found": fit.words,
                "verdict": _verdict(compared, gpu),
                "traces": compared,
                "findings": findings,
            }
        )
    elif as_csv:
        print(comma_separated(compared), end="")
    elif as_markdown or as_latex:
        columns = columns_of(WRITTEN, smallest)
        form = markdown if as_markdown else latex
        print(form(compared, setting, columns, [f.text for f in left_out]), end="")
    else:
        _show(compared, gpu, fit.words, costs_from, smallest)
        note([*notes_on_mismatches(compared), *findings])
    if all(t.best is None for t in compared):
        raise typer.Exit(1)


def _show(
    compared: list[TraceRows], gpu: Device, rules: str, costs_from: str, smallest: bool
) -> None:
    from .row_columns import chosen, shown_cells
    from .screen import Column, say, table, verdict

    verdict(_verdict(compared, gpu))
    limited = gpu.capacity_bytes is not None
    shown = chosen((*SHOWN, "retries") if limited else SHOWN, smallest)
    # One unit for all tables and all columns of bytes: they are there to be compared.
    values = [c.of(r, t.rows) for t in compared for r in t.rows for c in shown if c.unit == "bytes"]
    largest = max((int(v) for v in values if v is not None), default=0)
    columns: list[str | Column] = ["", "policy"]
    columns += [Column(c.heading, c.unit, largest if c.unit == "bytes" else None) for c in shown]
    if limited:
        columns.append("fits")
    for trace in compared:
        rows: list[list[str | int | float | None]] = []
        for r in trace.rows:
            row: list[str | int | float | None] = ["" if r.role == "policy" else r.role, r.policy]
            row += shown_cells(r, trace.rows, shown)
            if limited:
                fits = f"OOM at {r.first_oom_event:,}" if r.ooms else "yes"
                row.append("" if r.role in ("bound", "offline") else fits)
            rows.append(row)
        table(f"{Path(trace.trace).name}, device {trace.device}", columns, rows)
    say(f"rules of pytorch: {rules}")
    say(f"driver time: simulated; costs {costs_from}")


def _verdict(compared: list[TraceRows], gpu: Device) -> str:
    """The answer in one sentence."""
    from collections import Counter

    from ..traces.units import format_bytes
    from .screen import rounded

    room = "" if gpu.capacity_bytes is None else f" on {format_bytes(gpu.capacity_bytes)}"
    best = [t.best for t in compared]
    if all(b is None for b in best):
        return f"NO POLICY FITS{room} (simulated)"
    if len(compared) > 1:
        name, n = Counter(b.policy for b in best if b is not None).most_common(1)[0]
        return f"{name} reserves least on {n} of {len(compared)} recordings{room} (simulated)"
    least, base = best[0], compared[0].baseline
    assert least is not None and least.peak_reserved_bytes is not None
    words = f"{least.policy} reserves least{room}: {format_bytes(least.peak_reserved_bytes)}"
    if base.peak_reserved_bytes is None:
        return f"{words}; {base.policy} runs out of memory (simulated)"
    if least.role == "baseline":
        size = format_bytes(least.peak_reserved_bytes)
        told = [r.peak_reserved_bytes for r in compared[0].rows if r.role == "told" and not r.ooms]
        who = "no policy"
        if any(peak is not None and peak < least.peak_reserved_bytes for peak in told):
            who += " that is told nothing beforehand"
        return f"{who} reserves less than {base.policy}{room}: {size} (simulated)"
    saved = 1 - least.peak_reserved_bytes / base.peak_reserved_bytes
    return f"{words}, {rounded(100 * saved, 1)}% less than {base.policy} (simulated)"

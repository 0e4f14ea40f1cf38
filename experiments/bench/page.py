"""docs/performance.md: the measurements as tables, with what they were taken on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .cases import LEAST_TIMES
from .command import HEAD, TEXTS, cell, cells_of
from .targets import expandable_costs, growth_plot, targets_of
from .timing import Speed

MiB = 1 << 20

_HEAD = """# Performance

Written by `tightfit bench --write docs/performance.md`; no number here was typed.

{processor}, {cores} cores, {versions}; {date}. A pattern has {events:,} ops or a little more,
a recording half of that and at least {times} repetitions, the traces that grow half of that too.
Figures are medians of {runs} runs, the simulators in turn in one process, and in every run the
simulators must agree on what was reserved. {texts}
"""

# Ratios hold on any machine; seconds need to be told how fast one is.
_AIMS = """Aims in seconds were set on a machine where PyTorch's own allocator took 230 to 300 ns an
event; here it takes {here:.0f} on the pattern train.
"""


# What a pattern costs more is in part its own: other blocks are cut and joined there.
_DEAREST = """Expandable segments cost most on {name}: {ours:.2f} times as much;
{others}.
"""

_GROWTH = """\
The steps of std::set, a balanced tree, grow with the logarithm, which here is a straight line.
What either costs beyond it is mostly memory that no cache holds
(`decisions/0010-what-an-event-waits-for.md` counts instructions).
"""


def _dearest(patterns: dict[str, Speed]) -> list[str]:
    """What expandable segments cost others on the pattern where they cost most here."""
    costs = expandable_costs(patterns, "tightfit_ns")
    worst = max(costs, key=lambda n: costs[n])
    others = [
        f"{who} {cost[worst]:.2f} times"
        for who, key in (("std::set", "cpp_set_ns"), ("PyTorch's own allocator", "pytorch_ns"))
        for cost in [expandable_costs(patterns, key)]
        if worst in cost
    ]
    if not others:
        return []
    return [_DEAREST.format(name=worst, ours=costs[worst], others=", ".join(others))]


def page_of(report: dict[str, Any]) -> str:
    """Return the page for a report of `measure_all`."""
    texts = " ".join(f"*{name}*: {text}." for name, text in TEXTS.items())
    machine = report["machine"]
    parts = [
        _HEAD.format(
            **machine, events=report["events"], runs=report["runs"], times=LEAST_TIMES, texts=texts
        )
    ]
    parts.append(
        _table(
            "What was aimed at",
            ["what", "aim", "reached", ""],
            [
                [what, aim, reached, "yes" if is_met else "**no**"]
                for what, aim, reached, is_met in targets_of(report)
            ],
        )
    )
    of_pytorch = report["patterns"]["train"].pytorch_ns
    if of_pytorch is not None:
        parts.append(_AIMS.format(here=of_pytorch))
    parts += _dearest(report["patterns"])
    for title, kind in (("Synthetic patterns", "patterns"), ("Recordings, tiled", "recorded")):
        rows = [
            [name, *(cell(x, 0, d) for x, d in cells_of(speed))]
            for name, speed in report[kind].items()
        ]
        parts.append(_table(f"{title}: nanoseconds per event", HEAD, rows))
    for reason in (report["pytorch_reason"], report["cpp_set_reason"]):
        if reason:
            parts.append(reason + "\n")
    per_second = report["recorded_events_per_second"]
    parts.append(f"Recordings: {per_second / 1e6:.0f} million events/s, the geometric mean.\n")
    parts.append(
        _table(
            "Cores: every thread replays the trace",
            ["pattern", "threads", "million events/s"],
            [
                [r["pattern"], str(r["threads"]), f"{r['events_per_second'] / 1e6:.1f}"]
                for r in report["cores"]
            ],
        )
    )
    for title, key, column, first in (
        ("Live blocks: pattern random", "live_blocks", "live", "live blocks"),
        ("Free blocks: pattern pinned", "free_blocks", "free", "free blocks"),
        ("Length: pattern train", "length", "events", "events"),
    ):
        rows = [
            [
                f"{r[column]:,}",
                cell(r["tightfit_ns"], 0, 1),
                cell(r["cpp_set_ns"], 0, 1),
                *(
                    cell(r[kind] / MiB, 0, 1)
                    for kind in ("memory_bytes", "touched_bytes")
                    if kind in r
                ),
            ]
            for r in report[key]
        ]
        head = [first, "tightfit ns", "std::set ns", "memory MiB", "touched MiB"]
        parts.append(_table(title, head[: len(rows[0])], rows))
        if key != "length":
            if key == "free_blocks":
                parts.append(_GROWTH)
            plot = "\n".join(growth_plot(report[key], column))
            parts.append(f"```text\n{plot}\n```\n")
    lines, first, command = report["lines"], report["first_replay_s"], report["command_s"]
    each = lines["seconds"] / lines["lines"] * 1e3
    parts.append(
        f"""## Lines and compiling

{lines["lines"]:,} different lines on {lines["recording"]}, repeated to {lines["events"]:,} events,
took {lines["seconds"]:.2f} s on {lines["threads"]} threads: {each:.2f} ms a line; on one thread
{lines["seconds_on_one"]:.2f} s.

A first `tightfit replay` takes {command["cold"]:.1f} s, most of it for compiling the kernel, once
per machine and version; a later one {command["warm"]:.2f} s, and `tightfit --help`
{report["help_s"]:.2f} s. In one process alone a first replay takes {first["cold"]:.1f} s, a later
process's {first["warm"]:.2f} s, beside {first["import"]:.2f} s of imports.

The hooks of a policy in a user's file that decides as PyTorch does take
{report["hooks"]["ratio"]:.2f} times the time of PyTorch's own. The whole benchmark had a resident
set of at most {report["peak_memory_bytes"] / MiB:,.0f} MiB.
"""
    )
    return "\n".join(parts)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"## {title}", "", "| " + " | ".join(head) + " |"]
    lines.append("|---|" + "---:|" * (len(head) - 1))
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"

"""`tightfit bench`: nanoseconds per event, beside three other simulators of the same allocator."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..options import AsJson

if TYPE_CHECKING:
    from .timing import Speed

# The aims were set at this length, at which the processor has learnt what of a pattern it can.
EVENTS, QUICK_EVENTS = 2_000_000, 100_000
LENGTHS = (10**4, 10**5, 10**6, 10**7)
RUNS = 5
HEAD = [
    "trace", "tightfit", "skipping", "std::set", "ratio", "PyTorch", "ratio", "plain Python",
    "memory MiB",
]  # fmt: skip
TEXTS = {
    "ns per event": "a malloc or a free; processor time, median",
    "tightfit": "a whole replay, from packed program to counters, every event played",
    "skipping": "the same, but what provably repeats is played once",
    "std::set": "the same allocator on std::set<Block*>, g++ -O2: events alone",
    "PyTorch": "its compiled allocator on a stand-in for CUDA: the calls alone",
    "plain Python": "the referee, on the first 5,000 ops",
    "memory": "what a replay allocates, beside the packed program",
    "touched": "what of it the system had to provide, as the rest is never written",
}


def bench(
    events: Annotated[
        int | None,
        typer.Option(
            "--events",
            metavar="N",
            min=1000,
            help=f"Length of each pattern; recordings have half (default: {EVENTS:,}).",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help=f"Short traces of {QUICK_EVENTS:,} events, small scales."),
    ] = False,
    write: Annotated[
        Path | None,
        typer.Option(
            "--write",
            metavar="PAGE.md",
            help="Also write all tables as a Markdown page.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the cost of an event on this machine.

    Six synthetic patterns and the shipped recordings, each in turn by tightfit and by a C++
    simulator of the same allocator; then how the cost grows. Takes a quarter of an hour.
    """
    from ..outfile import check_output
    from ..screen import emit_json

    if write is not None:
        check_output(write, ".md", force=True)
    report = measure_all(events or (QUICK_EVENTS if quick else EVENTS), quick)
    if write is not None:
        from ...traces.whole_file import replacing
        from .page import page_of

        with replacing(write) as out:
            out.write(page_of(report).encode())
    if as_json:
        emit_json(report)
    else:
        _show(report)


def measure_all(n_ops: int, quick: bool) -> dict[str, Any]:
    """Everything the command reports, as JSON would have it."""
    from ..screen import progress, warn
    from .cases import RULES, n_cases, recorded, synthetic
    from .compiled import driver_reason
    from .hooks import hooks_beside_native
    from .machine import describe, peak_memory_bytes
    from .scaling import (
        by_cores,
        by_free_blocks,
        by_length,
        by_live_blocks,
        command_seconds,
        compile_seconds,
        help_seconds,
        many_lines,
    )
    from .timing import compiler_reason, measure

    missing = compiler_reason()
    for reason in filter(None, (missing, driver_reason())):
        warn(reason)
    up_to = 10**4 if quick else 10**6
    tens = tuple(10**k for k in range(2, 7) if 10**k <= up_to)
    steps = n_cases(quick) + 5
    with progress(steps, "measuring") as advance:
        compiling = compile_seconds()
        advance()
        found: dict[str, dict[str, Speed]] = {"patterns": {}, "recorded": {}}
        for kind, made in (
            ("patterns", synthetic(n_ops)),
            ("recorded", recorded(n_ops // 2, quick)),
        ):
            for case in made:
                found[kind][case.name] = measure(case, RULES, RUNS)
                advance()
        report: dict[str, Any] = {
            "machine": describe(),
            "events": n_ops,
            "runs": RUNS,
            **found,
            "pytorch_reason": driver_reason(),
            "cpp_set_reason": missing,
            "compile_s": compiling["cold"],
            "first_replay_s": compiling,
            "command_s": command_seconds(1 if quick else RUNS),
            "help_s": help_seconds(),
        }
        report["recorded_events_per_second"] = geometric_mean(
            [1e9 / s.tightfit_ns for s in found["recorded"].values()]
        )
        for name, measured in (
            ("cores", lambda: by_cores(n_ops, RUNS)),
            ("live_blocks", lambda: by_live_blocks(n_ops // 2, RUNS, tens)),
            ("free_blocks", lambda: by_free_blocks(n_ops // 2, RUNS, tens[:4])),
            ("length", lambda: by_length(RUNS, LENGTHS[:2] if quick else LENGTHS)),
        ):
            report[name] = measured()
            advance()
    report["hooks"] = hooks_beside_native(n_ops, RUNS)
    report["lines"] = many_lines(200 if quick else 4000)
    report["peak_memory_bytes"] = peak_memory_bytes()
    return report


def geometric_mean(values: list[float]) -> float:
    """The geometric mean of positive numbers."""
    from statistics import geometric_mean as mean

    return mean(values)


def _show(report: dict[str, Any]) -> None:
    from ..screen import say, table, verdict
    from .targets import targets_of

    ratios = [s.ratio for s in report["patterns"].values() if s.ratio is not None]
    words = f"{min(ratios):.1f} to {max(ratios):.1f} times as fast as std::set" if ratios else ""
    speeds = [s.tightfit_ns for s in report["patterns"].values()]
    verdict(
        f"{min(speeds):.0f} to {max(speeds):.0f} ns per event on the patterns"
        + (f", {words}" if words else "")
    )
    machine = report["machine"]
    say(f"{machine['processor']}, {machine['cores']} cores, {machine['versions']}")
    for title, kind in (("synthetic patterns", "patterns"), ("recordings, tiled", "recorded")):
        say()
        table(
            f"{title}: ns per event",
            HEAD,
            [
                [name, *(cell(x, 8, d) for x, d in cells_of(speed))]
                for name, speed in report[kind].items()
            ],
        )
    say()
    for name, text in TEXTS.items():
        say(f"{name}: {text}")
    for reason in (report["pytorch_reason"], report["cpp_set_reason"]):
        if reason:
            say(reason)
    say()
    table(
        "what was aimed at",
        ["what", "aim", "reached", ""],
        [[what, aim, reached, "" if is_met else "NO"]
         for what, aim, reached, is_met in targets_of(report)],
    )  # fmt: skip
    say()
    lines, per_second = report["lines"], report["recorded_events_per_second"]
    command = report["command_s"]
    say(
        f"recordings: {per_second / 1e6:.0f} M events/s (geometric mean); "
        f"{lines['lines']:,} lines x {lines['events']:,} events in {lines['seconds']:.1f} s on "
        f"{lines['threads']} threads; first replay {command['cold']:.1f} s, compiling included, a "
        f"later one {command['warm']:.2f} s, --help {report['help_s']:.2f} s; "
        f"a policy's own hooks take {report['hooks']['ratio']:.2f} times PyTorch's time"
    )


def cells_of(speed: Speed) -> list[tuple[float | None, int]]:
    """The numbers of a row, with the digits they deserve."""
    return [
        (speed.tightfit_ns, 1),
        (speed.skipping_ns, 1),
        (speed.cpp_set_ns, 1),
        (speed.ratio, 1),
        (speed.pytorch_ns, 1),
        (speed.pytorch_ratio, 1),
        (speed.reference_ns, 0),
        (speed.memory_bytes / (1 << 20), 1),
    ]


def cell(number: float | None, width: int, digits: int) -> str:
    """A number as right-aligned text; a dash for none."""
    return ("–" if number is None else f"{number:,.{digits}f}").rjust(width)

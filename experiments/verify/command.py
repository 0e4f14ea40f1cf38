"""`tightfit verify`: a prediction put to PyTorch's own allocator on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import MAIN_PATH_SECONDS, AsJson, DeviceIndex, StandIn, Torch

if TYPE_CHECKING:
    from .lines import Line
    from .machine import Machine
    from .sheet import Sheet


def verify(
    trace: Annotated[
        Path | None, typer.Argument(metavar="TRACE", help="The recording.", show_default=False)
    ] = None,
    conf: Annotated[
        list[str] | None,
        typer.Option(
            "--conf",
            metavar="LINE",
            help="A line to check, several times for several ('' is the default; without this: "
            "the default, expandable segments and the line that tune names).",
            show_default=False,
        ),
    ] = None,
    stand_in: StandIn = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="For sheets and finished pieces.")
    ] = Path("verified"),
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            metavar="SECONDS",
            min=0.0,
            help="Start nothing after so many; the same command goes on from there.",
            show_default=False,
        ),
    ] = None,
    program: Annotated[
        str | None,
        typer.Option(
            "--program",
            metavar="COMMAND",
            help="Instead of a recording: run this program itself under several lines, e.g. "
            "'python train.py', and hold its peaks and step times against the prediction.",
            show_default=False,
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only choose the lines, for a machine that cannot search."),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what to run where and how to read the sheet.")
    ] = False,
    torch: Torch = None,
    device: DeviceIndex = None,
    as_json: AsJson = False,
) -> None:
    """Put a prediction to PyTorch's own allocator on a GPU.

    In four stages: V0, the release accepts the lines; V1, every event happens where predicted; V2,
    every counter is the predicted one; V2b, so is the smallest memory limit. Without a device only
    V0 is done. Exit code 1: the verdict is not "confirmed".
    """
    from ...traces.errors import ConfigError
    from ...traces.load import check_there
    from ..outfile import make_folder
    from ..screen import announce_compiling, emit_json, say, suggest, verdict, warn
    from ..subject import refuse_long
    from .check_trace import NoDevice, check_trace
    from .explain import TEXT
    from .lines import check_line, write_plan
    from .machine import find_machine
    from .pieces import Clock
    from .sheet import write_sheet

    if explain:
        print(TEXT, end="")
        return
    if program is not None:
        _verify_program(program, find_machine(stand_in, torch), out, budget, as_json)
        return
    if trace is None:
        raise ConfigError("the recording is missing: tightfit verify TRACE")
    for line in conf or ():
        check_line(line, "--conf")
    check_there(trace)
    refuse_long(trace, "verify")
    # A plan needs no machine; whoever asked for one hears what is wrong with it before the search.
    if plan and stand_in is not None:
        raise ConfigError("--stand-in: a plan is made without any device; leave it out")
    machine = find_machine(stand_in, torch)
    make_folder(out)
    announce_compiling(MAIN_PATH_SECONDS)
    lines = choose_lines(trace, conf, None if plan else plan_path(out, trace), torch)
    if plan:
        path = plan_path(out, trace)
        write_plan(path, trace, lines)
        if as_json:
            emit_json({"plan": path, "lines": lines})
            return
        verdict(f"{path}: {len(lines)} lines")
        suggest(f"tightfit verify {trace} -o {out}")
        return
    try:
        sheet = check_trace(trace, lines, machine, out / "pieces", Clock(budget), device, warn)
    except NoDevice as error:
        _check_lines_only(trace, lines, torch, str(error), as_json)
        raise typer.Exit(1) from None
    written = write_sheet(sheet, out, trace.name.removesuffix(".npz"))
    if as_json:
        emit_json({**sheet.document(), "files": written})
    else:
        verdict(sheet.headline)
        _show(sheet)
        say(f"{written[1]} says more, {written[0]} has every figure.")
    if sheet.verdict != "confirmed":
        raise typer.Exit(1)


def _check_lines_only(
    trace: Path, lines: Sequence[Line], torch: str | None, why: str, as_json: bool
) -> None:
    """V0, where there is no device; print it."""
    from ..screen import emit_json, say, suggest, table, verdict
    from .accepted import accept_lines, release_of

    found = accept_lines(lines, release_of(trace, torch))
    good = len(lines) - len(found.refused)
    headline = f"V0 ONLY: {good} of {len(lines)} lines accepted by {found.parser}"
    if as_json:
        emit_json({"verdict": "V0 only", "headline": headline, "torch": found.torch, "why": why,
                   "parser": found.parser, "lines": lines, "refused": found.refused})  # fmt: skip
        return
    verdict(headline)
    table("", ["line", "V0"],
          [[x.conf or "(default)", "refused" if x.conf in found.refused else "accepted"]
           for x in lines])  # fmt: skip
    for conf, reason in found.refused.items():
        say(f"{conf}: {reason}")
    say(f"V0 is all that was checked: {why.removeprefix('verify: ')}")
    suggest(f"tightfit verify {trace} --stand-in h100-80g", "tightfit verify --explain")


def _verify_program(
    program: str, machine: Machine, out: Path, budget: float | None, as_json: bool
) -> None:
    """Carry V3 out and print it."""
    import shlex
    from dataclasses import asdict

    from ...traces.errors import ConfigError
    from ..outfile import make_folder
    from ..screen import emit_json, say, verdict, warn
    from .pieces import Clock
    from .workload import run_workload
    from .workload_sheet import describe, write_workload

    try:
        command, found = shlex.split(program), "nothing"
    except ValueError as error:  # a quote that is not closed, a backslash with nothing behind it
        command, found = [], f"{program!r} ({error})"
    if not command:
        raise ConfigError(f"--program: found {found}, expected a command such as 'python train.py'")
    make_folder(out)
    result = run_workload(command, machine, out / "pieces", Clock(budget), tell=warn)
    written = write_workload(result, command, "program", out)
    if as_json:
        emit_json({"verdict": result.verdict, "files": written, **asdict(result)})
    else:
        first, *rest = describe(result, program)
        verdict(first)
        for text in rest:
            print(text)
        say(f"{written[1]} says more, {written[0]} has every figure.")
    if result.verdict != "confirmed":
        raise typer.Exit(1)


def choose_lines(
    trace: Path, conf: Sequence[str] | None, planned: Path | None, torch: str | None
) -> list[Line]:
    """Return the lines asked for, or planned, or found now.

    Raises:
        ConfigError: the plan is for another trace.
    """
    from .lines import Line, plan_lines, read_plan

    if conf:
        return [Line("asked" if line else "default", line) for line in dict.fromkeys(conf)]
    if planned is not None and planned.is_file():
        return read_plan(planned, trace)
    return plan_lines(trace, torch)


def plan_path(out: Path, trace: Path) -> Path:
    """Where the plan for a trace lies."""
    return out / (trace.name.removesuffix(".npz") + ".plan.json")


def _show(sheet: Sheet) -> None:
    from ..screen import Column, say, table

    table(
        "",
        [
            "line",
            "verdict",
            "V1 exact",
            "V2 exact",
            Column("peak predicted", "bytes"),
            Column("peak measured", "bytes"),
            Column("limit predicted", "bytes"),
            Column("limit measured", "bytes"),
        ],
        [
            [
                x.conf or "(default)",
                x.verdict,
                f"{x.placement.events_exact:,}/{x.placement.events:,}" if x.placement else None,
                f"{x.counters.compared - len(x.counters.wrong)}/{x.counters.compared}"
                if x.counters
                else None,
                x.predicted_peak_bytes,
                x.counters.measured["reserved_bytes.all.peak"] if x.counters else None,
                x.budget.predicted if x.budget else None,
                x.budget.measured if x.budget else None,
            ]
            for x in sheet.lines
        ],
    )
    for line in sheet.lines:
        for reason in line.reasons:
            say(f"{line.conf or '(default)'}: {reason}")

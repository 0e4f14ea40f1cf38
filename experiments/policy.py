"""`tightfit policy`: list the policies, begin one of your own, and check that it is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AsJson, Force

if TYPE_CHECKING:
    from ..policies.named import Described
    from ..sim.param import Param
    from .policy_check import Report

policy = typer.Typer(
    help="List allocation policies, write one of your own, and check it.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@policy.command("list")
def list_policies(as_json: AsJson = False) -> None:
    """List every policy: parameters, source, and what each keeps apart."""
    from ..policies.named import described
    from .screen import emit_json, say, suggest, table, verdict

    found = described()
    if as_json:
        emit_json({"policies": found})
        return
    verdict(f"{len(found)} policies; your own: tightfit policy new my_fit.py")
    table("", ["policy", "kind", "honours", "is told beforehand"], [_row(d) for d in found])
    rows: list[list[str | int | float | None]] = [
        [d.name, p.name, _value(p, p.default), f"{_value(p, p.low)} to {_value(p, p.high)}", p.doc]
        for d in found if d.kind != "preset" for p in d.params
    ]  # fmt: skip
    table("parameters", ["policy", "parameter", "default", "range", "meaning"], rows)
    say("sources")
    for d in found:
        say(f"{d.name}: {d.means}" if d.kind == "preset" else f"{d.name}: {d.source}")
    suggest("tightfit compare TRACE --policy best_fit:quantum=4096")


def _row(d: Described) -> list[str | int | float | None]:
    return [d.name, d.kind, ", ".join(d.honours) or "nothing", d.knows or "nothing"]


def _value(param: Param, value: int) -> str:
    """A parameter's value as a user writes it, with its unit."""
    unit = "" if param.unit == "bytes" else param.unit
    return f"{param.written(value)} {unit}".rstrip()


@policy.command("new")
def new(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.py", help="The file to write.", show_default=False)
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="hooks: PyTorch's allocator with other decisions; mechanism: an allocator of "
            "your own.",
        ),
    ] = "hooks",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a policy of some 30 lines, and a test of it, to start from."""
    from .policy_template import write_template
    from .screen import emit_json, suggest, verdict

    name, test = write_template(file, kind, force)
    if as_json:
        emit_json({"file": file, "policy": f"{file}:{name}", "test": test, "kind": kind})
        return
    verdict(f"{file}: a policy {name} to change; {test}: its test")
    suggest(f"tightfit policy check {file}", f"tightfit compare TRACE --policy {file}:{name}")


@policy.command("check")
def check(
    name: Annotated[
        str,
        typer.Argument(
            metavar="POLICY",
            help="my_fit.py, my_fit.py:MyFit, or a name of the catalogue.",
            show_default=False,
        ),
    ],
    operations: Annotated[
        int,
        typer.Option("--operations", min=1000, help="Random operations on blocks at the least."),
    ] = 110_000,
    as_json: AsJson = False,
) -> None:
    """Try a policy on the contract that every one must keep."""
    from .policy_check import check_policy
    from .screen import emit_json

    report = check_policy(name, operations)
    if as_json:
        emit_json(report.document())
    else:
        _show(report)
    if not report.holds:
        raise typer.Exit(1)


def _show(report: Report) -> None:
    from .screen import suggest

    show_claims(report)
    if report.holds:
        suggest(f"tightfit compare TRACE --policy {report.policy}")


def show_claims(report: Report) -> None:
    """Print what became of every claim."""
    from .screen import say, table, verdict

    verdict(report.verdict)
    rows: list[list[str | int | float | None]] = [
        [v.claim, {True: "holds", False: "BROKEN", None: "not tried"}[v.holds], v.operations,
         v.words]
        for v in report.verdicts
    ]  # fmt: skip
    table("", ["claim", "", "operations", "meaning"], rows)
    for v in report.verdicts:
        if v.fault:
            say(f"{v.claim}: {v.fault}")
    if report.compile_seconds:
        say(f"compiled in {report.compile_seconds:.1f} s; a second run finds it compiled")
    elif report.compile_seconds is not None:
        say("compiled by an earlier run")

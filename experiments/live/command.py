"""`tightfit live`: run a program under a policy, or check that one could."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..options import MAIN_PATH_SECONDS, UNITS, AsJson, CudaBuild, Force, StandIn

if TYPE_CHECKING:
    from ..policy_check import Report

NO, NOTHING = 1, 2


@dataclass(frozen=True)
class Served:
    """How a policy did on one device of one process.

    Attributes:
        process: rank, or number of the process in the order in which they ended.
        device: its number.
        name: what the driver calls it.
        capacity_bytes: what the policy was allowed to hold.
        statistics: as policies.live_device.Live.stats.
        driver: calls of the driver and their bytes, as the simulator counts them.
    """

    process: int
    device: int
    name: str
    capacity_bytes: int | None
    statistics: dict[str, int]
    driver: dict[str, int]


def live(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- PROGRAM...",
            help="The program, unchanged: python train.py ...; with --check: recordings.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            metavar="NAME",
            help="A policy that can run, e.g. best_fit:quantum=4096 or my_fit.py:MyFit (see "
            "tightfit policy list).",
            show_default=False,
        ),
    ] = None,
    capacity: Annotated[
        str | None,
        typer.Option(
            "--capacity",
            metavar="SIZE",
            help=f"What it may hold of each device, e.g. 40GiB; {UNITS} (default: 95% of what is "
            "free).",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Without a GPU: try the policy, on recordings too.")
    ] = False,
    operations: Annotated[
        int,
        typer.Option("--operations", min=1000, help="With --check: random operations of a claim."),
    ] = 110_000,
    stand_in: StandIn = None,
    torch: CudaBuild = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="OUT.json", help="Write the statistics too.", show_default=False
        ),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Run a program with a policy as PyTorch's allocator.

    The policy is installed when the program imports torch, and its statistics are printed when it
    ends; torch.cuda.memory_stats() gives them while it runs. Exit code 1: the program failed, or
    the policy did not keep its contract.
    """
    from ...traces.errors import ConfigError
    from ...traces.jit import JIT
    from ..outfile import check_output

    if not JIT:
        raise ConfigError("live: policies run as compiled code; unset NUMBA_DISABLE_JIT")
    if stand_in == "list" and not check:
        from ..recording.command import list_stand_ins

        list_stand_ins(
            as_json, "tightfit live --policy best_fit --stand-in h100-80g -- python train.py"
        )
        return
    if policy is None:
        raise ConfigError("--policy is missing: tightfit live --policy best_fit -- python train.py")
    if check:
        if stand_in or torch or capacity or out:
            raise ConfigError("--check takes recordings and --operations, no program's options")
        _check(policy, [Path(word) for word in words or []], operations, as_json)
        return
    if not words:
        raise ConfigError(
            "the program is missing: tightfit live --policy best_fit -- python train.py "
            "(or --check, to try the policy without one)"
        )
    if torch is not None and stand_in is None:
        raise ConfigError("--torch is for --stand-in; on a GPU the program's own PyTorch runs")
    if out is not None:
        check_output(out, ".json", force)
    served, failures, code = run_live(tuple(words), policy, capacity, stand_in, torch, as_json)
    document = {"policy": policy, "served": served, "failures": failures, "program_status": code}
    if out is not None:
        _write(out, document)
    if as_json:
        from ..screen import emit_json

        emit_json(document)
    else:
        _report(policy, served, failures, code)
    if not served:
        raise typer.Exit(NO if code else NOTHING)
    if code:
        raise typer.Exit(NO)


def run_live(
    command: tuple[str, ...],
    policy: str,
    capacity: str | None = None,
    stand_in: str | None = None,
    torch: str | None = None,
    quiet: bool = False,
) -> tuple[list[Served], list[str], int]:
    """Run a program under a policy.

    Args:
        command, policy, capacity, stand_in, torch: as the command's.
        quiet: whether the program's output goes to standard error.

    Returns:
        What was served, why devices could not be prepared, and the program's exit status.

    Raises:
        ConfigError: something asked for does not exist, or PyTorch is a build without CUDA.
        PolicyError: there is no such policy, or it cannot run.
        VerificationError: the CUDA build or the stand-in cannot be had.
    """
    import os
    import tempfile

    from ...policies.live import setting_of
    from ...policies.user_file import is_user_file
    from ..asked_device import parse_device
    from ..recording.launch import Plan, environment, find_python, run
    from ..screen import announce_compiling

    setting_of(policy)  # says at once what is wrong with it
    room = parse_device(capacity, None).capacity_bytes
    python = find_python(command)
    if is_user_file(policy):  # the program may change its folder before it imports torch
        policy = os.path.abspath(policy)
    announce_compiling(MAIN_PATH_SECONDS)
    with tempfile.TemporaryDirectory(prefix="tightfit-live-") as scratch:
        extra = {"TIGHTFIT_LIVE": policy, "TIGHTFIT_LIVE_FOLDER": scratch}
        if room is not None:
            extra["TIGHTFIT_LIVE_CAPACITY"] = str(room)
        hook = Path(__file__).with_name("hook.py")
        plan = Plan(command, Path(scratch), quiet=quiet, extra=extra, hook=hook)
        if stand_in is not None:
            from ..recording.on_stand_in import on_stand_in

            plan = on_stand_in(plan, stand_in, torch, python, 1)
        _check_interpreter(python, environment(plan), needs_cuda=stand_in is None)
        told: list[Path] = []
        code = run(plan, python, told.append)
        return *_read(told), code


def _check_interpreter(python: str, variables: dict[str, str], needs_cuda: bool) -> None:
    """See that the program's interpreter has this package, and a PyTorch that can use a GPU.

    Args:
        python, variables: the interpreter and its environment.
        needs_cuda: whether the program runs in the interpreter's own PyTorch.

    Raises:
        ConfigError: it has not.
    """
    import subprocess

    from ...traces.errors import ConfigError
    from ..recording.installed import installed_torch

    program = (
        "import importlib.util as u, sys; "
        "sys.exit(not all(map(u.find_spec, ('tightfit', 'numba', 'torch'))))"
    )
    without_hook = {k: v for k, v in variables.items() if k != "TIGHTFIT_LIVE"}
    if subprocess.run([python, "-c", program], env=without_hook).returncode:
        raise ConfigError(
            f"live: {python} does not import tightfit and torch; the policy runs inside the "
            "program, so both must be installed where the program runs"
        )
    own = installed_torch(python) if needs_cuda else None
    if own is not None and not own.has_cuda:
        raise ConfigError(
            f"live: torch {own.version} of {python} is a build without CUDA, expected one with; "
            "--stand-in h100-80g runs the program in one on a stand-in for a GPU, and --check "
            "tries the policy without a program"
        )


def _read(told: list[Path]) -> tuple[list[Served], list[str]]:
    import json

    served, failures = [], []
    for number, path in enumerate(told):
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        process = number if facts["rank"] is None else facts["rank"]
        failures += facts["failures"]
        for device, found in facts["devices"].items():
            served.append(Served(process, int(device), **found))
    return served, failures


def _report(policy: str, served: list[Served], failures: list[str], code: int) -> None:
    from ...traces.units import format_bytes
    from ..screen import Column, say, suggest, table, verdict

    if not served:
        verdict(f"NOTHING SERVED: the program never asked {policy} for memory")
    for found in failures:
        say(f"note: a device was not prepared: {found}")
    if served:
        most = max(s.statistics["reserved_bytes.all.peak"] for s in served)
        failed = sum(s.statistics["num_ooms"] for s in served)
        verdict(
            f"{policy} served the program with {format_bytes(most)} reserved at the most"
            + (f"; {failed:,} requests RAN OUT OF MEMORY" if failed else "")
        )
        table(
            "",
            [
                "process", "device", Column("peak reserved", "bytes"),
                Column("peak allocated", "bytes"), Column("peak requested", "bytes"),
                "driver calls", "retries", "OOMs", "stream waits",
            ],
            [
                [
                    s.process, s.device,
                    *(s.statistics[f"{w}_bytes.all.peak"] for w in
                      ("reserved", "allocated", "requested")),
                    s.statistics["num_device_alloc"] + s.statistics["num_device_free"],
                    s.statistics["num_alloc_retries"], s.statistics["num_ooms"],
                    s.statistics["stream_waits"],
                ]
                for s in served
            ],
        )  # fmt: skip
    for s in served:
        for name, count in s.statistics.items():
            if name.startswith("refused_") and count or name == "unknown_frees" and count:
                say(
                    f"note: process {s.process}, device {s.device}: {name} {count:,} (docs/live.md)"
                )
    if code:
        say(f"The program ended with status {code}.")
    if served:
        suggest(f"tightfit live --policy {shlex.quote(policy)} --check")


def _write(out: Path, document: dict[str, Any]) -> None:
    import dataclasses
    import json

    from ...traces.whole_file import replacing

    plain = {**document, "served": [dataclasses.asdict(s) for s in document["served"]]}
    with replacing(out) as file:
        file.write((json.dumps(plain, indent=1) + "\n").encode())


def _check(policy: str, traces: list[Path], operations: int, as_json: bool) -> None:
    from ...traces.load import check_there
    from ..screen import announce_compiling, emit_json
    from .check import check_live

    check_there(*traces)
    announce_compiling(MAIN_PATH_SECONDS)
    report = check_live(policy, traces, operations)
    if as_json:
        emit_json(report.document())
    else:
        _show(report)
    if not report.holds:
        raise typer.Exit(NO)


def _show(report: Report) -> None:
    from ..policy import show_claims
    from ..screen import suggest

    show_claims(report)
    if report.holds:
        suggest(f"tightfit live --policy {shlex.quote(report.policy)} -- python train.py")

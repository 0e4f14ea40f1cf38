"""`tightfit prove`: the simulator against PyTorch's own compiled allocator, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...traces.errors import TightfitError
from ..options import MAIN_PATH_SECONDS, AsJson

if TYPE_CHECKING:
    from .fuzz import Proof

SECONDS = 30.0  # per release, if nothing else is asked for
BAD_INPUT, INTERRUPTED = 2, 130


def prove(
    torch: Annotated[
        str,
        typer.Option(
            "--torch",
            metavar="V,...",
            help="Full versions to compare with, e.g. 2.15.0,2.11.0, or 'all'.",
        ),
    ] = "2.15.0",
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            metavar="S",
            min=0.0,
            help=f"Stop a release after this time (default: {SECONDS:g}).",
            show_default=False,
        ),
    ] = None,
    events: Annotated[
        int | None,
        typer.Option(
            "--events",
            metavar="N",
            min=1,
            help="Stop a release after so many events.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="K",
            min=0,
            help="Number of the first program (default: 0, or the first that the log lacks).",
            show_default=False,
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log",
            metavar="FILE.jsonl",
            help="Append what was compared to this file, and go on where it ends.",
            show_default=False,
        ),
    ] = None,
    predictions: Annotated[
        int | None,
        typer.Option(
            "--predictions",
            metavar="N",
            min=1,
            help="Predict N programs for other settings from recordings, and compare with those.",
            show_default=False,
        ),
    ] = None,
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines",
            metavar="N",
            min=1,
            help="Compare how N settings lines are read by each release.",
            show_default=False,
        ),
    ] = None,
    wheels: Annotated[
        Path | None,
        typer.Option(
            "--wheels",
            metavar="DIR",
            help="Folder of torch wheels (default: $TIGHTFIT_WHEELS, the cache, then pip).",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare with PyTorch's own allocator, call by call.

    Random programs go through the compiled allocator of a PyTorch release, on a stand-in for CUDA
    that only keeps account of memory, and through the simulator. Every address, every trace entry,
    every counter of memory_stats and the final snapshot must be the same. Needs Linux and g++, and
    fetches a wheel of half a gigabyte per release, of which it keeps five megabytes.

    With --predictions the programs are recorded under one line and device, and what the recording
    says about another line and device is held against what the real allocator does there.
    """
    from ..screen import announce_compiling, emit_json, progress, warn
    from .fuzz import Proof, fuzz
    from .ledger import append, next_seed, read
    from .wheels import RELEASES

    announce_compiling(MAIN_PATH_SECONDS)
    if seconds is None and events is None:
        seconds = SECONDS
    versions: list[str] = (
        list(RELEASES) if torch == "all" else [v.strip() for v in torch.split(",")]
    )
    if predictions is not None:
        from .predictions import run_predictions

        _end(*run_predictions(versions, predictions, seed or 0, wheels, as_json))
        return
    if lines is not None:
        from .parser import run_lines

        _end(*run_lines(versions, lines, seed or 0, wheels, as_json))
        return
    proofs: list[Proof] = []
    interrupted = False
    known = read(log) if log is not None else []
    for version in versions:
        proof = Proof(version, next_seed(known, version) if seed is None else seed)
        proofs.append(proof)
        try:
            if events is not None:
                with progress(events, f"torch {version}, events") as advance:
                    fuzz(proof, seconds=seconds, events=events, wheels=wheels, advance=advance)
            else:
                warn(f"torch {version}: comparing for {seconds:g} s")
                fuzz(proof, seconds=seconds, events=None, wheels=wheels)
        except KeyboardInterrupt:
            interrupted = True
            break
        except TightfitError as error:
            if len(versions) == 1:
                raise
            proof.failure = str(error)
            warn(f"tightfit: {error}")
        finally:
            if log is not None:
                append(log, proof)
    if as_json:
        emit_json({"verdict": _verdict(proofs), "interrupted": interrupted, "releases": proofs})
    else:
        _report(proofs, interrupted)
    _end(
        any(proof.differences for proof in proofs),
        interrupted,
        any(proof.failure for proof in proofs),
    )


def _end(is_different: bool, interrupted: bool, failed: bool) -> None:
    """Leave with the exit code of what happened."""
    if is_different:
        raise typer.Exit(1)
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if failed:
        raise typer.Exit(BAD_INPUT)


def _verdict(proofs: list[Proof]) -> str:
    events = sum(proof.events for proof in proofs)
    programs = sum(proof.programs for proof in proofs)
    found = sum(len(proof.differences) for proof in proofs)
    releases = sum(proof.events > 0 for proof in proofs)
    compared = f"{events:,} events of {programs:,} programs on {releases} releases"
    if found:
        return f"DIFFERENT: {found} programs differ, in {compared}"
    if not events:
        return "NOTHING COMPARED"
    return f"THE SAME: no difference to PyTorch's own allocator in {compared}"


def _report(proofs: list[Proof], interrupted: bool) -> None:
    from ..screen import Column, say, table, verdict

    verdict(_verdict(proofs))
    if interrupted:
        say("interrupted: what was compared until then counts")
    table(
        "",
        [
            "torch", "seed", "programs", "events", "requests", "out of memory", "differences",
            Column("time", "s"), "events per second",
        ],
        [
            [
                p.torch, p.seed, p.programs, p.events, p.mallocs, p.ooms, len(p.differences),
                p.seconds, round(p.events / p.seconds) if p.seconds else None,
            ]
            for p in proofs
        ],
    )  # fmt: skip
    for proof in proofs:
        if proof.failure:
            say(f"torch {proof.torch} was not compared to the end: {proof.failure}")
        for name, n in sorted(proof.excluded.items()):
            say(
                f"torch {proof.torch}: {n} programs reach a known defect of PyTorch and were "
                f"compared up to there: {name}"
            )
        for difference in proof.differences:
            say()
            say(f"torch {proof.torch}, {difference.name}:")
            for words in difference.words[:5]:
                say(words)
            print(f"case: {difference.case}")

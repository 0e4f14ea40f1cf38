"""`tightfit prove`: the simulator against PyTorch's own compiled allocator, without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import MAIN_PATH_SECONDS, AsJson

if TYPE_CHECKING:
    from .fuzz import Proof

SECONDS = 30.0  # per release, if nothing else is asked for


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
            help="Predict N programs, of all releases together, for other settings from "
            "recordings, and compare with those.",
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
    from ...sim.release import release
    from ..screen import announce_compiling, progress, warn
    from .fuzz import Proof, fuzz
    from .ledger import append, next_seed, read
    from .releases import answer, prove_each
    from .wheels import RELEASES, check_asked

    if seconds is None and events is None:
        seconds = SECONDS
    versions: list[str] = (
        list(RELEASES) if torch == "all" else [v.strip() for v in torch.split(",")]
    )
    for version in versions:  # before anything is said to begin
        release(version)
        check_asked(version)
    announce_compiling(MAIN_PATH_SECONDS)
    if predictions is not None:
        from .predictions import run_predictions

        run_predictions(versions, predictions, seed or 0, wheels, as_json)
        return
    if lines is not None:
        from .parser import run_lines

        run_lines(versions, lines, seed or 0, wheels, as_json)
        return
    known = read(log) if log is not None else []

    def compare(proof: Proof) -> None:
        if events is not None:
            with progress(events, f"torch {proof.torch}, events") as advance:
                fuzz(proof, seconds=seconds, events=events, wheels=wheels, advance=advance)
        else:
            warn(f"torch {proof.torch}: comparing for {seconds:g} s")
            fuzz(proof, seconds=seconds, events=None, wheels=wheels)

    def note(proof: Proof) -> None:
        if log is not None:
            append(log, proof)

    proofs, interrupted = prove_each(
        [Proof(v, next_seed(known, v) if seed is None else seed) for v in versions], compare, note
    )
    answer(proofs, interrupted, _verdict, _show, as_json)


def _verdict(proofs: Sequence[Proof]) -> str:
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


def _show(proofs: Sequence[Proof]) -> None:
    from ..screen import Column, say, table
    from .releases import say_difference, say_failures

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
    say_failures(proofs)
    for proof in proofs:
        for name, n in sorted(proof.excluded.items()):
            say(
                f"torch {proof.torch}: {n} programs reach a known defect of PyTorch and were "
                f"compared up to there: {name}"
            )
        for found in proof.differences:
            say_difference(proof.torch, found.name, found.words, "case", found.case)

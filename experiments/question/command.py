"""`tightfit run`: carry an experiment out, and publish its tables."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import MAIN_PATH_SECONDS, AsJson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .line_up import Entrant
    from .overall import Overall
    from .question import Question
    from .recordings import Source
    from .runner import Measured, Runner

POLICY_SECONDS = 2  # what compiling one policy took


def run(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.toml",
            help="What is asked: recordings, policies, devices (docs/experiments.md).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Where the results are kept (default: FILE.results beside it).",
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Run nothing; say what would be run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run an experiment from a file and write its tables.

    What is done is kept: an experiment that was interrupted, or that grew, runs what is missing.
    """
    from ...sim.costs import costs_words, read_costs
    from ...sim.release import KNOWN, release
    from ..outfile import make_folder
    from ..screen import BESIDE_PLAIN, announce_compiling, warn
    from .journal import Journal
    from .line_up import line_up, need_others
    from .question import read_question
    from .recordings import sources
    from .results import JOURNAL, write_results
    from .runner import Runner

    question = read_question(file)
    entrants = line_up(question, release(question.torch or KNOWN[-1]))
    found = sources(question.traces, file.parent)
    need_others(entrants, found)
    folder = out if out is not None else file.with_suffix(".results")
    if question.driver_costs:
        read_costs(file.parent / question.driver_costs)
    if check:
        _say_what(question, entrants, found, as_json)
        return
    make_folder(folder)
    announce_compiling(MAIN_PATH_SECONDS + POLICY_SECONDS * len(entrants), BESIDE_PLAIN)
    runner = Runner(question, entrants, found, Journal(folder / JOURNAL))
    try:
        tables = runner.run()
    except KeyboardInterrupt:
        warn(
            f"{_many(runner.runs[0], 'run')} kept in {folder}; the same command goes on from there"
        )
        raise
    costs = costs_words() if runner.costs is None else Path(question.driver_costs).name
    paths = write_results(folder, question, tables, costs)
    if not _answer(question, tables, runner, paths, as_json):
        raise typer.Exit(1)


def _say_what(
    question: Question, entrants: Sequence[Entrant], found: Sequence[Source], as_json: bool
) -> None:
    """The experiment as it was understood, with every default."""
    from ...sim.costs import costs_words
    from ...sim.device import Device
    from ..screen import emit_json, say, suggest, table, verdict
    from .runner import words_of

    runs = len(entrants) * len(found) * len(question.capacities)
    words = (
        f"{_many(len(entrants), 'policy', 'policies')} on {_many(len(found), 'recording')} and "
        f"{_many(len(question.capacities), 'simulated device')}: {runs:,} runs, more where a "
        "recording has several devices"
    )
    if as_json:
        emit_json(
            {
                "verdict": words,
                "question": question.question,
                "torch": question.torch or None,
                "seed": question.seed,
                "capacities_bytes": question.capacities,
                "other_bytes": question.other_bytes,
                "packing_seconds": question.packing_seconds,
                "driver_costs": question.driver_costs or None,
                "columns": question.columns,
                "sort_by": question.sort_by,
                "policies": [
                    {"label": e.label, "baseline": e.is_baseline, "tune": e.asked.tune or None,
                     "tune_for": e.asked.tune_for if e.asked.tune else None,
                     "trials": e.asked.trials if e.asked.tune else None,
                     "without": e.asked.without}
                    for e in entrants
                ],
                "traces": [
                    {"name": s.name, "program": s.program, "content": s.content} for s in found
                ],
            }
        )  # fmt: skip
        return
    verdict(words)
    table(
        "", ["", "policy"],
        [["baseline" if e.is_baseline else "", e.label] for e in entrants],
    )  # fmt: skip
    table("", ["recording", "content"], [[s.name, _short(s.content)] for s in found])
    say(f"question: {question.question}")
    say(f"torch: {question.torch or 'for each recording what fits best'}")
    rooms = ", ".join(words_of(Device(c, question.other_bytes)) for c in question.capacities)
    say(f"devices: {rooms}")
    say(f"driver costs: {question.driver_costs or costs_words()}")
    for e in entrants:
        if e.asked.tune:
            without = f", without {', '.join(e.asked.without)}" if e.asked.without else ""
            say(
                f"{e.label}: tuned on {e.asked.tune} for {e.asked.tune_for}, {e.asked.trials} "
                f"trials{without}"
            )
    say(f"columns: {', '.join(question.columns)}; sorted by {question.sort_by}")
    say(f"packing: {question.packing_seconds:g} s for each recording; seed: {question.seed}")
    suggest(f"tightfit run {shlex.quote(str(question.path))}")


def _many(n: int, one: str, more: str = "") -> str:
    return f"{n:,} {one if n == 1 else more or f'{one}s'}"


def _short(content: str) -> str:
    """What a synthetic recording is made from, or the beginning of a sha256."""
    return content if content.startswith("made") else f"sha256 {content[:16]}"


def _answer(
    question: Question,
    tables: Sequence[Measured],
    runner: Runner,
    paths: Sequence[Path],
    as_json: bool,
) -> bool:
    """Say what came out; returns whether some policy ran on everything."""
    from ...sim.device import Device
    from ..screen import emit_json, say, verdict
    from .overall import overall
    from .runner import words_of

    groups = {
        c: [t for t in tables if t.capacity_bytes == c] for c in question.capacities
    }  # fmt: skip
    found = {c: overall(mine, question.seed) for c, mine in groups.items()}
    verdicts = {
        c: sentence(
            o, groups[c], "" if c is None else f" on {words_of(Device(c, question.other_bytes))}"
        )
        for c, o in found.items()
    }
    if as_json:
        emit_json(
            {
                "simulated": True,
                "question": question.question,
                "verdict": "; ".join(verdicts.values()),
                "measured": runner.measured,
                "kept": runner.kept,
                "overall": [
                    {"capacity_bytes": c, "policies": o} for c, o in found.items()
                ],
                "traces": tables,
                "files": paths,
            }
        )  # fmt: skip
    else:
        for capacity, mine in groups.items():
            verdict(verdicts[capacity])
            _show(found[capacity], mine, question)
        runs, before = runner.runs
        say(f"{_many(runs, 'run')}: {runs - before:,} new, {before:,} kept from before")
        print("written:", ", ".join(map(str, paths)))
    return all(_winner(o) is not None for o in found.values())


def _show(found: Sequence[Overall], tables: Sequence[Measured], question: Question) -> None:
    """Print the table over all recordings; of a single one its own."""
    from ..row_columns import COLUMNS, shown_cells
    from ..screen import Column, say, table
    from .overall import SAME
    from .tables import cautions, interval, many_programs, ordered, searched

    if len(tables) == 1:
        shown = [COLUMNS[name] for name in question.columns]
        rows: list[list[str | int | float | None]] = []
        for r in ordered(tables[0], question.sort_by):
            cells = shown_cells(r, tables[0].rows, shown)
            fits = f"OOM at {r.first_oom_event:,}" if r.ooms else "yes"
            role = "" if r.role == "policy" else r.role
            rows.append([role, r.policy, *cells, fits if r.driver_seconds is not None else None])
        table("", ["", "policy", *(Column(c.heading, c.unit) for c in shown), "runs"], rows)
        return
    smallest = any(o.smallest_saved is not None for o in found)
    columns: list[str | Column] = ["policy", "runs", Column("saved", "%"), "95 % interval"]
    columns += [Column("worst", "%"), "less", "same", "more"]
    columns += [Column("smallest GPU saved", "%")] if smallest else []
    columns += [Column("above bound", "%")]
    rows = []
    for o in found:
        shares: list[str | int | float | None] = [
            o.saved, interval(o), o.worst, o.better, o.same, o.worse,
            *([o.smallest_saved] if smallest else []),
        ]  # fmt: skip
        if o.role == "baseline":
            shares = [None] * len(shares)
        name = o.policy + ("" if o.role == "policy" else f" ({o.role})")
        rows.append([name, o.fits, *shares, o.above_bound])
    table("", columns, rows)
    base = next(o.policy for o in found if o.role == "baseline")
    say(
        f"runs: on so many of {len(tables)} recordings. saved: of the peak of {base}, by the "
        f"geometric mean over {many_programs(tables)}. less, same, more: on how many recordings "
        f"it reserves less than {base} by {SAME:.0%} or more, about as much, more."
    )
    for line in [*cautions(tables), *searched(question)]:
        say(f"note: {line}")


def _winner(found: Sequence[Overall]) -> Overall | None:
    """Who reserves least on average of those that could run, and did, on every recording."""
    able = [o for o in found if o.role in ("baseline", "policy") and o.fits == o.of]
    return able[0] if able else None


def sentence(found: Sequence[Overall], tables: Sequence[Measured], room: str) -> str:
    """The answer in one sentence."""
    n = f"{len(tables)} recordings" if len(tables) > 1 else tables[0].trace
    best = _winner(found)
    base = next(o for o in found if o.role == "baseline")
    if best is None:
        able = [o for o in found if o.role in ("baseline", "policy")]
        most = max(able, key=lambda o: o.fits)
        some = f"; {most.policy} runs on {most.fits} of {most.of}" if most.fits else ""
        return f"NO POLICY RUNS ON ALL of {n}{room}{some} (simulated)"
    if best.role == "baseline":
        return f"{base.policy}, the baseline, reserves least on {n}{room} (simulated)"
    if best.saved is None or base.fits < base.of:
        return (
            f"{best.policy} RUNS on all of {n}{room}; {base.policy}, the baseline, on "
            f"{base.fits} of {base.of} (simulated)"
        )
    return (
        f"{best.policy} reserves least on {n}{room}: {best.saved:.1%} less than {base.policy}"
        + (", geometric mean" if len(tables) > 1 else "")
        + " (simulated)"
    )

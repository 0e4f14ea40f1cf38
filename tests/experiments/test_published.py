"""What experiments published is what they come to: their smaller recordings, run once more."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path

import pytest

from tightfit.experiments.cli import main
from tightfit.experiments.question.line_up import line_up, playing
from tightfit.experiments.question.question import read_question
from tightfit.experiments.question.recordings import sources
from tightfit.experiments.question.results import LATEX, PAGE, RUNS
from tightfit.experiments.row import Row, bound_rows, row_of, smallest_of
from tightfit.experiments.smallest import with_smallest
from tightfit.experiments.subject import load_subjects
from tightfit.sim.device import Device
from tightfit.sim.release import release

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "published"
FILES = sorted(FOLDER.glob("*.toml"))
MOST_EVENTS = 15_000


def published(file: Path) -> list[dict[str, str]]:
    with (file.with_suffix("") / RUNS).open(encoding="utf-8", newline="") as rows:
        return list(csv.DictReader(rows))


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_an_experiment_has_a_row_for_everything_it_asks(file: Path) -> None:
    question = read_question(file)
    found = sources(question.traces, file.parent)
    entrants = line_up(question, release(question.torch))
    rows = published(file)
    assert [r["content"] for r in rows] == sorted(
        (r["content"] for r in rows), key=[s.content for s in found].index
    )
    for source in found:
        policies = [r["policy"] for r in rows if r["content"] == source.content]
        assert policies[-len(entrants) :] == [e.label for e in entrants]
    assert {p.name for p in file.with_suffix("").iterdir()} - {"journal.jsonl"} == {
        RUNS, PAGE, LATEX,
    }  # fmt: skip


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_its_figures_are_those_of_today(file: Path) -> None:
    """Each policy as the row says it was run; a packing depends on the time it had."""
    question = read_question(file)
    rules = release(question.torch)
    compared = 0
    for source in sources(question.traces, file.parent):
        rows = [r for r in published(file) if r["content"] == source.content]
        if int(rows[0]["events"]) > MOST_EVENTS:
            continue
        (subject,) = load_subjects(source.path)
        packed = subject.anew if subject.is_warm else subject.kept
        bound = bound_rows(packed)[0]
        for kept in rows:
            capacity = int(kept["capacity_bytes"]) if kept["capacity_bytes"] else None
            gpu = Device(capacity, int(kept["other_bytes"]))
            if kept["role"] == "offline":
                continue
            row: Row = bound
            if kept["role"] != "bound":
                policy = playing(kept["policy"], kept["text"], rules)
                run = policy.replay(packed, gpu)
                row = row_of(subject, policy, gpu, run, bound.peak_reserved_bytes or 0, None)
                row = with_smallest(row, smallest_of(policy, packed, Device()))
            for name, value in asdict(row).items():
                if name not in ("role", "ignores"):
                    told = "" if value is None else str(value)
                    assert kept[name] == told, (source.name, kept["policy"], name)
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_it_can_be_run_again(file: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["run", str(file), "--check"]) == 0
    head = (file.with_suffix("") / PAGE).read_text(encoding="utf-8").splitlines()[0]
    assert head == f"# {read_question(file).question}"

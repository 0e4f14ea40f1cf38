"""The results of an experiment as files: every run in one table, and the pages made from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...traces.whole_file import replacing
from ..row import Row
from .question import Question
from .runner import Measured
from .tables import page_latex, page_markdown, parts

RUNS, PAGE, LATEX, JOURNAL = "runs.csv", "tables.md", "tables.tex", "journal.jsonl"


def write_results(
    folder: Path, question: Question, tables: Sequence[Measured], costs: str
) -> list[Path]:
    """Write runs.csv, tables.md and tables.tex, each whole or not at all; returns where they are.

    Raises:
        OSError: the folder cannot be written to.
    """
    found = parts(question, tables)
    texts = {
        RUNS: runs_csv(question, tables),
        PAGE: page_markdown(question, found, costs),
        LATEX: page_latex(question, found, costs),
    }
    for name, text in texts.items():
        with replacing(folder / name) as out:
            out.write(text.encode(errors="backslashreplace"))  # a name need not be UTF-8
    return [folder / name for name in texts]


def runs_csv(question: Question, tables: Sequence[Measured]) -> str:
    """Every run, a line each, in bytes and seconds; an empty cell does not apply.

    Columns: where it ran (trace, program, content, device, events, torch, capacity_bytes,
    other_bytes), the policy as `--policy` takes it, and all attributes of its row.
    """
    out = io.StringIO()
    where = [
        "trace", "program", "content", "device", "events", "torch", "capacity_bytes", "other_bytes",
    ]  # fmt: skip
    columns = list(Row.__dataclass_fields__)
    writer = csv.DictWriter(out, [*where, "text", *columns], lineterminator="\n")
    writer.writeheader()
    for t in tables:
        for row in t.rows:
            cells = asdict(row) | {"ignores": "; ".join(row.ignores)}
            place = {name: getattr(t, name) for name in where if name != "other_bytes"}
            text = t.texts.get(row.policy, "")
            writer.writerow({**place, "other_bytes": question.other_bytes, "text": text, **cells})
    return out.getvalue()

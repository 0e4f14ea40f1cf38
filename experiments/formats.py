"""A comparison for papers and spreadsheets: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import PurePath

from ..traces.units import MiB
from .comparison import TraceRows, remarks
from .row import Row
from .row_columns import RowColumn, Value
from .screen import rounded
from .text_tables import latex_remark, latex_table, markdown_table


def written(value: Value, column: RowColumn) -> str:
    """A value in its column's unit, without it; what does not apply is a dash."""
    if value is None:
        return "–"
    scale = {"bytes": 1 / MiB, "%": 100.0, "ms": 1e3}.get(column.unit)
    return f"{value:,}" if scale is None else rounded(value * scale, 1)


def headed(column: RowColumn) -> str:
    """A column's heading with the unit of its cells."""
    unit = {"bytes": "MiB"}.get(column.unit, column.unit)
    return f"{column.heading} ({unit})" if unit else column.heading


def lines_of(rows: Sequence[Row], columns: Sequence[RowColumn]) -> list[list[str]]:
    """The cells of a table of rows, headings first; a failure is said in the first column."""
    out = [["policy", *map(headed, columns)]]
    for row in rows:
        cells = [written(column.of(row, rows), column) for column in columns]
        if row.ooms:
            cells[0] = f"OOM at {row.first_oom_event:,}"
        role = "" if row.role == "policy" else f" ({row.role})"
        out.append([f"{row.policy}{role}", *cells])
    return out


def caption(trace: TraceRows, setting: str) -> str:
    """One line with everything needed to repeat the table."""
    name = PurePath(trace.trace).name
    return f"{name} · device {trace.device} · {trace.events:,} events · {setting}"


def markdown(
    traces: Sequence[TraceRows],
    setting: str,
    columns: Sequence[RowColumn],
    notes: Sequence[str] = (),
) -> str:
    """One Markdown table for each recording, its caption above it; notes on all stand last."""
    out = []
    for trace in traces:
        out += [f"{caption(trace, setting)}\n", *markdown_table(lines_of(trace.rows, columns)), ""]
        said = [f"* {text}" for _, text in remarks(trace)]
        out += [*said, ""] if said else []
    out += [*(f"* {text}" for text in notes), ""] if notes else []
    return "\n".join(out)


def latex(
    traces: Sequence[TraceRows],
    setting: str,
    columns: Sequence[RowColumn],
    notes: Sequence[str] = (),
) -> str:
    """One tabular for each recording, notes on all of them last; wants the package booktabs."""
    out = []
    for trace in traces:
        out += [
            latex_remark(caption(trace, setting)),
            *latex_table(lines_of(trace.rows, columns)),
            *(latex_remark(text) for _, text in remarks(trace)),
            "",
        ]
    out += [*map(latex_remark, notes), ""] if notes else []
    return "\n".join(out)


def comma_separated(traces: Sequence[TraceRows]) -> str:
    """All rows of all recordings in one table, in bytes; an empty cell does not apply.

    The last column, `ignores`, says what the recording has that the policy does not honour.
    """
    out = io.StringIO()
    columns = list(Row.__dataclass_fields__)
    writer = csv.DictWriter(out, ["trace", "device", *columns], lineterminator="\n")
    writer.writeheader()
    for trace in traces:
        for row in trace.rows:
            cells = asdict(row) | {"ignores": "; ".join(row.ignores)}
            writer.writerow({"trace": trace.trace, "device": trace.device, **cells})
    return out.getvalue()

"""Tables for papers and spreadsheets: Markdown, CSV and LaTeX from the rows of a comparison."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import PurePath

from ..traces.units import MiB
from .comparison import Row, TraceRows, remarks
from .screen import rounded

HEADINGS = (
    "policy",
    "peak reserved (MiB)",
    "above bound (%)",
    "driver calls",
    "driver time (ms)",
    "retries",
)
_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def _cells(row: Row) -> list[str]:
    """A row's cells as text; what does not apply is a dash."""
    calls = None
    if row.device_allocs is not None and row.device_frees is not None:
        calls = row.device_allocs + row.device_frees
    if row.ooms:
        peak = f"OOM at {row.first_oom_event:,}"
    else:
        peak = rounded((row.peak_reserved_bytes or 0) / MiB, 1)
    return [
        row.policy + ("" if row.role == "policy" else f" ({row.role})"),
        peak,
        "–" if row.above_bound is None else rounded(100 * row.above_bound, 1),
        "–" if calls is None else f"{calls:,}",
        "–" if row.driver_seconds is None else rounded(1e3 * row.driver_seconds, 1),
        "–" if row.alloc_retries is None else f"{row.alloc_retries:,}",
    ]


def caption(trace: TraceRows, setting: str) -> str:
    """One line with everything needed to repeat the table."""
    name = PurePath(trace.trace).name
    return f"{name} · device {trace.device} · {trace.events:,} events · {setting}"


def markdown(traces: Sequence[TraceRows], setting: str) -> str:
    """One Markdown table for each recording, its caption above it."""
    out = []
    for trace in traces:
        lines = [HEADINGS, (":--", *["--:"] * (len(HEADINGS) - 1))]
        lines += [[c.replace("|", "\\|") for c in _cells(row)] for row in trace.rows]
        out.append(f"{caption(trace, setting)}\n")
        out += [f"| {' | '.join(cells)} |" for cells in lines]
        out.append("")
        said = [f"* {text}" for _, text in remarks(trace)]
        out += [*said, ""] if said else []
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


def latex(traces: Sequence[TraceRows], setting: str) -> str:
    """One tabular for each recording; wants the package booktabs."""

    def plain(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in text).replace("–", "--").replace("<", "$<$")

    out = []
    for trace in traces:
        out.append(f"% {caption(trace, setting)}")
        out.append(r"\begin{tabular}{l" + "r" * (len(HEADINGS) - 1) + r"}\toprule")
        out.append(" & ".join(map(plain, HEADINGS)) + r" \\ \midrule")
        out += [" & ".join(map(plain, _cells(row))) + r" \\" for row in trace.rows]
        out += [r"\bottomrule", r"\end{tabular}"]
        out += [f"% {text}" for _, text in remarks(trace)]
        out.append("")
    return "\n".join(out)

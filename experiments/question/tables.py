"""The tables of an experiment as text: over all recordings, one figure for each, and each whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ... import __version__
from ...sim.device import Device
from ..comparison import remarks
from ..formats import headed, lines_of, written
from ..row import Row
from ..row_columns import COLUMNS, RowColumn
from ..text_tables import latex_remark, latex_table, markdown_table
from .overall import LEAST_PAIRS, SAME, Overall, overall
from .question import Question
from .runner import Measured, words_of

Lines = list[list[str]]
Bold = set[tuple[int, int]]


def overall_lines(found: Sequence[Overall]) -> Lines:
    """The cells of the table over all recordings, headings first."""
    smallest = any(o.smallest_saved is not None for o in found)
    head = ["policy", "runs on", "saved (%)", "95 % interval", "worst (%)"]
    head += ["less / same / more", "p"]
    head += ["saved of the smallest GPU (%)"] if smallest else []
    head += ["above bound (%)"]
    out = [head]
    for o in found:
        is_base = o.role == "baseline"
        row = [
            o.policy + ("" if o.role == "policy" else f" ({o.role})"),
            f"{o.fits} of {o.of}",
            percent(None if is_base else o.saved),
            interval(o),
            percent(None if is_base else o.worst),
            "–" if is_base else f"{o.better} / {o.same} / {o.worse}",
            probability(o.p),
        ]
        row += [percent(None if is_base else o.smallest_saved)] if smallest else []
        out.append([*row, percent(o.above_bound)])
    return out


def percent(share: float | None) -> str:
    return written(share, COLUMNS["saved"])


def interval(found: Overall) -> str:
    """The 95 % interval of what is saved, in percent."""
    if found.low is None or found.high is None or found.role == "baseline":
        return "–"
    return f"{100 * found.low:.1f} to {100 * found.high:.1f}"


def probability(value: float | None) -> str:
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def overall_words(tables: Sequence[Measured]) -> str:
    """How to read the table over all recordings."""
    base = next(r.policy for r in tables[0].rows if r.role == "baseline")
    return (
        f"Saved: of the peak reserved bytes of {base}, by the geometric mean over the "
        f"{many_programs(tables)} on which both run; its interval by resampling these; the worst "
        f"recording. {_room(tables)}Less and "
        f"more: by {SAME:.0%} or more. p: Wilcoxon signed-rank, two-sided, not corrected for the "
        f"number of policies. No interval with fewer than {LEAST_PAIRS} of them, no p with fewer "
        f"than {LEAST_PAIRS} whose peaks differ at all. The smallest GPU is over all recordings; "
        "above bound is where it ran."
    )


def _room(tables: Sequence[Measured]) -> str:
    if tables[0].capacity_bytes is not None:
        return ""
    return (
        "Memory never runs out here; on the device that recorded a program its cache may have been "
        "given back, and less have been reserved. "
    )


def many_programs(tables: Sequence[Measured]) -> str:
    """Over what means are taken."""
    programs = len({t.program for t in tables})
    if programs == len(tables):
        return f"{programs} programs"
    return f"{programs} programs (variants of one count as one)"


def matrix(tables: Sequence[Measured], column: RowColumn) -> tuple[Lines, Bold]:
    """One figure for each recording and policy, and which are the least of their recording.

    Policies that are told something beforehand cannot run, and are never the least.
    """
    of = {t.trace_and_device: {r.policy: column.of(r, t.rows) for r in t.rows} for t in tables}
    asked = dict.fromkeys(r.policy for t in tables for r in t.rows)
    heads = [h for h in asked if any(v.get(h) is not None for v in of.values())]
    lines, bold = [["recording", *heads]], set()
    for k, t in enumerate(tables, start=1):
        rows = {r.policy: r for r in t.rows}
        values = of[t.trace_and_device]
        fails = column is COLUMNS["peak_reserved"]  # a smallest device there is all the same
        lines.append(
            [named(t, tables)]
            + [
                "OOM" if fails and h in rows and rows[h].ooms else written(values.get(h), column)
                for h in heads
            ]
        )
        able = {h: values[h] for h, r in rows.items() if r.role in ("baseline", "policy")}
        least = min((v for v in able.values() if v is not None), default=None)
        best = {h for h, v in able.items() if v is not None and v == least}
        bold |= {(k, j) for j, h in enumerate(heads, start=1) if h in best}
    return lines, bold


def named(table: Measured, among: Sequence[Measured]) -> str:
    """A recording, and its device where it has several."""
    several = sum(t.trace == table.trace for t in among) > 1
    return f"{table.trace}, device {table.device}" if several else table.trace


def ordered(table: Measured, by: str) -> list[Row]:
    """A recording's rows: bounds, then policies by a column, the best first, failures last."""
    column = COLUMNS[by]
    sign = -1 if by == "saved" else 1

    def key(row: Row) -> tuple[bool, bool, bool, float]:
        value = column.of(row, table.rows)
        return not is_bound(row), bool(row.ooms), value is None, sign * (value or 0)

    return sorted(table.rows, key=lambda r: key(r)[:1] if is_bound(r) else key(r))


def is_bound(row: Row) -> bool:
    """A row is of no policy."""
    return row.role in ("bound", "offline")


@dataclass(frozen=True)
class Part:
    """A table of the page.

    Attributes:
        title: its heading; level: how deep that stands.
        caption: what stands above it.
        lines, bold: its cells, headings first, and which of them stand out.
        remarks: what must be said beside it.
    """

    title: str
    level: int
    caption: str
    lines: Lines
    bold: Bold
    remarks: list[str]


def parts(question: Question, tables: Sequence[Measured]) -> list[Part]:
    """Return all tables of an experiment, those of one simulated device together."""
    out = []
    columns = [COLUMNS[name] for name in question.columns]
    for capacity in question.capacities:
        mine = [t for t in tables if t.capacity_bytes == capacity]
        gpu = Device(capacity, question.other_bytes)
        room = f" on {words_of(gpu)}" if len(question.capacities) > 1 else ""
        if len(mine) > 1:
            lines = overall_lines(overall(mine, question.seed))
            said = [*cautions(mine), *searched(question)]
            out.append(
                Part(f"Over all recordings{room}", 2, overall_words(mine), lines, set(), said)
            )
            for column in (c for c in columns if c.unit == "bytes" and c.is_goal):
                lines, bold = matrix(mine, column)
                title = headed(column)
                out.append(Part(f"{title[0].upper()}{title[1:]}{room}", 2, "", lines, bold, []))
        for t in mine:
            rows = ordered(t, question.sort_by)
            place = [f"device {t.device}", f"{t.events:,} events", words_of(gpu), t.rules]
            said = [*found_values(t), *(text for _, text in remarks(t.table)), *t.notes, *start(t)]
            said = list(dict.fromkeys(said))
            lines, caption = lines_of(rows, columns), " · ".join(place)
            out.append(Part(f"{t.trace}{room}", 3, caption, lines, set(), said))
    return out


def cautions(tables: Sequence[Measured]) -> list[str]:
    """Which policies do not honour what some programs have, and would need more if they did."""
    names = dict.fromkeys(r.policy for t in tables for r in t.rows)
    out = []
    for name in names:
        n = sum(bool(r.ignores) for t in tables for r in t.rows if r.policy == name)
        told = any(r.role == "told" for t in tables for r in t.rows if r.policy == name)
        if n and not told:
            out.append(
                f"{name} does not honour something that the program has on {n} of {len(tables)} "
                "recordings, such as streams kept apart; what it is stands under their tables"
            )
    return out


def searched(question: Question) -> list[str]:
    """Which policies were searched on what they are measured on."""
    return [
        f"{asked.label or asked.name}: searched on the recordings that it is measured on"
        for asked in question.policies
        if asked.tune in ("each", "all")
    ]


def found_values(table: Measured) -> list[str]:
    """What was found for the policies that were tuned."""
    return [f"{label}: {table.texts[label]}" for label in table.tuned]


def start(table: Measured) -> list[str]:
    warm = "memory that was live before recording began is placed anew by every policy"
    return [warm] if table.is_warm else []


def setting(question: Question, costs: str) -> str:
    """One line with what holds for all tables."""
    return (
        f"All figures are simulated. Driver time: costs {costs}. Made by "
        f"`tightfit run {question.path.name}`, tightfit {__version__}; runs.csv has every run."
    )


def page_markdown(question: Question, found: Sequence[Part], costs: str) -> str:
    """The whole answer as a page of Markdown."""
    out = [f"# {question.question}", "", setting(question, costs), ""]
    for part in found:
        out += [f"{'#' * part.level} {part.title}", ""]
        out += [part.caption, ""] if part.caption else []
        out += [*markdown_table(part.lines, part.bold), ""]
        out += [*(f"* {text}" for text in part.remarks), ""] if part.remarks else []
    return "\n".join(out)


def page_latex(question: Question, found: Sequence[Part], costs: str) -> str:
    """All tables as LaTeX, with what must be said beside them as remarks; wants booktabs."""
    out = [latex_remark(question.question), latex_remark(setting(question, costs)), ""]
    for part in found:
        out += [latex_remark(part.title)]
        out += [latex_remark(part.caption)] if part.caption else []
        out += latex_table(part.lines, part.bold)
        out += [*(latex_remark(text) for text in part.remarks), ""]
    return "\n".join(out)

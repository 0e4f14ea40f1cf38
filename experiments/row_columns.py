"""The columns of tables of policies: what each says of a row, in which unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .row import Row

Value = int | float | None
Rows = Sequence[Row]


@dataclass(frozen=True)
class RowColumn:
    """One column.

    Attributes:
        heading: without the unit.
        unit: "bytes", "%" (of a fraction of 1), "ms" (of seconds) or "" for a count.
        of: what it says of a row of a table, and of all its rows; None = not applicable.
        is_goal: it is what policies are there for: the less, the better.
    """

    heading: str
    unit: Literal["bytes", "%", "ms", ""]
    of: Callable[[Row, Rows], Value]
    is_goal: bool = False


def _calls(row: Row, rows: Rows) -> int | None:
    return None if row.device_allocs is None else row.device_allocs + (row.device_frees or 0)


def _share(row: Row, rows: Rows, role: str) -> float | None:
    """A row's peak over that of the row with a role."""
    other = next((r.peak_reserved_bytes for r in rows if r.role == role), None)
    return (
        row.peak_reserved_bytes / other if row.peak_reserved_bytes is not None and other else None
    )


def _saved(row: Row, rows: Rows) -> float | None:
    share = None if row.role in ("baseline", "bound") else _share(row, rows, "baseline")
    return None if share is None else 1 - share


def _above_packing(row: Row, rows: Rows) -> float | None:
    share = None if row.role in ("offline", "bound") else _share(row, rows, "offline")
    return None if share is None else share - 1


COLUMNS = {
    "peak_reserved": RowColumn("peak reserved", "bytes", lambda r, _: r.peak_reserved_bytes, True),
    "saved": RowColumn("saved", "%", _saved),
    "above_bound": RowColumn("above bound", "%", lambda r, _: r.above_bound),
    "above_packing": RowColumn("above packing", "%", _above_packing),
    "smallest_gpu": RowColumn("smallest GPU", "bytes", lambda r, _: r.min_capacity_bytes, True),
    "peak_allocated": RowColumn("peak allocated", "bytes", lambda r, _: r.peak_allocated_bytes),
    "driver_calls": RowColumn("driver calls", "", _calls),
    "driver_time": RowColumn("driver time", "ms", lambda r, _: r.driver_seconds),
    "retries": RowColumn("retries", "", lambda r, _: r.alloc_retries),
}


def shown_cells(row: Row, rows: Rows, columns: Sequence[RowColumn]) -> list[Value]:
    """A row's cells as `screen.table` takes them: times in milliseconds."""
    values = [c.of(row, rows) for c in columns]
    return [
        1e3 * v if c.unit == "ms" and v is not None else v
        for c, v in zip(columns, values, strict=True)
    ]


def chosen(names: Sequence[str], smallest: bool = True) -> list[RowColumn]:
    """Some columns; the one of the smallest GPU only if that was asked for."""
    return [COLUMNS[name] for name in names if smallest or name != "smallest_gpu"]

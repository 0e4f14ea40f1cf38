"""The columns of tables of policies: what each says of a row, in which unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .row import Row

Value = int | float | None


@dataclass(frozen=True)
class RowColumn:
    """One column.

    Attributes:
        heading: without the unit.
        unit: "bytes", "%" (of a fraction of 1), "ms" (of seconds) or "" for a count.
        of: what it says of a row; None = not applicable.
        better: "lower" or "higher"; "" where neither is.
    """

    heading: str
    unit: Literal["bytes", "%", "ms", ""]
    of: Callable[[Row], Value]
    better: Literal["lower", "higher", ""] = "lower"


def _calls(row: Row) -> int | None:
    return None if row.device_allocs is None else row.device_allocs + (row.device_frees or 0)


COLUMNS = {
    "peak_reserved": RowColumn("peak reserved", "bytes", lambda r: r.peak_reserved_bytes),
    "above_bound": RowColumn("above bound", "%", lambda r: r.above_bound),
    "smallest_gpu": RowColumn("smallest GPU", "bytes", lambda r: r.min_capacity_bytes),
    "peak_allocated": RowColumn("peak allocated", "bytes", lambda r: r.peak_allocated_bytes),
    "driver_calls": RowColumn("driver calls", "", _calls),
    "driver_time": RowColumn("driver time", "ms", lambda r: r.driver_seconds),
    "retries": RowColumn("retries", "", lambda r: r.alloc_retries),
}


def chosen(names: Sequence[str], smallest: bool = True) -> list[RowColumn]:
    """Some columns; the one of the smallest GPU only if that was asked for."""
    return [COLUMNS[name] for name in names if smallest or name != "smallest_gpu"]

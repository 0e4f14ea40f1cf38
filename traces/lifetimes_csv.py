"""Reader of lifetimes as minimalloc keeps them: columns id, lower, upper, size.

A buffer of `size` bytes lives from `lower` up to, not including, `upper`; so at equal times frees
come before allocations, and allocations in the order of the file. What the format does not tell:
streams, times in seconds, addresses. Columns for alignment, hints and offsets are ignored: an
allocator is not told of them.

Source: google/minimalloc, README.md and src/converter.cc (also its newer names begin and end).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .errors import TraceError
from .foreign_rows import (
    ALLOC,
    FREE,
    MAX_SIZE,
    Rows,
    integer,
    number_addresses,
    recording,
    without_empty,
)
from .recording import Finding, Recording
from .text_lines import header_of, table

FROM, TO = ("lower", "begin", "start"), ("upper", "end")


def is_lifetimes(header: list[str]) -> bool:
    """Return whether a table with these columns holds lifetimes."""
    return (
        "size" in header
        and any(name in header for name in FROM)
        and any(name in header for name in TO)
    )


def read_lifetimes(first_line: str, chunks: Iterable[bytes], name: str) -> Recording:
    """Read lifetimes and put them in order.

    Args:
        first_line: the header.
        chunks: the file, in pieces, header included.
        name: file name.

    Raises:
        TraceError: a line is not as the format says; the message names it.
    """
    header = header_of(first_line)
    begin = next(n for n in FROM if n in header)
    end = next(n for n in TO if n in header)
    rows, seen = Rows(), set[str]()
    for line, (label, lower, upper, size) in table(chunks, ("id", begin, end, "size")):
        where = f"line {line:,}"
        label = label.strip()
        if label in seen:
            raise TraceError(f"{where}: found the id {label[:40]!r} a second time")
        seen.add(label)
        since = integer(lower, -(1 << 62), 1 << 62, where, begin)
        until = integer(upper, -(1 << 62), 1 << 62, where, end)
        if since >= until:
            raise TraceError(
                f"{where}: found a life from {since:,} to {until:,}, expected it to end after "
                "it begins"
            )
        asked = integer(size, 0, MAX_SIZE, where, "size")
        for kind, time in ((ALLOC, since), (FREE, until)):
            rows.add(kind, len(seen), asked, 0, time)
    columns = rows.columns()
    last = int(columns["time"].max(initial=0))
    # Frees (1) before allocations (0) at the same time.
    order = np.lexsort((-columns["kind"].astype(np.int8), columns["time"]))
    columns = {key: column[order] for key, column in columns.items()}
    columns["time"][:] = 0  # steps, not microseconds
    columns, findings = without_empty(columns)
    findings.append(number_addresses(columns))
    ignored = [n for n in header if n not in ("id", begin, end, "size")]
    if ignored:
        text = f"columns without a meaning for an allocator, ignored: {', '.join(ignored)[:80]}"
        findings.append(Finding("ignored_columns", len(ignored), text))
    source = {"format": "lifetimes", "last_step": last}
    return recording(columns, name, {"imported": source}, findings)

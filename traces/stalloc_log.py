"""Reader of the logs STAlloc writes while it traces (`mem_log_dev0.txt`).

A line is `1 address size stream` for an allocation and `0 address size stream` for a free;
between them stand lines that name iterations, micro-batches and layers. Sizes are requested
ones, streams are named; what the format does not tell: times, and what was live before.

Source: infinigence/STAlloc, Allocator/trace.cpp and Synthesizer/trace_parser.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .errors import TraceError
from .foreign_rows import (
    ALLOC,
    FREE,
    MAX_ADDRESS,
    MAX_SIZE,
    Rows,
    integer,
    recording,
    without_empty,
)
from .recording import Finding, Recording
from .text_lines import lines

ROW = re.compile(r"[01] (?:0x[0-9a-fA-F]+|0) \d+ (?:0x[0-9a-fA-F]+|\d+)", re.ASCII)
LIKE_ROW = re.compile(r"[01] 0x[0-9a-fA-F]+ \S+ \S+|" + ROW.pattern, re.ASCII)  # perhaps broken
MARK = re.compile(r"Iteration Index|.*micro-batch|.*Layer\s*:")
DEVICE = re.compile(r"dev(\d{1,3})")


def read_stalloc_log(chunks: Iterable[bytes], name: str) -> Recording:
    """Read a log.

    Args:
        chunks: the file, in pieces.
        name: file name; "dev3" in it names the device.

    Raises:
        TraceError: a line is not as the format says; the message names it.
    """
    rows, marks = Rows(), 0
    found = DEVICE.search(name)
    device = int(found.group(1)) if found else 0
    for line, text in lines(chunks):
        if not ROW.fullmatch(text):
            if not MARK.match(text):
                raise TraceError(
                    f"line {line:,}: found {text[:40]!r}, expected '1 address size stream', "
                    "'0 address size stream' or the name of an iteration, micro-batch or layer"
                )
            marks += 1
            continue
        where = f"line {line:,}"
        kind, pointer, size, stream = text.split(" ")
        asked = integer(size, 0, MAX_SIZE, where, "size")
        address = integer(pointer, 0, MAX_ADDRESS, where, "address")
        if asked and not address:
            raise TraceError(f"{where}: found {asked:,} bytes at address 0")
        handle = integer(stream, 0, 1 << 63, where, "stream")
        rows.add(ALLOC if kind == "1" else FREE, address, asked, handle, 0, device)
    columns, findings = without_empty(rows.columns())
    if marks:
        text = f"lines that name iterations, micro-batches and layers: {marks:,}; not kept"
        findings.append(Finding("dropped_lines", marks, text))
    return recording(columns, name, {"imported": {"format": "STAlloc log"}}, findings)

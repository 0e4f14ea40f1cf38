"""Reader of our own plain CSV, for programs that no tool above recorded.

    action,id,size,stream,device
    malloc,a,1048576,0,0
    free,a,,,

`action` is malloc (or alloc, allocate) or free; `id` is any text without a comma, naming an
allocation while it is live and free to be used again afterwards; `size` is in bytes and may stay
empty in a free, as may `stream` (a number, 0 unless given) and `device` (0 unless given, and the
same in both lines of an allocation). The last two columns may be absent; columns may be in any
order. The order of the lines is the order of time.
"""

from __future__ import annotations

from collections.abc import Iterable

from .errors import TraceError, did_you_mean
from .foreign_rows import (
    ALLOC,
    FREE,
    MAX_DEVICES,
    MAX_SIZE,
    Rows,
    integer,
    number_addresses,
    recording,
    without_empty,
)
from .recording import Recording
from .text_lines import table

ACTIONS = {"malloc": ALLOC, "alloc": ALLOC, "allocate": ALLOC, "free": FREE}


def read_plain_csv(chunks: Iterable[bytes], name: str) -> Recording:
    """Read a program.

    Raises:
        TraceError: a line is not as the format says; the message names it.
    """
    rows = Rows()
    live: dict[str, tuple[int, int, int, int, int]] = {}  # number, size, stream, device, line
    count = 0
    cells = table(chunks, ("action", "id", "size"), ("stream", "device"))
    for line, (word, label, size, stream, device) in cells:
        where = f"line {line:,}"
        label = label.strip()
        kind = ACTIONS.get(word.strip().lower())
        if kind is None:
            raise TraceError(
                f"{where}: found the action {word[:40]!r}, expected malloc or free"
                + did_you_mean(word.strip().lower(), ACTIONS)
            )
        if kind == ALLOC:
            if label in live:
                raise TraceError(
                    f"{where}: found malloc of {label[:40]!r}, which is live since line "
                    f"{live[label][4]:,}"
                )
            asked = integer(size, 0, MAX_SIZE, where, "size")
            handle = integer(stream, 0, 1 << 63, where, "stream") if stream.strip() else 0
            index = integer(device, 0, MAX_DEVICES, where, "device") if device.strip() else 0
            live[label] = (count, asked, handle, index, line)
            rows.add(ALLOC, count, asked, handle, 0, index)
            count += 1
            continue
        if label not in live:
            raise TraceError(f"{where}: found free of {label[:40]!r}, which is not live")
        number, asked, handle, index, since = live.pop(label)
        if size.strip() and integer(size, 0, MAX_SIZE, where, "size") != asked:
            raise TraceError(
                f"{where}: found free of {label[:40]!r} with {size.strip()} bytes, expected the "
                f"{asked:,} of line {since:,}"
            )
        rows.add(FREE, number, asked, handle, 0, index)
    columns, findings = without_empty(rows.columns())
    if len(columns["kind"]):
        findings.append(number_addresses(columns))
    return recording(columns, name, {"imported": {"format": "plain CSV"}}, findings)

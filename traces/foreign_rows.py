"""Rows: what other tools tell of allocations, one row each, on the way to a recording."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from .distinct import distinct
from .errors import TraceError
from .event import ENTRY_COLUMNS, Action, empty_columns
from .made_up import made_up_addresses
from .recording import DeviceRecording, Finding, Recording

ALLOC, FREE, OOM = int(Action.ALLOC), int(Action.FREE_REQUESTED), int(Action.OOM)
MAX_SIZE = 1 << 50  # bytes of one allocation; a thousand times the memory of any device
MAX_ADDRESS = 1 << 61
MAX_DEVICES = 1024
MAX_STREAMS = 65_535  # what the columns of a recording can number

NO_DRIVER = (
    "only requests and frees were recorded: nothing tells of segments, memory pools or settings, "
    "so there is nothing to check a replay against, and the settings are taken to be the defaults"
)


class Rows:
    """Allocations, frees and failed requests in the order they happened.

    Attributes:
        kind: ALLOC, FREE or OOM.
        device: device index.
        addr: address, or the allocation's number where there are none (`number_addresses`).
        size: bytes.
        stream: raw handle.
        time: microseconds; 0 = not recorded.
    """

    def __init__(self) -> None:
        self.kind, self.device = array("B"), array("h")
        self.addr, self.size = array("q"), array("q")
        self.stream, self.time = array("q"), array("q")

    def add(
        self, kind: int, addr: int, size: int, stream: int = 0, time: int = 0, device: int = 0
    ) -> None:
        """Append a row; all numbers have been checked by `integer`."""
        self.kind.append(kind)
        self.addr.append(addr)
        self.size.append(size)
        self.stream.append(stream)
        self.time.append(time)
        self.device.append(device)

    def __len__(self) -> int:
        return len(self.kind)

    def columns(self) -> dict[str, np.ndarray]:
        """Return the rows as arrays that share their memory."""
        return {name: np.asarray(column) for name, column in vars(self).items()}


def integer(text: str, low: int, high: int, where: str, what: str) -> int:
    """Return a decimal or 0x number within [low, high).

    Raises:
        TraceError: it is no such number.
    """
    text = text.strip()
    digits = text.removeprefix("-")
    try:
        if not digits.isascii() or "_" in digits:
            raise ValueError
        value = int(text, 16 if digits[:2].lower() == "0x" else 10)
    except ValueError:  # also more digits than Python reads
        raise TraceError(
            f"{where}: found the {what} {text[:40]!r}, expected a whole number"
        ) from None
    if not low <= value < high:
        raise TraceError(f"{where}: found the {what} {text[:40]}, expected {low:,} to {high - 1:,}")
    return value


def without_empty(columns: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[Finding]]:
    """Leave out rows of no bytes: an allocator is not asked for those."""
    empty = (columns["size"] == 0) & (columns["kind"] != OOM)
    n = int(empty.sum())
    if not n:
        return columns, []
    text = f"allocations and frees of 0 bytes: {n:,}; they ask nothing of an allocator"
    return {k: v[~empty] for k, v in columns.items()}, [Finding("zero_size", n, text)]


def number_addresses(columns: dict[str, np.ndarray]) -> Finding:
    """Replace allocation numbers by made-up addresses, in place."""
    served = np.flatnonzero(columns["kind"] != OOM)
    is_alloc = columns["kind"][served] == ALLOC
    # Numbered anew, without gaps: rows of no bytes are gone.
    _, alloc = distinct(columns["addr"][served])
    columns["addr"][served] = made_up_addresses(alloc, is_alloc, columns["size"][served])
    n = int(is_alloc.sum())
    return Finding("made_up_addresses", n, "the format has no addresses; they are made up")


def recording(
    columns: dict[str, np.ndarray],
    name: str,
    extra: dict[str, Any],
    findings: list[Finding],
    lacks: str = NO_DRIVER,
) -> Recording:
    """Return a recording of these rows: alloc, free and OOM entries, no segments.

    Args:
        columns: as in `Rows`, in the order of time; perhaps "stack" and "pool" too, as in
            `event.ENTRY_COLUMNS`.
        name: file name.
        extra: what the recording was made from.
        findings: what the reader noticed.
        lacks: what is not in it and why, in words.

    Raises:
        TraceError: there are no rows, or more streams than can be numbered.
    """
    kind = columns["kind"]
    if not len(kind):
        raise TraceError("found no allocations at all")
    streams, number = distinct(columns["stream"])
    if len(streams) > MAX_STREAMS:
        raise TraceError(f"found {len(streams):,} streams, expected at most {MAX_STREAMS:,}")
    out = Recording(name, streams=streams.astype(np.int64), extra=extra)
    out.findings = [Finding("no_driver", 1, lacks), *findings]
    for device in np.unique(columns["device"]).tolist():
        rows = np.flatnonzero(columns["device"] == device)
        # A free is requested and completed: two entries, one after the other.
        rows = np.repeat(rows, np.where(kind[rows] == FREE, 2, 1))
        entries = empty_columns(ENTRY_COLUMNS, len(rows))
        entries["action"][:] = kind[rows]
        second = np.zeros(len(rows), bool)
        second[1:] = rows[1:] == rows[:-1]
        entries["action"][second] = Action.FREE_COMPLETED
        entries["stream"][:] = number[rows]
        for theirs, ours in (("addr", "addr"), ("size", "size"), ("time", "time_us")):
            entries[ours][:] = columns[theirs][rows]
        for known in columns.keys() & {"stack", "pool"}:
            entries[known][:] = columns[known][rows]
        out.devices[device] = DeviceRecording(entries)
    return out

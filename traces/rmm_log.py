"""Reader of the CSV log of RAPIDS RMM's logging_resource_adaptor.

Columns Thread, Time, Action, Pointer, Size, Stream; actions allocate, free (deallocate) and
allocate failure. Sizes are those RMM was asked for and streams are named; what the format does
not tell: the device, the date, anything about the memory RMM itself got.

Source: rapidsai/rmm, logging_resource_adaptor (header, allocate, deallocate): an allocation is
logged after it was made and a free before it is, so that the order of the lines is one that
happened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .errors import TraceError, did_you_mean
from .foreign_rows import (
    ALLOC,
    FREE,
    MAX_ADDRESS,
    MAX_SIZE,
    OOM,
    Rows,
    integer,
    recording,
    without_empty,
)
from .recording import Recording
from .text_lines import table

COLUMNS = ("thread", "time", "action", "pointer", "size", "stream")
ACTIONS = {"allocate": ALLOC, "free": FREE, "deallocate": FREE, "allocate failure": OOM}
DEVICE = re.compile(r"\.dev(\d{1,3})(?:\.|$)")  # how RMM's Python package names its files
CLOCK = re.compile(r"(\d\d):(\d\d):(\d\d)(?:[.:](\d{1,9}))?", re.ASCII)
SECONDS = re.compile(r"(\d{1,11})(?:\.(\d{1,9}))?", re.ASCII)
DAY, NOON = 86_400_000_000, 43_200_000_000  # microseconds
NULL = {"0", "0x0", "(nil)", "nullptr", ""}


def read_rmm_log(chunks: Iterable[bytes], name: str) -> Recording:
    """Read a log.

    Args:
        chunks: the file, in pieces.
        name: file name; ".dev3" in it names the device.

    Raises:
        TraceError: a line is not as the format says; the message names it.
    """
    rows = Rows()
    found = DEVICE.search(name)
    device = int(found.group(1)) if found else 0
    days, before = 0, 0
    threads, streams = set[str](), dict[str, int]()  # those met so far
    for line, (thread, time, action, pointer, size, stream) in table(chunks, COLUMNS):
        where = f"line {line:,}"
        if thread not in threads:
            integer(thread, 0, 1 << 64, where, "thread")
            threads.add(thread)
        kind = ACTIONS.get(action.strip().lower())
        if kind is None:
            raise TraceError(
                f"{where}: found the action {action[:40]!r}, expected allocate, free or allocate "
                f"failure{did_you_mean(action.strip().lower(), ACTIONS)}"
            )
        if ":" in time:
            clock = _of_day(time, where)
            if clock < before - NOON:
                days += 1
            before = clock
            clock += days * DAY
        else:
            clock = _of_epoch(time, where)
        asked = integer(size, 0, MAX_SIZE, where, "size")
        address = 0
        if pointer.strip() not in NULL:
            address = integer(_hex(pointer), 1, MAX_ADDRESS, where, "pointer")
        elif kind != OOM and asked:
            raise TraceError(f"{where}: found {action.strip()} of {asked:,} bytes at address 0")
        if stream not in streams:
            streams[stream] = integer(_hex(stream), 0, 1 << 63, where, "stream")
        rows.add(kind, address, asked, streams[stream], clock, device)
    columns, findings = without_empty(rows.columns())
    return recording(columns, name, {"imported": {"format": "RMM log"}}, findings)


def _hex(text: str) -> str:
    """Return a pointer with its 0x: some builds of RMM leave it out, some print (nil)."""
    text = text.strip()
    if text in NULL:
        return "0"
    return text if text.lower().startswith("0x") or text.isdecimal() else "0x" + text


def _of_day(text: str, where: str) -> int:
    """Return microseconds since midnight of HH:MM:SS.ffffff (older releases: HH:MM:SS:ffffff)."""
    found = CLOCK.fullmatch(text.strip())
    if found is None or int(found[1]) > 23 or int(found[2]) > 59 or int(found[3]) > 60:
        raise TraceError(f"{where}: found the time {text[:40]!r}, expected HH:MM:SS.ffffff")
    hours, minutes, seconds, part = found.groups()
    micros = int((part or "0").ljust(6, "0")[:6])
    return ((int(hours) * 60 + int(minutes)) * 60 + int(seconds)) * 1_000_000 + micros


def _of_epoch(text: str, where: str) -> int:
    """Return microseconds of a number of seconds."""
    found = SECONDS.fullmatch(text.strip())
    if found is None:
        raise TraceError(f"{where}: found the time {text[:40]!r}, expected seconds or HH:MM:SS")
    return int(found[1]) * 1_000_000 + int((found[2] or "0").ljust(6, "0")[:6])

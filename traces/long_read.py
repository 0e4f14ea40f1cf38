"""Reading a long trace.

Files come from strangers: every size is checked before memory is taken for it, every piece against
its checksum and every event against the rules before a replay sees it; nothing in a file is
executed.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import TraceError
from .event import BlockState
from .long_check import check_events
from .long_program import LongProgram
from .long_trace import (
    EVENTS_AT,
    FRONT,
    HASH_BYTES,
    MAGIC,
    TABLES,
    VERSION,
    LongTrace,
)
from .program import LAYOUT_BLOCK_COLUMNS, LAYOUT_SEGMENT_COLUMNS, Layout
from .recording import Finding
from .units import GiB

MAX_TABLES = 2 * GiB
MAX_SIZE = 1 << 50  # bytes of one request; a thousand times the memory of any device
_SHAPE = {  # what the keys of the header hold
    **dict.fromkeys(("columns", "settings", "extra"), (dict, "an object")),
    **dict.fromkeys(("pools", "findings"), (list, "a list")),
    **dict.fromkeys(("has_entries", "complete", "starts_as_recorded"), (bool, "true or false")),
    **dict.fromkeys(
        ("events", "prefix", "piece", "device", "slots", "most_live"), (int, "a whole number")
    ),
}


def open_long(path: Path, advance: Callable[[int], object] = lambda n: None) -> LongTrace:
    """Open a long trace and check all of it.

    Args:
        path: the file.
        advance: called with a number of events whenever so many more were checked.

    Raises:
        TraceError: it is damaged, cut short, or breaks a rule.
    """
    name = path.name
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            front = file.read(FRONT.size)
            at, tables = _read_tables(file, front, size, name)
            # Writable, though nobody writes: to the compiler a read-only array is another type.
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise TraceError(f"{name}: cannot be read: {error.strerror or error}") from None
    try:
        trace = _decode(tables, at, mapped, name)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise TraceError(
            f"{name}: the tables behind the events are not as expected: {error}"
        ) from None
    check_events(trace, advance)
    return trace


def _read_tables(file: IO[bytes], front: bytes, size: int, name: str) -> tuple[int, bytes]:
    """Return where the tables begin, and the tables, checked against their hash."""
    if len(front) < FRONT.size:
        raise TraceError(f"{name}: found {size:,} bytes, expected a long trace; it is cut short")
    magic, version, at, length, digest = FRONT.unpack(front)
    if magic != MAGIC:
        raise TraceError(f"{name}: found {magic!r} at its beginning, expected {MAGIC!r}")
    if version != VERSION:
        if not at and not version:
            raise TraceError(f"{name}: it was never finished; write it again")
        raise TraceError(
            f"{name}: found version {version:,} of the format, expected {VERSION}; a newer "
            "tightfit wrote it"
        )
    if length > MAX_TABLES or at + length != size:
        raise TraceError(
            f"{name}: found {size:,} bytes, expected {at + length:,}; it is cut short or damaged"
        )
    file.seek(at)
    tables = file.read(length)
    if hashlib.sha256(tables).digest() != digest:
        raise TraceError(f"{name}: the tables behind the events are damaged: wrong checksum")
    return at, tables


def _decode(tables: bytes, at: int, mapped: mmap.mmap, name: str) -> LongTrace:
    """Return the trace that tables describe; a ValueError says what is wrong with them."""
    length = int.from_bytes(tables[:8], "little")
    header = json.loads(tables[8 : 8 + length])
    if not isinstance(header, dict):
        raise ValueError(f"found {_shown(header)}, expected an object")
    _check_shape(header)
    counts = {str(k): _whole(v, "rows", 0, len(tables)) for k, v in header["columns"].items()}
    if set(counts) != set(TABLES):
        odd = min(set(counts) ^ set(TABLES))[:40]
        raise ValueError(f"found columns too many or too few: {odd!r}")
    place = 8 + length
    if place + sum(n * TABLES[k].itemsize for k, n in counts.items()) != len(tables):
        raise ValueError("their length is not that of their columns")
    columns: dict[str, np.ndarray] = {}
    for column, n in counts.items():
        dtype = TABLES[column]
        values = np.frombuffer(tables, dtype, n, place)
        columns[column] = values.astype(dtype.newbyteorder("="))
        place += n * dtype.itemsize
    n = _whole(header["events"], "events", 0, 1 << 48)
    prefix = _whole(header["prefix"], "prefix", 0, n)
    n_entries = n - prefix if header["has_entries"] else 0
    piece = _whole(header["piece"], "piece", 1, 1 << 28)
    if EVENTS_AT + 8 * (n + n_entries) != at:
        raise ValueError(f"found {at - EVENTS_AT:,} bytes of events, expected {8 * n:,}")
    hashes = columns["hashes"].tobytes() + columns["entry_hashes"].tobytes()
    if len(hashes) != HASH_BYTES * (-(-n // piece) + -(-n_entries // piece)):
        raise ValueError("the number of checksums is not that of the pieces")
    words = np.frombuffer(mapped, "<i8", n + n_entries, EVENTS_AT) if n else np.zeros(0, "<i8")
    program = LongProgram(
        device=_whole(header["device"], "device", 0, 1 << 15),
        op=np.zeros(0, np.uint8),
        arg=np.zeros(0, np.int32),
        entry=np.zeros(0, np.int64),
        request=columns["start_request"],
        req_size=columns["req_size"],
        req_stream=columns["req_stream"],
        req_pool=columns["req_pool"],
        streams=columns["streams"],
        pools=[_pool(p) for p in header["pools"]],
        start=Layout(
            {k: columns[f"segments.{k}"] for k in LAYOUT_SEGMENT_COLUMNS},
            {k: columns[f"blocks.{k}"] for k in LAYOUT_BLOCK_COLUMNS},
        ),
        addr=np.zeros(0, np.uint64),
        complete=header["complete"],
        findings=[_finding(f) for f in header["findings"]],
        n_events=n - prefix,
    )
    _check_requests(program)
    _check_start(program)
    n_slots = _whole(header["slots"], "slots", 1, min(n + 2, 1 << 31))
    trace = LongTrace(
        name=name,
        program=program,
        events=words[:n].astype(np.int64, copy=False),
        prefix=prefix,
        piece=piece,
        entry=words[n:] if n_entries else None,
        hashes=[hashes[k : k + HASH_BYTES] for k in range(0, len(hashes), HASH_BYTES)],
        starts_as_recorded=header["starts_as_recorded"],
        n_slots=n_slots,
        max_live=_whole(header["most_live"], "most_live", 0, n_slots),
        settings=header["settings"],
        extra=header["extra"],
        _map=mapped,
    )
    program.find_entry = trace.entry_of
    return trace


def _whole(value: Any, what: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"found {_shown(value)} for {what}, expected {low:,} to {high:,}")
    return value


def _shown(value: Any) -> str:
    """A value as JSON, cut short; a container only by its kind, however long it is."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return json.dumps(value)[:40]


def _check_shape(header: dict[str, Any]) -> None:
    """Every key must be of its kind before it is used; the numbers are checked where they are."""
    for key, (kind, word) in _SHAPE.items():
        if key not in header:
            raise ValueError(f"found no '{key}'")
        if type(header[key]) is not kind:
            raise ValueError(f"found {_shown(header[key])} for '{key}', expected {word}")


def _pool(value: Any) -> tuple[int, int]:
    if type(value) is not list or len(value) != 2:
        raise ValueError(f"found {_shown(value)} for a pool, expected two whole numbers")
    a, b = (_whole(number, "a pool", -(1 << 63), (1 << 64) - 1) for number in value)
    return a, b


def _finding(value: Any) -> Finding:
    if not isinstance(value, dict):
        raise ValueError(f"found {_shown(value)} for a finding, expected an object")
    kind, text, device = value["kind"], value["text"], value["device"]
    if type(kind) is not str or type(text) is not str:
        raise ValueError("found a finding whose kind or text is no text")
    return Finding(
        kind, _whole(value["count"], "a finding's count", -(1 << 63), (1 << 63) - 1), text,
        None if device is None else _whole(device, "a finding's device", -1, 1 << 15),
    )  # fmt: skip


def _within(values: np.ndarray, low: int, high: int, what: str) -> None:
    if len(values) and not (low <= int(values.min()) and int(values.max()) < high):
        raise ValueError(f"found {what} outside {low:,} to {high - 1:,}")


def _check_requests(program: LongProgram) -> None:
    n = len(program.req_size)
    if n >= 1 << 28 or len(program.req_stream) != n or len(program.req_pool) != n:
        raise ValueError("the columns of the requests differ in length")
    if not program.pools or program.pools[0] != (0, 0):
        raise ValueError("the first pool is not the default one")
    _within(program.req_size, 1, MAX_SIZE, "a request's size")
    _within(program.req_stream, 0, len(program.streams), "a request's stream")
    _within(program.req_pool, 0, len(program.pools), "a request's pool")


def _check_start(program: LongProgram) -> None:
    """The start layout must tile its segments and own its allocations, each once."""
    seg, blk = program.start.segments, program.start.blocks
    lengths = {len(c) for c in seg.values()}, {len(c) for c in blk.values()}
    if any(len(x) != 1 for x in lengths):
        raise ValueError("the columns of the start layout differ in length")
    n = len(blk["size"])
    _within(seg["n_blocks"], 1, n + 1, "a segment's number of blocks")
    _within(seg["size"], 1, MAX_SIZE, "a segment's size")
    _within(seg["stream"], 0, len(program.streams), "a segment's stream")
    _within(seg["pool"], 0, len(program.pools), "a segment's pool")
    _within(seg["address"], 0, 1 << 62, "a segment's address")
    _within(blk["size"], 1, MAX_SIZE, "a block's size")
    _within(blk["state"], 0, len(BlockState), "a block's state")
    _within(program.request, 0, len(program.req_size), "a start allocation's request")
    first = np.cumsum(seg["n_blocks"]) - seg["n_blocks"]
    if int(seg["n_blocks"].sum()) != n or not np.array_equal(first, seg["first_block"]):
        raise ValueError("the blocks of the start layout are not those of its segments")
    if n:
        begin = np.cumsum(blk["size"]) - blk["size"]
        offset = begin - np.repeat(begin[first], seg["n_blocks"])
        base = np.repeat(seg["address"], seg["n_blocks"]).astype(np.int64)
        whole = np.add.reduceat(blk["size"], first)
        if not np.array_equal(blk["address"].astype(np.int64), base + offset):
            raise ValueError("the blocks of the start layout do not lie one behind the other")
        if not np.array_equal(whole, seg["size"]):
            raise ValueError("the blocks of the start layout do not fill their segments")
    owned = blk["alloc"] >= 0
    if not np.array_equal(np.sort(blk["alloc"][owned]), np.arange(len(program.request))):
        raise ValueError("the start layout does not hold each of its allocations once")
    if (owned != (blk["state"] != BlockState.INACTIVE)).any():
        raise ValueError("the start layout has active blocks without an allocation, or the reverse")

"""Reader of PyTorch profiler traces (Kineto, Chrome's JSON), made with profile_memory=True.

Each `[memory]` event says: device, address, bytes (negative = freed), bytes allocated and reserved
on the device afterwards, time. The bytes are those of the block, not those asked for. Events stand
thread by thread in the file; their times give the one order they happened in, which the running
total confirms.

Source: c10/cuda/CUDACachingAllocator.cpp, reportMemoryUsageToProfiler in alloc_found_block and in
free (where the free is requested, not where it completes); torch/csrc/profiler/collection.cpp.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

from .errors import TraceError
from .foreign_rows import (
    ALLOC,
    FREE,
    MAX_ADDRESS,
    MAX_DEVICES,
    MAX_SIZE,
    OOM,
    Rows,
    recording,
    without_empty,
)
from .json_scan import objects_with
from .recording import Finding, Recording
from .units import MiB, format_bytes

MEMORY, OUT_OF_MEMORY = "[memory]", "[OutOfMemory]"
CUDA = 1  # c10::DeviceType
BLOCK = 512  # every block begins at a multiple of this
LONGEST_EVENT = MiB  # a thousand times a real one; what is parsed takes twenty times its text
LAST_TIME = 1 << 53  # microseconds; in the year 2255
SNAPSHOT_KEYS = (b'"segments"', b'"device_traces"')
HEAD = 4096  # bytes in which a snapshot's first key stands
NUMBER = re.compile(r"(\d{1,16})(?:\.(\d{1,9}))?", re.ASCII)


def read_kineto(chunks: Iterable[bytes], name: str) -> Recording:
    """Read the memory events of a profiler trace.

    Args:
        chunks: the JSON text, in pieces; never held as a whole.
        name: file name.

    Raises:
        TraceError: the file is no JSON document, an event is not as described, or there is none.
    """
    rows, totals, reserved = Rows(), array("q"), array("q")
    others = seen = long = 0
    chunks = iter(chunks)
    head = next(chunks, b"")
    for offset, text in objects_with(chain([head], chunks), (MEMORY, OUT_OF_MEMORY)):
        if len(text) > LONGEST_EVENT:
            long += 1
            continue
        event = _parsed(text, offset)
        if event.get("name") not in (MEMORY, OUT_OF_MEMORY) or "args" not in event:
            continue
        where = f"byte {offset:,}: {event['name']} event"
        seen += 1
        args = event["args"]
        if not isinstance(args, dict):
            raise TraceError(f"{where}: found {_kind(args)} as args, expected an object")
        if _number(args, "Device Type", 0, 1 << 16, where) != CUDA:
            others += 1
            continue
        change = _number(args, "Bytes", -MAX_SIZE, MAX_SIZE, where)
        kind = OOM if event["name"] == OUT_OF_MEMORY else ALLOC if change >= 0 else FREE
        device = _number(args, "Device Id", 0, MAX_DEVICES, where)
        address = 0 if kind == OOM else _number(args, "Addr", 0, MAX_ADDRESS, where)
        rows.add(kind, address, abs(change), 0, _nanoseconds(event, where), device)
        # The first releases with these events had no totals.
        totals.append(_number(args, "Total Allocated", -1, 1 << 60, where, -1))
        reserved.append(_number(args, "Total Reserved", -1, 1 << 60, where, -1))
    if not len(rows) and not seen and any(key in head[:HEAD] for key in SNAPSHOT_KEYS):
        raise TraceError(
            "found a memory snapshot as JSON, expected the pickle that "
            "torch.cuda.memory._dump_snapshot() writes"
        )
    if not len(rows):
        found = f"{seen:,} memory events, none of a CUDA device" if seen else "no memory events"
        raise TraceError(
            f"found a JSON file with {found}; PyTorch's profiler writes them with "
            "profile_memory=True, and a memory snapshot (a pickle) tells far more"
        )
    columns = rows.columns() | {"total": np.asarray(totals), "reserved": np.asarray(reserved)}
    order = np.argsort(columns["time"], kind="stable")
    columns = {key: column[order] for key, column in columns.items()}
    columns["time"] = columns["time"] // 1000
    findings = [
        Finding("block_sizes", len(rows), "sizes are those of blocks, rounded by the recorded "
                "allocator (to 512 bytes, and a large block may be up to 1 MiB longer than asked "
                "for); what was asked for is not recorded, and may be less"),
        Finding("no_streams", len(rows), "streams are not recorded; one is assumed"),
        Finding("no_completions", len(rows), "a free is recorded when it is requested; "
                "memory that waited for another stream after that is not seen"),
    ]  # fmt: skip
    if others:
        text = f"memory events of the CPU and other devices: {others:,}; left out"
        findings.append(Finding("other_devices", others, text))
    if long:
        text = (
            f"objects of more than {format_bytes(LONGEST_EVENT)} that name a memory event, and are "
            f"too long to be one: {long:,}; left out"
        )
        findings.append(Finding("long_objects", long, text))
    for device in np.unique(columns["device"]).tolist():
        part = {key: column[columns["device"] == device] for key, column in columns.items()}
        findings += _totals(part, device)
    findings += _name_blocks(columns)
    total = {key: columns.pop(key) for key in ("total", "reserved")}
    columns, empty = without_empty(columns)
    source = {"format": "Kineto", "peak_reserved_bytes": int(total["reserved"].max(initial=0))}
    return recording(columns, name, {"imported": source}, findings + empty)


def _name_blocks(columns: dict[str, np.ndarray]) -> list[Finding]:
    """Make addresses up, in place, where the recorded ones are not those of device memory.

    Old releases report where the allocator keeps its record of the block: a name for the block
    while it is live, but such names lie closer together than the blocks are long.

    Raises:
        TraceError: there are more names than addresses for the largest block.
    """
    served = columns["kind"] != OOM
    if not (columns["addr"][served] % BLOCK).any():
        return []
    names, number = np.unique(columns["addr"][served], return_inverse=True)
    step = int(columns["size"].max()) // BLOCK * BLOCK + BLOCK
    if (len(names) + 1) * step >= MAX_ADDRESS:
        raise TraceError(f"found {len(names):,} addresses of blocks of up to {step:,} bytes")
    columns["addr"][served] = (number + 1) * step
    text = (
        "the addresses recorded are not those of device memory, as an old release writes them; "
        "each is taken to name one block at a time"
    )
    return [Finding("made_up_addresses", len(names), text)]


def _totals(part: dict[str, np.ndarray], device: int) -> list[Finding]:
    """Say what one device's running totals tell beyond its events."""
    kind, total = part["kind"], part["total"]
    change = np.where(kind == ALLOC, part["size"], -part["size"])
    change[kind == OOM] = 0
    if (total < 0).any():
        return []
    out: list[Finding] = []

    def add(kind: str, count: int, text: str) -> None:
        if count:
            out.append(Finding(kind, count, text, device))

    before = int(total[0] - change[0])
    held = before - _freed_unseen(part["addr"], kind, part["size"])
    add("held_before", max(held, 0), f"memory allocated before the trace began and not freed in "
        f"it: {held:,} bytes; where it lies is not recorded and no replay holds it, so add it to "
        f"every peak; beside --capacity, --other {-(-held // MiB)}MiB leaves room for "
        "it")  # fmt: skip
    allocated, reserved = int(total.max()), int(part["reserved"].max())
    add("recorded_peak", 1, f"as recorded, peak allocated {format_bytes(allocated)} and peak "
        f"reserved {format_bytes(reserved)}, all that was held before included")  # fmt: skip
    breaks = int((np.diff(total) != change[1:]).sum())
    add("events_missing", breaks, f"events whose total does not follow from the event before: "
        f"{breaks:,}; some events are missing or out of order")  # fmt: skip
    return out


def _freed_unseen(addr: np.ndarray, kind: np.ndarray, size: np.ndarray) -> int:
    """Return the bytes freed at addresses whose first event is the free."""
    _, first = np.unique(addr, return_index=True)
    return int(size[first[kind[first] == FREE]].sum())


def _parsed(text: bytes, offset: int) -> dict[str, Any]:
    try:
        event = json.loads(text, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:80]
        raise TraceError(f"byte {offset:,}: found an event that is not JSON: {reason}") from None
    return event


def _number(
    args: dict[str, Any], key: str, low: int, high: int, where: str, absent: int | None = None
) -> int:
    """Return a whole number within [low, high) by its key."""
    value = args.get(key, absent)
    if type(value) is not int:
        found = f"{value[:40]!r}" if isinstance(value, str) else _kind(value)
        raise TraceError(f"{where}: found {found} as '{key}', expected a whole number")
    if not low <= value < high:
        shown = f"{value:,}" if abs(value) < 1 << 80 else "a number of many digits"
        raise TraceError(f"{where}: found {shown} as '{key}', expected {low:,} to {high - 1:,}")
    return value


def _nanoseconds(event: dict[str, Any], where: str) -> int:
    """Return the time of an event; the file has microseconds, whole or with three decimals."""
    value = event.get("ts")
    if type(value) is int or isinstance(value, str):
        text = str(value) if isinstance(value, str) or abs(value) < LAST_TIME else ""
        found = NUMBER.fullmatch(text)
        if found and int(found[1]) < LAST_TIME:
            return int(found[1]) * 1000 + int((found[2] or "0").ljust(3, "0")[:3])
        raise TraceError(
            f"{where}: found the time {text[:40] or 'of many digits'!r}, expected microseconds "
            f"from 0 to {LAST_TIME:,}"
        )
    raise TraceError(f"{where}: found {_kind(value)} as 'ts', expected microseconds")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", type(None): "nothing", bool: "true or false"}
    return names.get(type(value), f"a {type(value).__name__}")

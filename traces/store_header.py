"""header.json of a stored recording, and what must hold of a recording as a whole."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from .errors import TraceError
from .event import BLOCK_COLUMNS, ENTRY_COLUMNS, SEGMENT_COLUMNS, Action, BlockState
from .recording import DeviceRecording, Finding, Recording, Stacks

FORMAT = "tightfit-recording"
Counts = dict[str, int]
_MAX_ROWS = 1 << 40  # beyond every recording, and sums of such counts stay in 64 bits


def encode_header(
    recording: Recording, version: int, time_base: dict[int, int], where: str
) -> bytes:
    """Return header.json.

    Raises:
        TraceError: the recording holds something JSON cannot.
    """
    stacks = recording.stacks
    header = {
        "format": FORMAT,
        "version": version,
        "name": recording.name,
        "counts": {
            "frames": len(stacks.frames),
            "stacks": len(stacks),
            "frame_ids": len(stacks.frame_ids),
        },
        "devices": {
            str(number): {
                "entries": device.n_entries,
                "segments": len(device.segments["address"]),
                "blocks": len(device.blocks["address"]),
                "first_time_us": time_base[number],
            }
            for number, device in recording.devices.items()
        },
        "streams": recording.streams.tolist(),
        "pools": recording.pools,
        "strings": stacks.strings,
        "notes": recording.notes,
        "settings": recording.settings,
        "annotations": recording.annotations,
        "extra": recording.extra,
        "findings": [asdict(finding) for finding in recording.findings],
    }
    try:
        return json.dumps(header, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise TraceError(f"{where}: cannot be written as JSON: {error}") from error


def decode_header(
    content: bytes, version: int, where: str
) -> tuple[Recording, Counts, dict[int, tuple[Counts, int]]]:
    """Read header.json.

    Returns:
        A recording without its columns; the counts of the stacks' columns; for each device the
        counts of its columns and the time its first step starts from.

    Raises:
        TraceError: it is not a header of this format and version.
    """
    try:
        header = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{where}: header.json is not JSON: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise TraceError(f"{where}: header.json does not say '{FORMAT}'")
    if header.get("version") != version:
        raise TraceError(
            f"{where}: found version {header.get('version')!r} of the format, this reader knows "
            f"version {version}"
        )
    take = _Fields(header, where)
    counts = take.fields("counts").counts("frames", "stacks", "frame_ids")
    devices = {}
    for number, fields in take.object("devices").items():
        device = _Fields({"device": fields}, f"{where}: device {number}").fields("device")
        if not number.removeprefix("-").isdecimal() or str(int(number)) != number:
            raise TraceError(f"{where}: found device '{number}', expected an integer")
        devices[int(number)] = (
            device.counts("entries", "segments", "blocks"),
            device.integer("first_time_us", -(1 << 63), 1 << 63),
        )
    streams = take.list("streams", int)
    if any(not -(1 << 63) <= s < 1 << 63 for s in streams):
        raise TraceError(f"{where}: header.json: a stream handle does not fit 64 bits")
    pools = take.list("pools", list)
    if any(len(p) != 2 or not all(type(i) is int for i in p) for p in pools):
        raise TraceError(f"{where}: header.json: found a pool that is not two integers")
    recording = Recording(
        name=take.value("name", str),
        streams=np.array(streams, np.int64),
        pools=[(a, b) for a, b in pools],
        stacks=Stacks(strings=take.list("strings", str)),
        notes=take.list("notes", str),
        settings=take.object("settings"),
        annotations=take.list("annotations", dict),
        extra=take.object("extra"),
    )
    for found in take.list("findings", dict):
        fields = _Fields(found, f"{where}: finding")
        device = found.get("device")
        recording.findings.append(
            Finding(
                fields.value("kind", str),
                fields.value("count", int),
                fields.value("text", str),
                None if device is None else fields.value("device", int),
            )
        )
    return recording, counts, devices


class _Fields:
    """A JSON object whose fields are taken out by name and type."""

    def __init__(self, fields: dict[str, Any], where: str) -> None:
        self.fields_ = fields
        self.where = where

    def value(self, name: str, kind: type) -> Any:
        found = self.fields_.get(name)
        if type(found) is not kind:
            raise TraceError(
                f"{self.where}: header.json: '{name}' is {type(found).__name__}, expected "
                f"{kind.__name__}"
            )
        return found

    def object(self, name: str) -> dict[str, Any]:
        return self.value(name, dict)

    def fields(self, name: str) -> _Fields:
        return _Fields(self.object(name), self.where)

    def list(self, name: str, kind: type) -> list[Any]:
        found = self.value(name, list)
        if any(type(item) is not kind for item in found):
            raise TraceError(
                f"{self.where}: header.json: '{name}' is not a list of {kind.__name__}"
            )
        return found

    def integer(self, name: str, low: int, high: int) -> int:
        found = self.value(name, int)
        if not low <= found < high:
            raise TraceError(f"{self.where}: header.json: '{name}' = {found} is out of range")
        return found

    def counts(self, *names: str) -> Counts:
        return {name: self.integer(name, 0, _MAX_ROWS) for name in names}


def check(recording: Recording, where: str) -> None:
    """Check that every index of a recording points at something.

    Raises:
        TraceError: one does not, or a column is missing, of another type or another length.
    """
    stacks = recording.stacks
    offsets = stacks.offsets
    if len(offsets) < 2 or offsets[0] != 0 or np.any(np.diff(offsets) < 0):
        raise TraceError(f"{where}: the stacks' offsets do not ascend from 0")
    if offsets[-1] != len(stacks.frame_ids):
        raise TraceError(
            f"{where}: the stacks end at frame {offsets[-1]}, there are {len(stacks.frame_ids)}"
        )
    if stacks.frames.ndim != 2 or stacks.frames.shape[1] != 3:
        raise TraceError(f"{where}: the stacks' frames have shape {stacks.frames.shape}")
    _below(stacks.frame_ids, len(stacks.frames), f"{where}: frame of a stack")
    _below(stacks.frames[:, 0], len(stacks.strings), f"{where}: file name of a frame")
    _below(stacks.frames[:, 2], len(stacks.strings), f"{where}: function name of a frame")
    limits = {
        "stream": len(recording.streams),
        "stack": len(stacks),
        "pool": len(recording.pools),
        "note": len(recording.notes),
        "action": len(Action),
        "state": len(BlockState),
    }
    for number, device in recording.devices.items():
        place = f"{where}: device {number}"
        for table, columns, kinds in (
            ("entries", device.entries, ENTRY_COLUMNS),
            ("segments", device.segments, SEGMENT_COLUMNS),
            ("blocks", device.blocks, BLOCK_COLUMNS),
        ):
            _check_table(columns, kinds, f"{place}: {table}")
            for name in columns.keys() & limits.keys():
                _below(columns[name], limits[name], f"{place}: {name} in {table}")
        _check_segments(device, place)


def _check_table(columns: dict[str, np.ndarray], kinds: dict[str, np.dtype], where: str) -> None:
    if columns.keys() != kinds.keys():
        odd = sorted(columns.keys() ^ kinds.keys())
        raise TraceError(f"{where}: found columns too many or too few: {', '.join(odd)}")
    lengths = {column.shape for column in columns.values()}
    if len(lengths) != 1 or len(next(iter(lengths))) != 1:
        raise TraceError(f"{where}: found columns of different shapes {sorted(lengths)}")
    for name, column in columns.items():
        if column.dtype != kinds[name]:
            raise TraceError(f"{where}: {name} is {column.dtype}, expected {kinds[name]}")


def _check_segments(device: DeviceRecording, where: str) -> None:
    first, n = device.segments["first_block"], device.segments["n_blocks"]
    blocks = len(device.blocks["address"])
    bad = (first < 0) | (n < 0) | (n > blocks) | (first > blocks - n)
    if np.any(bad):
        raise TraceError(
            f"{where}: segment {int(np.argmax(bad))} claims blocks that do not exist "
            f"(there are {blocks})"
        )
    # Readers repeat a segment's row for each of its blocks: together they must be all blocks.
    if int(n.sum()) != blocks:
        raise TraceError(f"{where}: found {blocks} blocks, its segments claim {int(n.sum())}")
    bad = first != np.cumsum(n) - n
    if np.any(bad):
        k = int(np.argmax(bad))
        raise TraceError(
            f"{where}: segment {k} begins at block {first[k]}, expected {n[:k].sum()}, one behind "
            "the last of the segment before"
        )


def _below(indices: np.ndarray, limit: int, where: str) -> None:
    if len(indices) and (int(indices.max()) >= limit or int(indices.min()) < 0):
        worst = int(indices.max()) if int(indices.max()) >= limit else int(indices.min())
        raise TraceError(f"{where}: found number {worst}, there are {limit}")

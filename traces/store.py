"""Our own file for recordings: a zip of columns that `numpy.load` opens without pickle.

docs/decisions/0003-trace-format.md describes the format so that a stranger can read it, and says
why it is as it is. Files come from strangers: every size is checked against the counts in the
header, and those against a limit, before memory is taken for it; nothing in a file is executed.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .byte_planes import differences, frees, from_planes, references, running_sum, to_planes
from .distinct import distinct
from .errors import TraceError
from .event import BLOCK_COLUMNS, ENTRY_COLUMNS, SEGMENT_COLUMNS, Action, empty_columns
from .recording import DeviceRecording, Recording, Stacks
from .store_header import Counts, check, decode_header, encode_header
from .units import GiB, MiB, format_bytes
from .whole_file import replacing

VERSION = 1
MAX_BYTES = 8 * GiB  # decoded size a reader accepts unless told otherwise
MAX_HEADER_BYTES = 256 * MiB
_JSON_GROWTH = 24  # memory that "{}," takes once parsed, per byte of text
_PACKED = 4 * MiB  # bytes packed at a time: Ctrl-C is heard between two pieces

# Columns of an entry that are stored as they are.
_PLAIN = ("stream", "stack", "pool", "note")


def save(recording: Recording, path: Path | str) -> None:
    """Write a recording; the file is there whole or not at all.

    The same recording gives the same bytes.

    Raises:
        TraceError: the recording contradicts itself, holds something JSON cannot, or the file
            cannot be written.
    """
    path = Path(path)
    check(recording, recording.name or path.name)
    time_base = {
        number: int(device.entries["time_us"][0]) if device.n_entries else 0
        for number, device in recording.devices.items()
    }
    header = encode_header(recording, VERSION, time_base, path.name)
    if len(header) > MAX_HEADER_BYTES:
        raise TraceError(
            f"{path.name}: header.json would take {format_bytes(len(header))}, expected at most "
            f"{format_bytes(MAX_HEADER_BYTES)}; strip the recording of notes and stacks first"
        )
    try:
        with replacing(path) as out, zipfile.ZipFile(out, "w") as archive:
            _write(archive, "header.json", header)
            for name, values in _stack_columns(recording.stacks).items():
                _write_column(archive, f"stacks.{name}", values)
            for number, device in recording.devices.items():
                for name, values in _entry_columns(device.entries, time_base[number]).items():
                    _write_column(archive, f"{number}.entries.{name}", values)
                for table, columns in (("segments", device.segments), ("blocks", device.blocks)):
                    for name, values in columns.items():
                        _write_column(archive, f"{number}.{table}.{name}", values)
    except OSError as error:
        raise TraceError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_store(path: Path | str, *, max_bytes: int = MAX_BYTES) -> Recording:
    """Read a recording that `save` wrote.

    Args:
        path: the file.
        max_bytes: refuse files whose decoded columns take more memory than this.

    Raises:
        TraceError: the file is not of this format or version, is damaged, contradicts itself or
            is larger than allowed.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            recording = _Reader(archive, path.name, max_bytes).recording()
    except TraceError:
        raise
    except FileNotFoundError as error:
        raise TraceError(f"{path}: there is no such file") from error
    except _DAMAGE as error:
        raise TraceError(
            f"{path.name}: damaged, or not a tightfit recording ({type(error).__name__}: {error})"
        ) from error
    check(recording, path.name)
    return recording


# What zipfile, zlib and numpy raise when bytes are wrong.
_DAMAGE = (
    OSError, EOFError, ValueError, KeyError, IndexError, OverflowError, NotImplementedError,
    RuntimeError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def _write(archive: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    # A fixed date, so that equal recordings give equal files.
    member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    member.external_attr = 0o644 << 16
    member.compress_type = zipfile.ZIP_DEFLATED
    member.file_size = len(content)
    with archive.open(member, "w") as out, memoryview(content) as whole:
        for at in range(0, len(content), _PACKED):
            out.write(whole[at : at + _PACKED])


def _write_column(archive: zipfile.ZipFile, name: str, values: np.ndarray) -> None:
    planes = to_planes(values)
    out = io.BytesIO()
    np.lib.format.write_array(out, planes, version=(1, 0), allow_pickle=False)
    _write(archive, name + ".npy", out.getbuffer())


def _stack_columns(stacks: Stacks) -> dict[str, np.ndarray]:
    return {
        "file": stacks.frames[:, 0],
        "line": stacks.frames[:, 1],
        "function": stacks.frames[:, 2],
        "length": np.diff(stacks.offsets),
        "frame": stacks.frame_ids,
    }


def _entry_columns(entries: dict[str, np.ndarray], time_base: int) -> dict[str, np.ndarray]:
    """Return the stored columns of a device's entries; see the format's description."""
    action, addr, size = entries["action"], entries["addr"], entries["size"]
    distance = references(action, addr)
    free = np.flatnonzero(frees(action))
    referring = free[distance > 0]
    source = referring - distance[distance > 0]
    explicit = np.ones(len(action), bool)
    explicit[referring] = False
    addresses, address_index = distinct(addr[explicit])
    sizes, size_index = distinct(size[explicit])
    with np.errstate(over="ignore"):
        size_change = size[referring] - size[source]
    return {
        "action": action,
        **{name: entries[name] for name in _PLAIN},
        "time_step": differences(entries["time_us"], time_base),
        "alloc_distance": distance.view(np.uint64),
        "size_change": size_change,
        "address": differences(addresses, 0),
        "address_index": address_index.astype(np.uint64),
        "size": sizes,
        "size_index": size_index.astype(np.uint64),
    }


class _Reader:
    """One open file: hands out its columns, each checked before it is unpacked."""

    def __init__(self, archive: zipfile.ZipFile, where: str, max_bytes: int) -> None:
        self.archive = archive
        self.where = where
        self.left = max_bytes
        self.max_bytes = max_bytes
        self.members: dict[str, zipfile.ZipInfo] = {}
        for member in archive.infolist():
            if member.filename in self.members:
                raise TraceError(f"{where}: found two members named '{member.filename}'")
            self.members[member.filename] = member

    def recording(self) -> Recording:
        content = self.content("header.json", MAX_HEADER_BYTES)
        recording, counts, devices = decode_header(content, VERSION, self.where)
        recording.stacks = self.stacks(recording.stacks.strings, counts)
        for number, (device_counts, time_base) in devices.items():
            recording.devices[number] = DeviceRecording(
                self.entries(number, device_counts["entries"], time_base),
                self.table(f"{number}.segments", SEGMENT_COLUMNS, device_counts["segments"]),
                self.table(f"{number}.blocks", BLOCK_COLUMNS, device_counts["blocks"]),
            )
        if self.members:
            raise TraceError(
                f"{self.where}: found an unexpected member '{next(iter(self.members))}'"
            )
        return recording

    def stacks(self, strings: list[str], counts: Counts) -> Stacks:
        frames = np.stack(
            [
                self.column(f"stacks.{name}", counts["frames"], np.dtype("i8"))
                for name in ("file", "line", "function")
            ],
            axis=1,
        )
        length = self.column("stacks.length", counts["stacks"], np.dtype("i8"))
        offsets = np.zeros(counts["stacks"] + 1, np.int64)
        np.cumsum(length, out=offsets[1:])
        ids = self.column("stacks.frame", counts["frame_ids"], np.dtype("u4"))
        return Stacks(strings, frames, offsets, ids)

    def table(self, prefix: str, columns: dict[str, np.dtype], n: int) -> dict[str, np.ndarray]:
        return {name: self.column(f"{prefix}.{name}", n, dtype) for name, dtype in columns.items()}

    def entries(self, number: int, n: int, time_base: int) -> dict[str, np.ndarray]:
        prefix = f"{number}.entries"
        action = self.column(f"{prefix}.action", n, ENTRY_COLUMNS["action"])
        plain = self.table(prefix, {name: ENTRY_COLUMNS[name] for name in _PLAIN}, n)
        steps = self.column(f"{prefix}.time_step", n, np.dtype("i8"))
        is_free = frees(action)
        free = np.flatnonzero(is_free)
        distance = self.column(f"{prefix}.alloc_distance", len(free), np.dtype("u8"))
        found = distance > 0
        referring = free[found]
        if np.any(distance[found] > referring.astype(np.uint64)):
            raise TraceError(f"{self.where}: {prefix}: a free refers to before the first entry")
        source = referring - distance[found].astype(np.int64)
        if np.any(action[source] != Action.ALLOC):
            raise TraceError(f"{self.where}: {prefix}: a free refers to no allocation")
        change = self.column(f"{prefix}.size_change", len(referring), np.dtype("i8"))
        explicit = np.ones(n, bool)
        explicit[referring] = False
        out = {**empty_columns({"addr": ENTRY_COLUMNS["addr"], "size": ENTRY_COLUMNS["size"]}, n)}
        rows = n - len(referring)
        addresses = running_sum(self.distinct(f"{prefix}.address", rows), 0).view(np.uint64)
        out["addr"][explicit] = self.looked_up(addresses, f"{prefix}.address_index", rows)
        sizes = self.distinct(f"{prefix}.size", rows)
        out["size"][explicit] = self.looked_up(sizes, f"{prefix}.size_index", rows)
        out["addr"][referring] = out["addr"][source]
        with np.errstate(over="ignore"):
            out["size"][referring] = out["size"][source] + change
        all_columns = {**plain, **out, "action": action, "time_us": running_sum(steps, time_base)}
        return {name: all_columns[name] for name in ENTRY_COLUMNS}

    def distinct(self, name: str, most: int) -> np.ndarray:
        """Return a table of distinct values, whose length is the member's own, at most `most`."""
        return self.column(name, most, np.dtype("i8"), exact=False)

    def looked_up(self, table: np.ndarray, name: str, n: int) -> np.ndarray:
        index = self.column(name, n, np.dtype("u8"))
        if n and int(index.max()) >= len(table):
            raise TraceError(f"{self.where}: {name}: found row {index.max()} of {len(table)}")
        return table[index.astype(np.int64)]

    def column(self, name: str, n: int, dtype: np.dtype, exact: bool = True) -> np.ndarray:
        """Unpack one column of n values (at most n unless exact)."""
        where = f"{self.where}: {name}"
        member = self.take(name + ".npy")
        with self.archive.open(member) as source:
            version = np.lib.format.read_magic(source)
            if version != (1, 0):
                raise TraceError(f"{where}: found npy version {version}, expected (1, 0)")
            shape, fortran, found = np.lib.format.read_array_header_1_0(source, max_header_size=512)
            fits = (
                found == np.uint8
                and not fortran
                and len(shape) == 2
                and 1 <= shape[0] <= 8
                and (shape[1] == n if exact else shape[1] <= n)
                and member.file_size == source.tell() + shape[0] * shape[1]
            )
            if not fits:
                raise TraceError(
                    f"{where}: found {found} of shape {shape} in {member.file_size} bytes, "
                    f"expected uint8 of shape (1 to 8, {n})"
                )
            self.spend(shape[1] * (shape[0] + dtype.itemsize), where)
            planes = np.empty(shape, np.uint8)
            _fill(source, planes.data.cast("B") if planes.size else memoryview(b""), where)
        return from_planes(planes, dtype, where)

    def content(self, name: str, most: int) -> bytes:
        member = self.take(name)
        if member.file_size > most:
            raise TraceError(
                f"{self.where}: {name} takes {format_bytes(member.file_size)}, expected at most "
                f"{format_bytes(most)}"
            )
        self.spend(member.file_size * _JSON_GROWTH, f"{self.where}: {name}")
        return self.archive.read(member)

    def take(self, name: str) -> zipfile.ZipInfo:
        member = self.members.pop(name, None)
        if member is None:
            raise TraceError(f"{self.where}: found no '{name}': not a tightfit recording")
        if member.flag_bits & 1 or member.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise TraceError(f"{self.where}: '{name}' is packed in a way this format does not use")
        return member

    def spend(self, size: int, where: str) -> None:
        self.left -= size
        if self.left < 0:
            raise TraceError(
                f"{where}: the recording needs more than {format_bytes(self.max_bytes)} of memory; "
                "max_bytes raises the limit"
            )


def _fill(source: Any, target: memoryview, where: str) -> None:
    """Fill the buffer from an open member; reading its last byte also checks its checksum."""
    at = 0
    while at < len(target):
        chunk = source.read(min(MiB, len(target) - at))
        if not chunk:
            raise TraceError(f"{where}: found {at} bytes, expected {len(target)}")
        target[at : at + len(chunk)] = chunk
        at += len(chunk)
    if source.read(1):
        raise TraceError(f"{where}: found more than the expected {len(target)} bytes")

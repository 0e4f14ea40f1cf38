"""Reader of PyTorch memory snapshots: pickle bytes -> Recording.

Understands what `torch.cuda.memory._dump_snapshot` of 1.13 to 2.15 writes, the output of
`_memory_snapshot_pickled`, and a pickled `torch.cuda.memory_snapshot()` (segments only).

Source: torch/csrc/cuda/memory_snapshot.cpp and torch/csrc/cuda/Module.cpp.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from . import pickle_machine as pm
from . import snapshot_words as sw
from .errors import TraceError, did_you_mean
from .event import ENTRY_COLUMNS
from .pickle_values import Values, parse, scan_beginning
from .recording import DeviceRecording, Finding, Recording, Stacks
from .snapshot_explain import explain_entry, rows_of
from .snapshot_layout import Layout, read_layout

_LISTS = ("segments", "device_traces", "host_segments", "host_traces")
_KNOWN = (*_LISTS, "allocator_settings", "external_annotations")
HOST = -1  # the device index of pinned host memory


def read_snapshot(data: bytes | bytearray | memoryview | np.ndarray, name: str) -> Recording:
    """Read a PyTorch memory snapshot.

    Nothing in the file is executed, and no Python object is made per entry.

    Args:
        data: the whole pickle, uncompressed.
        name: shown in messages, kept in the recording; a file name without folders.

    Raises:
        TraceError: it is not a snapshot, is broken, or contradicts itself. The message says where,
            what was found and what was expected.
    """
    array = np.frombuffer(data, np.uint8)
    try:
        return _Reader(array, name).read()
    except TraceError as error:
        raise TraceError(f"{name}: {error}") from None
    except MemoryError:
        raise TraceError(f"{name}: not enough memory to read {len(array):,} bytes") from None


def check_beginning(head: bytes, name: str) -> None:
    """Refuse what its first bytes show to be no snapshot; the rest need not be there yet.

    Raises:
        TraceError: as from `read_snapshot`.
    """
    try:
        scan_beginning(np.frombuffer(head, np.uint8))
    except TraceError as error:
        raise TraceError(f"{name}: {error}") from None


class _Reader:
    """One file on its way to a recording."""

    def __init__(self, data: np.ndarray, name: str) -> None:
        self.values = parse(data)
        self.recording = Recording(name)
        self.top = self._top()

    def read(self) -> Recording:
        rec, top = self.recording, self.top
        layouts = [
            read_layout(self.values, top[key], key, rec, host=key == "host_segments")
            for key in ("segments", "host_segments")
            if key in top
        ]
        traces = {} if "device_traces" not in top else self._traces(top["device_traces"])
        if "host_traces" in top:
            traces |= self._host_trace(top["host_traces"])
        entries = self._entry_columns()
        self._number_streams(entries, layouts)
        self._number_pools(entries, layouts)
        renumber = self._stacks()
        notes = self._notes(entries["note"])
        for layout in layouts:
            layout.number_stacks(renumber)
        if renumber is not None:
            entries["stack"] = renumber[entries["stack"]]
        entries["note"] = _through(notes, entries["note"])
        for device, rows in traces.items():
            rec.devices[device] = DeviceRecording({k: v[rows] for k, v in entries.items()})
        for layout in layouts:
            for device, segments, blocks in layout.by_device():
                at = rec.devices.setdefault(device, DeviceRecording())
                at.segments, at.blocks = segments, blocks
        rec.devices = dict(sorted(rec.devices.items()))
        self._rest()
        return rec

    def _top(self) -> dict[str, int]:
        """Return the words of the outermost dict."""
        values, root = self.values, self.values.root
        words = values.items(root) if root & 15 == pm.LIST else None
        if words and all(pm_kind(values, w) == pm.SEGMENT for w in words):
            return {"segments": root}  # torch.cuda.memory_snapshot()
        top = values.mapping(root)
        if top is None or not ("segments" in top or "device_traces" in top):
            found = values.kind(root)
            if top is not None:
                keys = ", ".join(repr(k[:40]) for k in list(top)[:6])
                found += f" with the keys {keys}" if keys else " without keys"
                found += did_you_mean(next(iter(top), ""), _KNOWN[:2])
            raise TraceError(
                f"not a PyTorch memory snapshot: found {found},"
                " expected a dict with the keys 'segments' and 'device_traces'"
            )
        for key in _LISTS:
            if key in top and top[key] & 15 != pm.LIST:
                raise TraceError(f"{key}: found {values.kind(top[key])}, expected a list")
        return top

    def _entry_columns(self) -> dict[str, np.ndarray]:
        """Return the columns of all entries the machine met, in the order it met them."""
        rows, n = self.values.rows, int(self.values.tables.used[pm.ENTRIES])
        return {key: getattr(rows, key)[:n] for key in ENTRY_COLUMNS}

    def _traces(self, word: int) -> dict[int, slice | np.ndarray]:
        """Return the entries' rows of each device that has any."""
        found: dict[int, slice | np.ndarray] = {}
        for device, trace in enumerate(self._items(word, "device_traces")):
            rows = self._rows(trace, f"device_traces[{device}]")
            if rows is not None:
                found[device] = rows
        return found

    def _host_trace(self, word: int) -> dict[int, slice | np.ndarray]:
        """Return the rows of the entries of pinned host memory: one list, or a list of lists."""
        words = self._items(word, "host_traces")
        if not words or words[0] & 15 != pm.LIST:
            rows = self._rows(word, "host_traces")
            return {} if rows is None else {HOST: rows}
        parts = [self._rows(w, f"host_traces[{k}]") for k, w in enumerate(words)]
        n = int(self.values.tables.used[pm.ENTRIES])
        some = [np.arange(n)[p] if isinstance(p, slice) else p for p in parts if p is not None]
        return {HOST: np.concatenate(some)} if some else {}

    def _items(self, word: int, where: str) -> list[int]:
        words = self.values.items(word)
        if words is None and self.values.python(word):
            raise TraceError(f"{where}: found a list of strings, expected a list of lists")
        return words or []

    def _rows(self, word: int, where: str) -> slice | np.ndarray | None:
        if word & 15 != pm.LIST:
            raise TraceError(f"{where}: found {self.values.kind(word)}, expected a list of entries")
        rows, bad = rows_of(self.values, word, pm.ENTRY)
        if bad >= 0:
            words = self.values.items(word)
            raise explain_entry(self.values, words[bad] if words else 0, f"{where}[{bad}]")
        empty = rows.start == rows.stop if isinstance(rows, slice) else not len(rows)
        return None if empty else rows

    def _number_streams(self, entries: dict[str, np.ndarray], layouts: list[Layout]) -> None:
        """Number the raw stream handles in ascending order."""
        used = self.values.tables.used
        met = self.values.tables.streams[: int(used[pm.STREAMS]), 0]
        raw = np.unique(np.concatenate([met, *(x.segments["stream"] for x in layouts)]))
        self._limit(len(raw), "streams")
        self.recording.streams = raw.astype(np.int64)
        entries["stream"] = _through(np.searchsorted(raw, met).astype(np.uint16), entries["stream"])
        for layout in layouts:
            at = np.searchsorted(raw, layout.segments["stream"])
            layout.segments["stream"] = at.astype(np.uint16)

    def _number_pools(self, entries: dict[str, np.ndarray], layouts: list[Layout]) -> None:
        """Number the pool ids in ascending order after "not recorded"."""
        used = self.values.tables.used
        pairs = self.values.tables.pools[: int(used[pm.POOLS])].tolist()
        met = [(-1, -1), *((a, b) for a, b in pairs)]
        ids = sorted({*met[1:], *(p for x in layouts for p in x.pools)} - {(-1, -1)})
        self._limit(len(ids), "memory pools")
        self.recording.pools = [(-1, -1), *ids]
        number = {p: k for k, p in enumerate(self.recording.pools)}
        renumber = np.array([number[p] for p in met], np.uint16)
        entries["pool"] = _through(renumber, entries["pool"])
        for layout in layouts:
            layout.segments["pool"] = np.array([number[p] for p in layout.pools], np.uint16)

    def _limit(self, n: int, what: str) -> None:
        if n > pm.MAX_INDEX:
            raise TraceError(f"found {n:,} different {what}, expected at most {pm.MAX_INDEX:,}")

    def _stacks(self) -> np.ndarray | None:
        """Fill the recording's stacks; return new numbers of stacks, None if nothing moves."""
        values, used = self.values, self.values.tables.used
        n_frames, n_runs = int(used[pm.FRAMES]), int(used[pm.RUNS])
        frames = values.tables.frames[:n_frames].copy()
        texts, at = np.unique(frames[:, [0, 2]], return_inverse=True)
        at = at.reshape(-1, 2)
        frames[:, 0], frames[:, 2] = at[:, 0], at[:, 1]
        offsets = np.concatenate([np.zeros(1, np.int64), values.tables.runs[:n_runs]])
        items = values.tables.run_items[: int(used[pm.RUN_ITEMS])]
        mixed = values.tables.run_mixed[:n_runs].astype(bool)
        renumber = None
        if mixed.any():  # runs with strings in them are notes, not stacks
            lengths = np.diff(offsets)
            items = items[~np.repeat(mixed, lengths)]
            renumber = (np.cumsum(~mixed) - 1).astype(np.uint32)
            offsets = np.concatenate([[0], np.cumsum(lengths[~mixed])])
        self.recording.stacks = Stacks(
            [values.text(t) for t in texts.tolist()], frames, offsets, items >> np.uint32(1)
        )
        extras = int(used[pm.FRAME_EXTRAS])
        if extras:
            self._find("dropped_key", extras, f"{extras:,} stack frames carry keys beyond filename,"
                       " line and name; these were dropped")  # fmt: skip
        return renumber

    def _notes(self, column: np.ndarray) -> np.ndarray:
        """Fill the recording's notes; return the note of each number the machine gave."""
        values, rec = self.values, self.recording
        n = int(values.tables.used[pm.NOTES])
        counts = np.zeros(n, np.int64)
        for k in range(0, len(column), 1 << 20):  # bincount makes wider copies
            counts += np.bincount(column[k : k + (1 << 20)], minlength=n)
        renumber = np.zeros(n, np.uint32)
        known = {"{}": 0}
        unknown: dict[str, int] = {}
        unwritable: dict[str, int] = {}
        for k in np.flatnonzero(counts[1:]).tolist():
            note: dict[str, Any] = {}
            for key, value in values.note_pairs(k + 1):
                if key == "cpp_frames":
                    continue
                try:
                    note[key] = values.python(value)
                except TraceError:
                    unwritable[key] = unwritable.get(key, 0) + int(counts[k + 1])
                if key not in sw.EXPECTED_NOTES:
                    unknown[key] = unknown.get(key, 0) + int(counts[k + 1])
            text = json.dumps(note, ensure_ascii=False)
            renumber[k + 1] = known.setdefault(text, len(known))
        rec.notes = list(known)
        actions = unknown.pop("action", 0)
        if actions:
            names = {json.loads(t).get("action") for t in known} - {None}
            self._find("unknown_action", actions, f"{actions:,} entries report actions this reader"
                       f" does not know: {', '.join(sorted(map(str, names)))[:200]}")  # fmt: skip
        for key, count in unknown.items():
            self._find("unknown_key", count,
                       f"{count:,} entries carry the unknown key {key[:80]!r}")  # fmt: skip
        for key, count in unwritable.items():
            self._find("dropped_key", count, f"{count:,} entries carry the key {key[:80]!r} with a"
                       " value that cannot be kept")  # fmt: skip
        return renumber

    def _rest(self) -> None:
        """Take over settings, annotations and whatever else stands at the top."""
        values, rec = self.values, self.recording
        for key, word in self.top.items():
            if key in _LISTS:
                continue
            if key in ("allocator_settings", "external_annotations"):
                want = pm.DICT if key == "allocator_settings" else pm.LIST
                if word & 15 != want:
                    kind = "dict" if want == pm.DICT else "list"
                    raise TraceError(f"{key}: found {values.kind(word)}, expected a {kind}")
            try:
                value = values.python(word)
            except TraceError as error:
                self._find("dropped_key", 1, f"the value of {key[:80]!r} was dropped: {error}")
                continue
            if key == "allocator_settings":
                rec.settings = value
            elif key == "external_annotations":
                rec.annotations = [v for v in value if isinstance(v, dict)]
                if len(rec.annotations) < len(value):
                    n = len(value) - len(rec.annotations)
                    self._find("dropped_key", n, f"{n:,} external_annotations are not dicts")
            else:
                rec.extra[key] = value
                if key != "tightfit":  # written by our own `replay --snapshot`
                    self._find("unknown_key", 1, f"the snapshot has the unknown key {key[:80]!r}")
        trailing = len(values.data) - values.end
        if trailing:
            self._find("trailing_bytes", trailing,
                       f"{trailing:,} bytes follow the end of the pickle")  # fmt: skip

    def _find(self, kind: str, count: int, text: str) -> None:
        self.recording.findings.append(Finding(kind, count, text))


def pm_kind(values: Values, word: int) -> int:
    """Return what a dict became (pm.ENTRY, pm.SEGMENT, ...), 0 for anything else."""
    return int(values.tables.boxes[word >> 4]) & 15 if word & 15 == pm.DICT else 0


def _through(renumber: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return renumber[column], or the column itself where nothing would change."""
    if np.array_equal(renumber, np.arange(len(renumber))):
        return column
    return renumber[column]

"""Segments and blocks of a snapshot: from words to checked columns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from . import pickle_machine as pm
from . import snapshot_words as sw
from .errors import TraceError, did_you_mean
from .event import BLOCK_COLUMNS, SEGMENT_COLUMNS, BlockState
from .pickle_values import Values
from .recording import Finding, Recording
from .snapshot_explain import missing, rows_of

MAX_SIZE = 1 << 62  # bytes; sums of two still fit
_SEGMENT = {key: k for k, key in enumerate(pm.SEGMENT_KEYS)}
_BLOCK = {key: k for k, key in enumerate(pm.BLOCK_KEYS)}
_NEEDED = {
    pm.SEGMENT: ("device", "address", "total_size", "stream", "segment_type", "blocks"),
    pm.BLOCK: ("size", "state"),
    pm.PAST: ("addr", "real_size"),
}
_WHAT = {pm.SEGMENT: "a segment", pm.BLOCK: "a block", pm.PAST: "a history entry"}


class Layout:
    """The final state of all devices of a file; streams and pools not numbered yet.

    Attributes:
        segments: SEGMENT_COLUMNS and `device`; `stream` holds raw handles.
        pools: pool id of each segment; (-1, -1) = not recorded.
        blocks: BLOCK_COLUMNS.
    """

    def __init__(
        self,
        segments: dict[str, np.ndarray],
        pools: list[tuple[int, int]],
        blocks: dict[str, np.ndarray],
    ) -> None:
        self.segments, self.pools, self.blocks = segments, pools, blocks

    def number_stacks(self, renumber: np.ndarray | None) -> None:
        """Give all stacks their final numbers."""
        for columns in (self.segments, self.blocks):
            stack = columns["stack"] if renumber is None else renumber[columns["stack"]]
            columns["stack"] = stack.astype(np.uint32)

    def by_device(self) -> Iterator[tuple[int, dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Yield device, segments and blocks of each device."""
        device, counts = self.segments["device"], self.segments["n_blocks"]
        for d in np.unique(device).tolist():
            mine = device == d
            segments = {k: self.segments[k][mine].astype(t) for k, t in SEGMENT_COLUMNS.items()}
            of_mine = np.repeat(mine, counts)
            blocks = {k: self.blocks[k][of_mine].astype(t) for k, t in BLOCK_COLUMNS.items()}
            n = segments["n_blocks"]
            segments["first_block"] = np.cumsum(n) - n
            yield d, segments, blocks


def read_layout(values: Values, word: int, where: str, rec: Recording, host: bool) -> Layout:
    """Read a list of segments.

    Args:
        values: a parsed file.
        word: the list.
        where: its key, for messages.
        rec: takes findings and the values of unknown keys.
        host: the list describes pinned host memory.

    Raises:
        TraceError: something is missing, of the wrong type, or lies where it cannot lie.
    """
    rows = _rows(values, word, pm.SEGMENT, where)
    table = values.rows.segments[rows]
    read = _Column(values, table, _SEGMENT, where)
    n = len(rows)
    segments = {
        "device": np.full(n, -1) if host else read.whole(sw.DEVICE, None, -1, pm.MAX_INDEX),
        "address": read.whole(sw.ADDRESS, None),
        "total_size": read.whole(sw.TOTAL_SIZE, None, 0, MAX_SIZE),
        "allocated_size": read.whole(sw.ALLOCATED_SIZE, -1),
        "active_size": read.whole(sw.ACTIVE_SIZE, -1),
        "requested_size": read.whole(sw.REQUESTED_SIZE, -1),
        "stream": read.whole(sw.STREAM, None, pm.BAD + 1),
        "is_small": read.word(sw.SEGMENT_TYPE, sw.TYPES, sw.FIRST_TYPE),
        "is_expandable": read.flag(sw.IS_EXPANDABLE),
        "stack": read.stack(pm.SEGMENT_STACK),
    }
    end = segments["address"] + segments["total_size"]
    if (end < 0).any():
        k = int(np.flatnonzero(end < 0)[0])
        raise TraceError(f"{where}[{k}]: found the end of the segment beyond 2**63 bytes")
    pools = [_pool(values, int(w), f"{where}[{k}]")
             for k, w in enumerate(table[:, _SEGMENT[sw.SEGMENT_POOL_ID]])]  # fmt: skip

    lists = table[:, _SEGMENT[sw.BLOCKS]].tolist()
    parts: list[np.ndarray] = []
    room = int(values.tables.used[pm.BLOCKS])
    for k, blocks_word in enumerate(lists):
        at = f"{where}[{k}]: blocks"
        if blocks_word & 15 != pm.LIST:
            raise TraceError(f"{at}: found {values.kind(blocks_word)}, expected a list")
        parts.append(_rows(values, blocks_word, pm.BLOCK, at))
        room -= len(parts[-1])
        if room < 0:
            raise TraceError(f"{at}: found blocks that other segments also list")
    counts = np.array([len(p) for p in parts], np.int64)
    segments["n_blocks"] = counts
    segments["first_block"] = np.cumsum(counts) - counts
    block_rows = np.concatenate([np.zeros(0, np.int64), *parts])
    blocks = _read_blocks(values, values.rows.blocks[block_rows], segments, where)
    _check_places(segments, blocks, where)
    _compare_sums(segments, blocks, where, rec)
    _keep_unknown(values, table[:, pm.SEGMENT_NOTE], where, rec)
    notes = values.rows.blocks[block_rows, pm.BLOCK_NOTE]
    _keep_unknown(values, notes, f"{where}.blocks", rec)
    return Layout(segments, pools, blocks)


class _Column:
    """Columns of typed values from a table of words."""

    def __init__(
        self, values: Values, table: np.ndarray, keys: dict[int, int], where: str,
        first: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.values, self.table, self.keys, self.where, self.first = (
            values, table, keys, where, first,
        )  # fmt: skip

    def whole(
        self, key: int, default: int | None, low: int = 0, high: int = (1 << 63) - 1
    ) -> np.ndarray:
        """Return integers; default where the key is absent, None = the machine made sure it is."""
        words = self.table[:, self.keys[key]]
        out = words >> 4
        big = np.flatnonzero(words & 15 == pm.BIG)
        bad = (words & 15 != pm.INT) & (words & 15 != pm.BIG) & (words != 0)
        for k in big.tolist():
            whole = self.values.integer(int(words[k]))
            if whole is None or not low <= whole <= high:
                bad[k] = True
            else:
                out[k] = whole
        small = words & 15 == pm.INT
        bad |= small & ((out < low) | (out > high))
        if bad.any():
            raise self.error(int(np.flatnonzero(bad)[0]), key, f"an integer from {low} to {high}")
        if default is not None:
            out[words == 0] = default
        return out

    def word(self, key: int, words: tuple[str, ...], first: int) -> np.ndarray:
        """Return the position of each string among the words allowed."""
        column = self.table[:, self.keys[key]]
        texts = column & 15 == pm.STR
        out = np.full(len(column), -1, np.int64)
        out[texts] = self.values.tables.text_word[column[texts] >> 4].astype(np.int64) - first
        bad = (out < 0) | (out >= len(words))
        if bad.any():
            k = int(np.flatnonzero(bad)[0])
            near = ""
            if texts[k]:
                near = did_you_mean(self.values.text(int(column[k]) >> 4)[:80], words)
            raise self.error(k, key, " or ".join(map(repr, words)) + near)
        return out

    def flag(self, key: int) -> np.ndarray:
        """Return booleans as 0 and 1; 0 where the key is absent."""
        tags = self.table[:, self.keys[key]] & 15
        bad = (tags != 0) & (tags != pm.TRUE) & (tags != pm.FALSE)
        if bad.any():
            raise self.error(int(np.flatnonzero(bad)[0]), key, "True or False")
        return (tags == pm.TRUE).astype(np.uint8)

    def stack(self, column: int) -> np.ndarray:
        """Return the machine's numbers of stacks."""
        out = self.table[:, column].copy()
        if (out < 0).any():
            k = int(np.flatnonzero(out < 0)[0])
            raise TraceError(
                f"{self.place(k)}: frames: found something else, expected a list of"
                " frames (dicts with filename, line and name)"
            )
        return out

    def place(self, k: int) -> str:
        """Name a row for a message."""
        if self.first is None:
            return f"{self.where}[{k}]"
        segment = int(np.searchsorted(self.first, k, side="right")) - 1
        return f"{self.where}[{segment}].blocks[{k - int(self.first[segment])}]"

    def error(self, k: int, key: int, expected: str) -> TraceError:
        found = self.values.kind(int(self.table[k, self.keys[key]]))
        return TraceError(
            f"{self.place(k)}: {sw.KEYS[key - 1]}: found {found}, expected {expected}"
        )


def _rows(values: Values, word: int, kind: int, where: str) -> np.ndarray:
    rows, bad = rows_of(values, word, kind)
    if bad < 0:
        return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
    words = values.items(word)
    fields = values.mapping(words[bad]) if words else None
    if fields is not None:
        for key in _NEEDED[kind]:
            if key not in fields:
                raise missing(f"{where}[{bad}]", key, fields)
    found = values.kind(words[bad]) if words else "a list of frames"
    raise TraceError(f"{where}[{bad}]: found {found}, expected {_WHAT[kind]}")


def _pool(values: Values, word: int, where: str) -> tuple[int, int]:
    if word == 0:
        return -1, -1
    if word & 15 in (pm.PAIR, pm.TUPLE):
        ids = [values.integer(w) for w in values.items(word) or []]
        if len(ids) == 2 and all(x is not None and abs(x) < 1 << 63 for x in ids):
            return ids[0], ids[1]  # pyright: ignore[reportReturnType]
    found = values.kind(word)
    raise TraceError(f"{where}: segment_pool_id: found {found}, expected a pair of integers")


def _read_blocks(
    values: Values, table: np.ndarray, segments: dict[str, np.ndarray], where: str
) -> dict[str, np.ndarray]:
    first, counts = segments["first_block"], segments["n_blocks"]
    # searchsorted must find the last segment that starts at a row, not an empty one before it
    starts = np.where(counts > 0, first, np.append(first[1:], len(table)) if len(first) else first)
    read = _Column(values, table, _BLOCK, where, starts)
    size = read.whole(sw.SIZE, None, 0, MAX_SIZE)
    requested = read.whole(sw.REQUESTED_SIZE, -1)
    state = np.array(sw.STATE_VALUES)[read.word(sw.STATE, sw.STATES, sw.FIRST_STATE)]
    stack = read.stack(pm.BLOCK_STACK)
    # Until 2.0 a block had a history instead: the newest allocation stands first.
    histories = table[:, _BLOCK[sw.HISTORY]]
    for k in np.flatnonzero(histories).tolist():
        past = _newest(values, int(histories[k]), f"{read.place(k)}: history")
        if past is not None:
            old = _Column(values, past[None], _BLOCK, f"{read.place(k)}: history")
            if requested[k] < 0:
                requested[k] = old.whole(sw.REAL_SIZE, None)[0]
            if stack[k] == 0:
                stack[k] = old.stack(pm.BLOCK_STACK)[0]
    # Where addresses are not recorded, blocks follow each other without gaps.
    before = np.cumsum(size) - size  # may wrap; differences within a segment do not
    base = np.repeat(before[first.clip(max=max(0, len(size) - 1))] if len(size) else first, counts)
    address = np.repeat(segments["address"], counts) + (before - base)
    given = table[:, _BLOCK[sw.ADDRESS]] != 0
    address = np.where(given, read.whole(sw.ADDRESS, 0), address)
    return {
        "address": address, "size": size, "requested_size": requested, "state": state,
        "stack": stack,
    }  # fmt: skip


def _newest(values: Values, word: int, where: str) -> np.ndarray | None:
    """Return the table row of a history's first item, None if it is empty."""
    if word & 15 != pm.LIST:
        raise TraceError(f"{where}: found {values.kind(word)}, expected a list")
    box = int(values.tables.boxes[word >> 4])
    if box >> 4 == 0 and box & 15 in (0, pm.AS_RUN):
        return None
    if box & 15 in (pm.CONTENTS, pm.NO_RUN):
        item = int(values.tables.arena[(box >> 4) + 3])
        if item & 15 == pm.DICT and int(values.tables.boxes[item >> 4]) & 15 == pm.PAST:
            return values.rows.blocks[int(values.tables.boxes[item >> 4]) >> 4]
        raise TraceError(f"{where}[0]: found {values.kind(item)}, expected a history entry")
    raise TraceError(f"{where}: found a list of frames, expected history entries")


def _check_places(
    segments: dict[str, np.ndarray], blocks: dict[str, np.ndarray], where: str
) -> None:
    """Refuse blocks outside their segment or on top of each other, and overlapping segments."""
    counts, first = segments["n_blocks"], segments["first_block"]
    of = np.repeat(np.arange(len(counts)), counts)
    start, total = segments["address"][of], segments["total_size"][of]
    address, size = blocks["address"], blocks["size"]
    # Written so that nothing can overflow: all terms are between 0 and 2**63.
    fits = (address >= start) & (size <= total)
    fits &= np.where(fits, address - start, 0) <= np.where(fits, total - size, 0)
    if not fits.all():
        k = int(np.flatnonzero(~fits)[0])
        s = int(of[k])
        raise TraceError(
            f"{where}[{s}].blocks[{k - int(first[s])}]: found bytes {int(address[k]):#x} to"
            f" {int(address[k]) + int(size[k]):#x}, expected a place within the segment,"
            f" {int(start[k]):#x} to {int(start[k]) + int(total[k]):#x}"
        )
    same = of[1:] == of[:-1]
    bad = same & (address[1:] < address[:-1] + size[:-1])
    if bad.any():
        k = int(np.flatnonzero(bad)[0])
        s = int(of[k])
        raise TraceError(
            f"{where}[{s}].blocks[{k + 1 - int(first[s])}]: found address {int(address[k + 1]):#x},"
            f" expected at least {int(address[k]) + int(size[k]):#x}, the end of the block before"
        )
    order = np.lexsort((segments["address"], segments["device"]))
    begin, device = segments["address"][order], segments["device"][order]
    end = begin + segments["total_size"][order]
    bad = (device[1:] == device[:-1]) & (begin[1:] < end[:-1])
    if bad.any():
        k = int(np.flatnonzero(bad)[0])
        raise TraceError(
            f"{where}[{int(order[k + 1])}]: found address {int(begin[k + 1]):#x}, which lies inside"
            f" {where}[{int(order[k])}], expected segments that do not overlap"
        )


def _compare_sums(
    segments: dict[str, np.ndarray], blocks: dict[str, np.ndarray], where: str, rec: Recording
) -> None:
    """Note segments whose own figures are not those of their blocks."""
    counts = segments["n_blocks"]
    of = np.repeat(np.arange(len(counts)), counts)
    active = blocks["state"] != BlockState.INACTIVE
    allocated = blocks["state"] == BlockState.ALLOCATED

    def total(which: np.ndarray) -> np.ndarray:
        out = np.zeros(len(counts), np.int64)
        np.add.at(out, of[which], blocks["size"][which])
        return out

    every = np.ones(len(of), bool)
    for key, which, kind in (
        ("total_size", every, "blocks"),
        ("allocated_size", allocated, "allocated blocks"),
        ("active_size", active, "active blocks"),
    ):
        stated = segments[key]
        wrong = (stated >= 0) & (stated != total(which))
        n = int(wrong.sum())
        if n:
            k = int(np.flatnonzero(wrong)[0])
            rec.findings.append(
                Finding(
                    "sum_mismatch",
                    n,
                    f"in {n:,} segments {key} is not the sum of the {kind}, first in {where}[{k}]:"
                    f" {int(stated[k]):,} B stated, {int(total(which)[k]):,} B counted",
                )
            )


def _keep_unknown(values: Values, notes: np.ndarray, where: str, rec: Recording) -> None:
    """Keep the values of unknown keys as [row, value] pairs in the recording's extras."""
    kept: dict[str, list[list[object]]] = {}
    dropped: dict[str, int] = {}
    for k in np.flatnonzero(notes).tolist():
        for key, word in values.note_pairs(int(notes[k])):
            try:
                kept.setdefault(key, []).append([k, values.python(word)])
            except TraceError:
                dropped[key] = dropped.get(key, 0) + 1
    for key, pairs in kept.items():
        if pairs:
            rec.extra[f"{where}.{key}"] = pairs
        text = f"{len(pairs) + dropped.get(key, 0):,} of {where} carry the unknown key {key[:80]!r}"
        rec.findings.append(Finding("unknown_key", len(pairs) + dropped.get(key, 0), text))
    for key, n in dropped.items():
        text = f"{n:,} of {where} carry the key {key[:80]!r} with a value that cannot be kept"
        rec.findings.append(Finding("dropped_key", n, text))

"""What a pickle held: tables of the right size, the run, and plain values read back from them."""

from __future__ import annotations

import json
import secrets
from typing import Any

import numpy as np

from . import pickle_machine as pm
from . import pickle_scan as ps
from . import snapshot_words as sw
from .errors import TraceError
from .pickle_errors import refusal

MAX_DEPTH = 100  # of plain values, where PyTorch needs three
MAX_INT_BYTES = 64
_WORDS, _WORD_AT = sw.word_table()
_KINDS = {pm.ENTRY: "trace entry", pm.BLOCK: "block", pm.SEGMENT: "segment", pm.PAST: "history"}


def parse(data: np.ndarray) -> Values:
    """Run a pickle of builtin values without building Python objects.

    Args:
        data: the file, uint8, one dimension, contiguous.

    Raises:
        TraceError: it is broken, or holds an opcode that no writer of snapshots uses.
    """
    # One type for every caller: read-only and writable arrays would compile twice.
    data = data.view()
    data.flags.writeable = False
    counts = np.zeros(ps.N_COUNTS, np.int64)
    with np.errstate(over="ignore"):  # hashes wrap; matters only where kernels are interpreted
        code, at = ps.scan(data, counts)
        if code != ps.OK:
            raise refusal(code, at, data)
        tables, rows = _allocate(counts, len(data))
        seed = secrets.randbits(62) | 1
        code, at = pm.run(data, seed, _WORDS, _WORD_AT, tables, rows)
    if code != ps.OK:
        raise refusal(code, at, data)
    return Values(data, int(counts[ps.END]), int(at), tables, rows)


def scan_beginning(data: np.ndarray) -> None:
    """Refuse a pickle for what its first bytes hold, as `parse` would refuse the whole.

    Args:
        data: as there, cut anywhere.
    """
    data = data.view()
    data.flags.writeable = False
    code, at = ps.scan(data, np.zeros(ps.N_COUNTS, np.int64))
    if code not in (ps.OK, ps.TRUNCATED):
        raise refusal(code, at, data)


def _allocate(counts: np.ndarray, n_bytes: int) -> tuple[pm.Tables, pm.Rows]:
    """Reserve all tables at their largest possible size; untouched pages cost nothing."""
    c = [int(x) for x in counts]
    index = min(pm.MAX_INDEX + 1, c[ps.SETS_8]) + 2
    n_runs, n_sets = c[ps.CONTAINERS] + 2, c[ps.SETS] + 2
    entries, i8, u4 = c[ps.SETS_8], np.int64, np.uint32
    most = max(c[ps.CONTAINERS], c[ps.TEXTS], c[ps.SETS])  # these are numbered in 32 bits
    if most >= 1 << 31:
        raise TraceError(f"found {most:,} strings or containers, expected fewer than {1 << 31:,}")

    def slots(n: int) -> np.ndarray:
        return np.zeros(1 << (2 * n + 1).bit_length(), u4)

    try:
        used = np.zeros(pm.N_USED, i8)
        used[pm.RUNS] = used[pm.NOTES] = 1  # number 0 is the empty one
        ends = np.zeros(n_runs, i8), np.zeros(n_sets, i8)
        tables = pm.Tables(
            stack=np.empty(c[ps.DEPTH] + 1, i8),
            memo=np.zeros(c[ps.PUTS], i8),
            boxes=np.zeros(c[ps.CONTAINERS] + 1, i8),
            arena=np.empty(c[ps.ARENA] + 1, i8),
            text_at=np.empty(c[ps.TEXTS] + 1, i8),
            text_len=np.empty(c[ps.TEXTS] + 1, i8),
            text_word=np.empty(c[ps.TEXTS] + 1, np.uint8),
            text_slots=slots(c[ps.TEXTS]),
            streams=np.empty((index, 2), i8),
            stream_slots=slots(index),
            pools=np.empty((index, 2), i8),
            pool_slots=slots(index),
            frames=np.empty((c[ps.SETS_6] + 1, 3), i8),
            frame_slots=slots(c[ps.SETS_6]),
            runs=ends[0],
            run_items=np.empty(c[ps.APPENDED] + 1, u4),
            run_mixed=np.zeros(n_runs, np.uint8),
            run_slots=slots(n_runs),
            notes=ends[1],
            note_words=np.empty(2 * c[ps.PAIRS] + 2, i8),
            note_slots=slots(n_sets),
            used=used,
        )
        rows = pm.Rows(
            action=np.empty(entries, np.uint8),
            addr=np.empty(entries, np.uint64),
            size=np.empty(entries, i8),
            stream=np.empty(entries, np.uint16),
            time_us=np.empty(entries, i8),
            stack=np.empty(entries, u4),
            pool=np.empty(entries, np.uint16),
            note=np.empty(entries, u4),
            blocks=np.empty((c[ps.SETS_4], pm.BLOCK_NOTE + 1), i8),
            segments=np.empty((c[ps.SETS_12], pm.SEGMENT_NOTE + 1), i8),
        )
    except MemoryError:
        raise TraceError(f"not enough memory to read a snapshot of {n_bytes:,} bytes") from None
    return tables, rows


class Values:
    """The result of a run; plain values are turned into Python objects on demand.

    Attributes:
        data: the file.
        end: offset after the pickle's last byte.
        root: the word of the outermost value.
        tables, rows: what the machine filled.
    """

    def __init__(
        self, data: np.ndarray, end: int, root: int, tables: pm.Tables, rows: pm.Rows
    ) -> None:
        self.data, self.end, self.root, self.tables, self.rows = data, end, root, tables, rows
        self._texts: dict[int, str] = {}
        self._built: dict[int, tuple[Any, int]] = {}
        # Shared values multiply when written out; no honest file multiplies this much.
        self._allowance = 64 * len(data) + (16 << 20)

    def text(self, number: int) -> str:
        """Return a string by its number."""
        text = self._texts.get(number)
        if text is None:
            at, n = int(self.tables.text_at[number]), int(self.tables.text_len[number])
            raw = self.data[at : at + n].tobytes()
            try:
                text = raw.decode()
            except UnicodeDecodeError:
                try:
                    text = raw.decode(errors="surrogatepass")
                except UnicodeDecodeError as error:
                    raise TraceError(
                        f"byte {at}: found a string that is not UTF-8 ({error.reason})"
                    ) from None
                # Half a surrogate pair, as Python writes for odd file names, cannot be printed.
                text = text.encode(errors="backslashreplace").decode()
            self._texts[number] = text
        return text

    def items(self, word: int) -> list[int] | None:
        """Return the words of a list or tuple, of a dict key, value, key, value; else None."""
        tag, number = word & 15, word >> 4
        arena = self.tables.arena
        if tag == pm.PAIR:
            return [(number >> 30) << 4 | pm.INT, (number & 0x3FFFFFFF) << 4 | pm.INT]
        if tag == pm.TUPLE:
            return arena[number + 1 : number + 1 + int(arena[number])].tolist()
        if tag not in (pm.LIST, pm.DICT):
            return None
        box = int(self.tables.boxes[number])
        if box == 0:
            return []
        if box & 15 not in (pm.CONTENTS, pm.NO_RUN):
            return None
        words: list[int] = []
        chunk = (box >> 4) + 1
        while chunk:
            words += arena[chunk + 2 : chunk + 2 + int(arena[chunk + 1])].tolist()
            chunk = int(arena[chunk])
        return words

    def mapping(self, word: int) -> dict[str, int] | None:
        """Return a plain dict with string keys as words by key; None if it is none."""
        words = self.items(word) if word & 15 == pm.DICT else None
        if words is None or any(key & 15 != pm.STR for key in words[::2]):
            return None
        return {self.text(k >> 4): v for k, v in zip(words[::2], words[1::2], strict=True)}

    def python(self, word: int) -> Any:
        """Return a plain value as Python object.

        Raises:
            TraceError: it cannot be written as JSON, refers to itself, or is absurdly large.
        """
        value, weight = self._build(word, 0)
        self._allowance -= weight
        if self._allowance < 0:
            raise TraceError("shared values of the file multiply beyond 64 times its size")
        return value

    def kind(self, word: int) -> str:
        """Name what a word is, for a message: "the integer -5", "a list", ..."""
        tag, number = word & 15, word >> 4
        if tag in (pm.INT, pm.BIG):
            whole = self.integer(word)
            return "an enormous integer" if whole is None else f"the integer {whole}"
        if tag == pm.STR:
            text = self.text(number)
            return f"the string {text[:40]!r}" + ("..." if len(text) > 40 else "")
        if tag == pm.DICT:
            return f"a {_KINDS.get(int(self.tables.boxes[number]) & 15, 'dict')}"
        if tag == pm.FLOAT:
            return f"the number {self._build(word, 0)[0]!r}"
        names = {
            pm.LIST: "a list", pm.TUPLE: "a tuple", pm.PAIR: "a pair of integers",
            pm.NONE: "None", pm.FALSE: "False", pm.TRUE: "True", pm.BYTES: "bytes",
            pm.RUN: "a list",
        }  # fmt: skip
        return names[tag]

    def integer(self, word: int) -> int | None:
        """Return an integer; None if the word is none, or one of more than 64 bytes."""
        if word & 15 not in (pm.INT, pm.BIG):
            return None
        if word & 15 == pm.INT:
            return word >> 4
        at = word >> 4
        wide = int(self.data[at]) == 0x8B
        n = int.from_bytes(self.data[at + 1 : at + (5 if wide else 2)].tobytes(), "little")
        if n > MAX_INT_BYTES:
            return None
        at += 5 if wide else 2
        return int.from_bytes(self.data[at : at + n].tobytes(), "little", signed=True)

    def _build(self, word: int, depth: int) -> tuple[Any, int]:
        """Return a value and its weight: one per value and character, shared ones each time."""
        tag, number = word & 15, word >> 4
        if tag == pm.INT:
            return number, 1
        if tag == pm.STR:
            text = self.text(number)
            return text, 1 + len(text)
        if tag in (pm.NONE, pm.FALSE, pm.TRUE):
            return {pm.NONE: None, pm.FALSE: False, pm.TRUE: True}[tag], 1
        if tag == pm.FLOAT:
            return float(np.frombuffer(self.data[number : number + 8].tobytes(), ">f8")[0]), 1
        if tag == pm.BIG:
            whole = self.integer(word)
            if whole is None:
                raise TraceError(f"byte {number}: found an integer of more than 64 bytes")
            return whole, 20
        if tag == pm.BYTES:
            raise TraceError(f"byte {number}: found bytes, expected a string or a number")
        if word in self._built:
            value, weight = self._built[word]
            if value is ...:
                raise TraceError("a list or dict of the file contains itself")
            return value, weight
        if depth > MAX_DEPTH:
            raise TraceError(f"lists and dicts are nested more than {MAX_DEPTH} deep")
        self._built[word] = (..., 0)
        try:
            built = self._container(word, depth + 1)
        except BaseException:
            del self._built[word]
            raise
        self._built[word] = built
        return built

    def _container(self, word: int, depth: int) -> tuple[Any, int]:
        tag, number = word & 15, word >> 4
        box = int(self.tables.boxes[number]) if tag in (pm.LIST, pm.DICT) else 0
        if tag == pm.RUN or box & 15 == pm.AS_RUN:
            return self._run(number if tag == pm.RUN else box >> 4)
        if box & 15 == pm.FRAME:
            return self._frame(box >> 4)
        words = self.items(word)
        if words is None:
            raise TraceError(f"found a {_KINDS[box & 15]} where a plain value was expected")
        pairs = [self._build(w, depth) for w in words]
        weight = 1 + sum(w for _, w in pairs)
        if tag != pm.DICT:
            return [v for v, _ in pairs], weight
        keys = [v if isinstance(v, str) else json.dumps(v) for v, _ in pairs[::2]]
        return dict(zip(keys, (v for v, _ in pairs[1::2]), strict=True)), weight

    def note_pairs(self, note: int) -> list[tuple[str, int]]:
        """Return the keys and words of a note by the machine's number."""
        ends = self.tables.notes
        words = self.tables.note_words[int(ends[note - 1]) : int(ends[note])].tolist()
        return [(self.text(k >> 4), v) for k, v in zip(words[::2], words[1::2], strict=True)]

    def _run(self, number: int) -> tuple[list[Any], int]:
        if number == 0:
            return [], 1
        ends = self.tables.runs
        items = self.tables.run_items[int(ends[number - 1]) : int(ends[number])].tolist()
        values = [self.text(k >> 1) if k & 1 else self._frame(k >> 1)[0] for k in items]
        return values, 1 + sum(len(v) + 1 if isinstance(v, str) else 80 for v in values)

    def _frame(self, number: int) -> tuple[dict[str, Any], int]:
        file, line, name = (int(x) for x in self.tables.frames[number])
        return {"filename": self.text(file), "line": line, "name": self.text(name)}, 80

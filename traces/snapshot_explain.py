"""Rows of a list, and the reason why something is not a row."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import pickle_machine as pm
from .errors import TraceError, did_you_mean
from .jit import kernel
from .pickle_values import Values

_COUNT = ("an integer from 0 to 2**63 - 1", lambda k: k.startswith("the integer ") and "-" not in k)
_WHOLE = ("an integer of 64 bits", lambda k: k.startswith("the integer "))
_TEXT = ("a string", lambda k: k.startswith("the string"))
_PAIR = ("a pair of integers", lambda k: k == "a pair of integers" or k == "a tuple")
_STACK = ("a list of frames", lambda k: False)
_ENTRY = {
    "action": _TEXT, "addr": _COUNT, "device_free": _COUNT, "size": _COUNT, "stream": _WHOLE,
    "time_us": _WHOLE, "pool_id": _PAIR, "frames": _STACK,
}  # fmt: skip


@kernel
def _list_rows(
    boxes: np.ndarray, arena: np.ndarray, box: int, kind: int, out: np.ndarray
) -> tuple[Any, Any, Any]:
    """Walk a list's dicts and write the rows they became, as far as `out` reaches.

    Returns:
        The list's length as far as it was walked; the first item that is no such row, or -1; the
        first row if all rows follow each other, or -1.
    """
    n = 0
    first = np.int64(-1)
    last = np.int64(-1)
    consecutive = True
    chunk = (boxes[box] >> 4) + 1
    while chunk != 0:
        for k in range(chunk + 2, chunk + 2 + arena[chunk + 1]):
            word = arena[k]
            if word & 15 != pm.DICT or boxes[word >> 4] & 15 != kind:
                return n, n, -1
            row = boxes[word >> 4] >> 4
            if n == 0:
                first = row
            elif row != last + 1:
                consecutive = False
            last = row
            if n < len(out):
                out[n] = row
            n += 1
        chunk = arena[chunk]
    return n, -1, first if consecutive else -1


def rows_of(values: Values, word: int, kind: int) -> tuple[slice | np.ndarray, int]:
    """Return the rows of a list's dicts, and the index of the first that is no row, or -1.

    Rows that follow each other come as a slice: taking them then copies nothing.

    Args:
        values: a parsed file.
        word: a list.
        kind: pm.ENTRY, pm.BLOCK, pm.SEGMENT or pm.PAST.
    """
    t, box = values.tables, word >> 4
    state, none = int(t.boxes[box]), np.zeros(0, np.int64)
    if state & 15 == pm.AS_RUN:
        return slice(0, 0), 0 if state >> 4 else -1  # a list of frames or strings, or empty
    if state == 0:
        return slice(0, 0), -1
    n, bad, first = (int(x) for x in _list_rows(t.boxes, t.arena, box, kind, none))
    if bad >= 0 or n == 0:
        return slice(0, 0), bad
    if first >= 0:
        return slice(first, first + n), -1
    out = np.empty(n, np.int64)
    _list_rows(t.boxes, t.arena, box, kind, out)
    return out, -1


def explain_entry(values: Values, word: int, where: str) -> TraceError:
    """Return the error for something in a trace that is not a trace entry."""
    fields = values.mapping(word)
    if fields is None:
        found = values.kind(word) if word else "a list of frames"
        return TraceError(f"{where}: found {found}, expected a trace entry (a dict)")
    for key in ("action", "size", "stream"):
        if key not in fields:
            return missing(where, key, fields)
    if "addr" not in fields and "device_free" not in fields:
        return missing(where, "addr", fields)
    for key, (expected, fits) in _ENTRY.items():
        if key not in fields:
            continue
        kind = values.kind(fields[key])
        if kind.startswith("the integer ") and abs(int(kind[12:])) >= 1 << 63:
            return TraceError(f"{where}: {key}: found {kind}, expected {expected}")
        if not fits(kind) and not (key == "frames" and is_stack(values, fields[key])):
            return TraceError(f"{where}: {key}: found {kind}, expected {expected}")
        if key == "pool_id" and kind == "a tuple":
            words = values.items(fields[key]) or []
            if len(words) != 2 or not all(_WHOLE[1](values.kind(w)) for w in words):
                return TraceError(f"{where}: {key}: found {kind}, expected {expected}")
    return TraceError(f"{where}: found an entry written in pieces, expected one dict written whole")


def missing(where: str, key: str, fields: dict[str, int]) -> TraceError:
    """Return the error for a dict that lacks a key."""
    near = did_you_mean(key, fields).replace("did you mean", "is it")
    return TraceError(f"{where}: found no key '{key}', expected one{near}")


def is_stack(values: Values, word: int) -> bool:
    """Return whether a word is a list of frames."""
    if word & 15 != pm.LIST:
        return False
    box = int(values.tables.boxes[word >> 4])
    if box & 15 == pm.AS_RUN:
        return not values.tables.run_mixed[box >> 4]
    return box == 0

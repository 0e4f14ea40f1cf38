"""First pass over a pickle: check its form and count what the second pass will need.

Every length is held against the bytes that are there, every opcode against the allow-list, the
stack against underflow. After this pass the tables of the second have known sizes, none of them
larger than a small multiple of the file: a file of a few bytes cannot ask for gigabytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import pickle_opcodes as op
from .jit import inline, kernel

MAX_NESTING = 500  # open containers; real snapshots have fewer than ten

# Why a scan or a run ended; `pickle_machine.refusal` turns these into messages.
(
    OK, TRUNCATED, REFUSED, UNDERFLOW, NESTED, PROTOCOL, LEFTOVERS, ODD, MEMO_RANGE, MEMO_UNSET,
    NOT_A_LIST, NOT_A_DICT, CHANGED, KEY, TOO_MANY, COLLISIONS,
) = range(16)  # fmt: skip

# What a scan counts; indices into `counts`.
(
    END, DEPTH, CONTAINERS, TEXTS, PUTS, ARENA, APPENDED, PAIRS, SETS, SETS_4, SETS_6, SETS_8,
    SETS_12, N_COUNTS,
) = range(14)  # fmt: skip

_WHAT, _WIDTH, _COUNTED, _TAKES, _LEAVES = op.WHAT, op.WIDTH, op.COUNTED, op.TAKES, op.LEAVES


@inline
def u2(data, p):
    """Return two bytes at p, little-endian."""
    return np.int64(data[p]) | np.int64(data[p + 1]) << 8


@inline
def u4(data, p):
    """Return four bytes at p, little-endian."""
    return (
        np.int64(data[p])
        | np.int64(data[p + 1]) << 8
        | np.int64(data[p + 2]) << 16
        | np.int64(data[p + 3]) << 24
    )


@inline
def i8(data, p):
    """Return eight bytes at p, little-endian, signed."""
    return u4(data, p) | u4(data, p + 4) << 32


@kernel
def scan(data: np.ndarray, counts: np.ndarray) -> tuple[Any, Any]:
    """Walk a pickle without building anything.

    Args:
        data: the bytes, uint8.
        counts: shape (N_COUNTS,) int64, zeroed; filled.

    Returns:
        OK and the offset after STOP, or the reason of a refusal and where it stands.
    """
    n = len(data)
    marks = np.zeros(MAX_NESTING + 1, np.int64)
    n_marks = 0
    depth = 0
    fence = 0  # no opcode may take items from below the last mark
    deepest = 0
    arena = containers = texts = puts = appended = pairs = sets = 0
    fault = TRUNCATED
    p = 0
    while p < n:
        code = np.int64(data[p])
        # The opcodes that entries are made of come first, each with its own constant: a length
        # from a table would make every step wait for the load before it.
        if code == op.BINGET or code == op.BININT1:
            p += 2
            depth += 1
            deepest = max(deepest, depth)
            continue
        if code == op.LONG_BINGET or code == op.BININT:
            p += 5
            depth += 1
            deepest = max(deepest, depth)
            continue
        if code == op.MEMOIZE:
            if depth - 1 < fence:
                fault = UNDERFLOW
                break
            p += 1
            puts += 1
            continue
        if code == op.EMPTY_DICT or code == op.EMPTY_LIST:
            p += 1
            depth += 1
            deepest = max(deepest, depth)
            containers += 1
            continue
        what = _WHAT[code]
        if what < op.ALLOWED:
            fault = REFUSED
            break
        width = _WIDTH[code]
        after = p + 1 + width
        if after > n:
            break
        if what == op.PUT:
            if depth - 1 < fence:
                fault = UNDERFLOW
                break
            puts += 1
        elif what == op.MARK:
            if n_marks == MAX_NESTING:
                fault = NESTED
                break
            marks[n_marks] = depth
            n_marks += 1
            fence = depth
        elif what == op.PLAIN:
            if _COUNTED[code]:
                if width == 1:
                    length = np.int64(data[p + 1])
                elif width == 4:
                    length = u4(data, p + 1)
                else:
                    length = i8(data, p + 1)
                if length < 0 or length > n - after:
                    break
                after += length
            takes = _TAKES[code]
            if depth - takes < fence:
                fault = UNDERFLOW
                break
            depth += _LEAVES[code] - takes
            if code == op.SHORT_BINUNICODE or code == op.BINUNICODE or code == op.BINUNICODE8:
                texts += 1
            elif code == op.APPEND:
                arena += 4
                appended += 1
            elif code == op.SETITEM:
                arena += 5
                pairs += 1
                sets += 1
            elif op.TUPLE1 <= code <= op.TUPLE3 or code == op.EMPTY_TUPLE:
                arena += 1 + takes
        elif what == op.TO_MARK:
            if n_marks == 0:
                fault = UNDERFLOW
                break
            n_marks -= 1
            items = depth - marks[n_marks]
            depth = marks[n_marks]
            fence = marks[n_marks - 1] if n_marks > 0 else 0
            if code == op.TUPLE:
                arena += 1 + items
                depth += 1
            else:
                if depth - 1 < fence:
                    fault = UNDERFLOW
                    break
                arena += 3 + items
                if code == op.APPENDS:
                    appended += items
                else:
                    if items & 1:
                        fault = ODD
                        break
                    pairs += items >> 1
                    sets += 1
                    counts[SETS_4] += items >= 4
                    counts[SETS_6] += items >= 6
                    counts[SETS_8] += items >= 8
                    counts[SETS_12] += items >= 12
        elif what == op.PROTO:
            if data[p + 1] < 2 or data[p + 1] > 5:
                fault = PROTOCOL
                break
        elif what == op.FRAME:
            length = i8(data, p + 1)
            if length < 0 or length > n - after:
                break
        else:  # STOP
            fault = OK if n_marks == 0 and depth == 1 else LEFTOVERS
            counts[END] = after
            break
        deepest = max(deepest, depth)
        p = after
    counts[DEPTH] = deepest
    counts[CONTAINERS] = containers
    counts[TEXTS] = texts
    counts[PUTS] = puts
    counts[ARENA] = arena
    counts[APPENDED] = appended
    counts[PAIRS] = pairs
    counts[SETS] = sets
    return fault, min(p, n)  # an argument may stick out

"""Find the interesting objects of a huge JSON file without building the others.

The file is a list of objects, or an object with lists of objects in it (Chrome's trace format).
One pass over the bytes follows strings and brackets; only an object that holds a wanted string is
handed on. Memory: a piece of the file and the object that reaches beyond it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .errors import TraceError
from .jit import kernel
from .units import MiB, format_bytes

LONGEST_OBJECT = 64 * MiB
DEEPEST = 512
PIECE = 4 * MiB  # pieces are joined up to this size

# The state between two pieces.
DEPTH, IN_STRING, ESCAPED, BEGIN, WANTED, STRING, CLOSED, FAULT, N_STATE = range(9)
# What FAULT says.
MISMATCH, TOO_DEEP, AFTER_END, CONTROL = 1, 2, 3, 4
FAULTS = {
    MISMATCH: "a bracket that closes nothing or the wrong kind",
    TOO_DEEP: f"brackets more than {DEEPEST} deep",
    AFTER_END: "more data behind the end of the JSON document",
    CONTROL: "a control character inside a string",
}


@kernel
def _scan(data, at, state, stack, words, lengths, spans):
    """Follow strings and brackets through a piece.

    Args:
        data: shape (n,) uint8.
        at: where to begin.
        state: shape (N_STATE,) int64; modified.
        stack: shape (DEEPEST,) uint8, the open brackets; modified.
        words: shape (w, longest) uint8; wanted strings, without quotes.
        lengths: shape (w,) int64.
        spans: shape (m, 2) int64, output; begin and end of each object that holds one.

    Returns:
        (number of spans, where it stopped); it stops early when `spans` is full or at a fault.
    """
    found = 0
    n = len(data)
    i = at
    while i < n:
        c = data[i]
        if state[IN_STRING]:
            if state[ESCAPED]:
                state[ESCAPED] = 0
            elif c == 92:  # backslash
                state[ESCAPED] = 1
            elif c == 34:  # quote
                state[IN_STRING] = 0
                begin = state[STRING]
                if state[BEGIN] >= 0:
                    for w in range(len(lengths)):
                        if i - begin == lengths[w]:
                            same = True
                            for k in range(lengths[w]):
                                if data[begin + k] != words[w, k]:
                                    same = False
                                    break
                            if same:
                                state[WANTED] = 1
            elif c < 32:
                state[FAULT] = CONTROL
                return found, i
        elif c == 34:
            if state[CLOSED]:
                state[FAULT] = AFTER_END
                return found, i
            state[IN_STRING] = 1
            state[STRING] = i + 1
        elif c == 123 or c == 91:  # { [
            depth = state[DEPTH]
            if state[CLOSED] or depth >= len(stack):
                state[FAULT] = AFTER_END if state[CLOSED] else TOO_DEEP
                return found, i
            if c == 123 and (
                (depth == 1 and stack[0] == 91)
                or (depth == 2 and stack[0] == 123 and stack[1] == 91)
            ):
                state[BEGIN] = i
                state[WANTED] = 0
            stack[depth] = c
            state[DEPTH] = depth + 1
        elif c == 125 or c == 93:  # } ]
            depth = state[DEPTH] - 1
            if depth < 0 or stack[depth] != c - 2:
                state[FAULT] = MISMATCH
                return found, i
            state[DEPTH] = depth
            if depth == 0:
                state[CLOSED] = 1
            if state[BEGIN] >= 0 and depth == (1 if stack[0] == 91 else 2):
                if state[WANTED]:
                    spans[found, 0] = state[BEGIN]
                    spans[found, 1] = i + 1
                    found += 1
                state[BEGIN] = -1
                if found == len(spans):
                    return found, i + 1
        elif state[CLOSED] and c != 32 and c != 10 and c != 13 and c != 9:
            state[FAULT] = AFTER_END
            return found, i
        i += 1
    return found, i


def objects_with(chunks: Iterable[bytes], wanted: tuple[str, ...]) -> Iterator[tuple[int, bytes]]:
    """Yield (offset in the file, bytes) of each listed object that holds one of these strings.

    Args:
        chunks: the file, in pieces.
        wanted: strings that stand for themselves in JSON, as keys or values anywhere inside.

    Raises:
        TraceError: brackets and strings do not fit, the file ends early, or an object is longer
            than LONGEST_OBJECT. The message says where.
    """
    words = np.zeros((len(wanted), max(map(len, wanted))), np.uint8)
    for k, word in enumerate(wanted):
        words[k, : len(word)] = np.frombuffer(word.encode(), np.uint8)
    lengths = np.array([len(w) for w in wanted], np.int64)
    state, stack = np.zeros(N_STATE, np.int64), np.zeros(DEEPEST, np.uint8)
    state[BEGIN] = -1
    spans = np.zeros((4096, 2), np.int64)
    offset = 0  # of data[0] in the file
    rest = b""
    for chunk in _joined(chunks):
        data = rest + chunk
        array = np.frombuffer(data, np.uint8)
        at = 0
        while at < len(data):
            found, at = _scan(array, at, state, stack, words, lengths, spans)
            for begin, end in spans[:found].tolist():
                yield offset + begin, data[begin:end]
            if state[FAULT]:
                raise TraceError(f"byte {offset + at:,}: found {FAULTS[int(state[FAULT])]}")
        keep = int(state[BEGIN]) if state[BEGIN] >= 0 else len(data)
        if len(data) - keep > LONGEST_OBJECT:
            raise TraceError(
                f"byte {offset + keep:,}: found an object of more than "
                f"{format_bytes(LONGEST_OBJECT)}, which no event is"
            )
        if keep < len(data):  # it is read again, from its first byte
            state[DEPTH] = 1 if stack[0] == 91 else 2
            state[[IN_STRING, ESCAPED, WANTED]] = 0
            state[BEGIN] = -1
        rest = data[keep:]
        offset += keep
    if not state[CLOSED] or rest:
        raise TraceError(
            f"byte {offset + len(rest):,}: found the end of the file inside the JSON document; "
            "the file is cut short"
        )


def _joined(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield larger pieces: what is carried from one to the next should be the smaller part."""
    held: list[bytes] = []
    size, want = 0, PIECE
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= want:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)

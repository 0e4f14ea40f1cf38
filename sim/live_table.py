"""Which block lies at an address that a program gives back: open addressing, linear probing."""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline
from .live_state import ENTRIES, ENTRY_WORDS

# Words of an entry: offset + 1, block, bytes asked for, number of its stream or SHARED.

MASK = ENTRIES - 1
NOWHERE = -1
SHARED = -1  # streams other than its own used the block


@inline
def _home(offset):
    """Where an offset's entry would be if nobody were in the way."""
    unit = offset >> 8  # every policy aligns to 256 bytes or more
    return (((unit ^ (unit >> 13)) * 40503) >> 5) & MASK


@inline
def put(table, offset, b, asked, stream):
    """Remember block b at an offset of the region, for `asked` bytes on the stream of a number."""
    h = _home(offset)
    while table[h * ENTRY_WORDS] != 0:
        h = (h + 1) & MASK
    table[h * ENTRY_WORDS] = offset + 1
    table[h * ENTRY_WORDS + 1] = b
    table[h * ENTRY_WORDS + 2] = asked
    table[h * ENTRY_WORDS + 3] = stream


@inline
def find(table, offset):
    """Word of the table where an offset's entry begins; NOWHERE if it has none."""
    h = _home(offset)
    while table[h * ENTRY_WORDS] != offset + 1:
        if table[h * ENTRY_WORDS] == 0:
            return np.int64(NOWHERE)
        h = (h + 1) & MASK
    return h * ENTRY_WORDS


@inline
def drop(table, at):
    """Forget the entry at a word, and close the gap that it leaves in its chain."""
    gap = at // ENTRY_WORDS
    h = gap
    while True:
        h = (h + 1) & MASK
        there = table[h * ENTRY_WORDS]
        if there == 0:
            break
        # An entry may move back as far as its home, not beyond.
        if ((h - _home(there - 1)) & MASK) >= ((h - gap) & MASK):
            for k in range(ENTRY_WORDS):
                table[gap * ENTRY_WORDS + k] = table[h * ENTRY_WORDS + k]
            gap = h
    table[gap * ENTRY_WORDS] = 0

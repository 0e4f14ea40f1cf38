"""The table of addresses that a live policy gave out."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tightfit.sim import live_table
from tightfit.sim.live_state import ENTRIES, ENTRY_WORDS
from tightfit.sim.live_table import NOWHERE
from tightfit.traces.jit import kernel

pytestmark = pytest.mark.interpreted


# What is inlined cannot be called from outside once it is compiled.
@kernel
def put(table, offset, b, asked):
    live_table.put(table, offset, b, asked, 0)


@kernel
def find(table, offset):
    return live_table.find(table, offset)


@kernel
def drop(table, at):
    live_table.drop(table, at)


def test_it_agrees_with_a_dictionary() -> None:
    table = np.zeros(ENTRIES * ENTRY_WORDS, np.int64)
    known: dict[int, tuple[int, int]] = {}
    rng = random.Random(3)
    # Few homes, so that nearly every entry is in another's way.
    places = [256 * (ENTRIES * rng.randrange(40) + rng.randrange(6)) for _ in range(300)]
    for step in range(4000):
        offset = rng.choice(places)
        at = int(find(table, offset))
        assert (at == NOWHERE) == (offset not in known)
        if offset in known:
            assert (table[at + 1], table[at + 2]) == known.pop(offset)
            drop(table, at)
        else:
            known[offset] = (step + 1, step * 7)
            put(table, offset, *known[offset])
    for offset in places:
        assert (find(table, offset) != NOWHERE) == (offset in known)


def test_what_was_forgotten_leaves_no_trace() -> None:
    table = np.zeros(ENTRIES * ENTRY_WORDS, np.int64)
    for offset in (0, 256, 1 << 40):
        put(table, offset, 5, 6)
    for offset in (256, 0, 1 << 40):
        drop(table, int(find(table, offset)))
    assert not table[::ENTRY_WORDS].any()

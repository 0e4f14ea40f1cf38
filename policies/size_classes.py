"""Size classes: slabs of equal slots, one class each; nothing is ever split or joined.

A request gets a slot of the next class, the slot freed last first. A slab goes back to the driver
when none of its slots is in use. Classes are evenly spaced between powers of two.

Source: Bonwick: The slab allocator (1994), 3.2; spacing as in jemalloc, size_classes.h.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..sim.free_tree import first_from, insert, remove
from ..sim.ground import FREE, USED, drop_block, new_block
from ..sim.ground_driver import REFUSED, driver_free, driver_malloc
from ..sim.mechanism import Honours, Mechanism
from ..sim.memory import highest_bit
from ..sim.param import Param
from ..sim.span import FIRST_TIE
from ..sim.state import NEXT_ORDER
from ..traces.jit import inline
from ..traces.units import KiB, MiB

SPACING, SLAB = 0, 1  # parameters
SLOTS, OPEN, SLABS = 0, 1, 2  # words of `own`: trees of free slots, unfinished slabs; list of slabs
MIN_SLOT = 256
# A slab's row: lane = slots cut so far, mark = slots in use, next = its slots, prev = next slab.
# A slot's row: mark = its slab, key = its class, next = the slab's next slot.


def own(values: Mapping[str, int], lanes: int) -> int:
    """Two trees and a list."""
    return 3


@inline
def _slot_size(m, size):
    """Bytes of the smallest class that holds `size`."""
    step = np.int64(MIN_SLOT)
    if size > MIN_SLOT:
        step = max(step, (np.int64(1) << highest_bit(size - 1)) // m.param[SPACING])
    return (size + step - 1) // step * step


@inline
def _new_slab(m, slot):
    """A slab of the class, still uncut; 0 if the driver refused."""
    size = slot * max(np.int64(1), m.param[SLAB] // slot)
    a = driver_malloc(m, size)
    if a == REFUSED:
        return np.int64(0)
    slab = new_block(m)
    m.addr[slab] = a
    m.size[slab] = size
    m.state[slab] = USED
    m.lane[slab] = 0
    m.mark[slab] = 0
    m.next[slab] = 0
    m.prev[slab] = m.own[SLABS]
    m.own[SLABS] = slab
    m.key[slab] = slot
    m.tie[slab] = 0
    insert(m, OPEN, slab)
    return slab


@inline
def _cut_slot(m, slab, slot):
    """The next slot of a slab that is not all cut yet."""
    b = new_block(m)
    m.addr[b] = m.addr[slab] + slot * m.lane[slab]
    m.size[b] = slot
    m.key[b] = slot
    m.mark[b] = slab
    m.next[b] = m.next[slab]
    m.next[slab] = b
    m.lane[slab] += 1
    if slot * m.lane[slab] == m.size[slab]:
        remove(m, OPEN, slab)
    return b


def allocate(m, size, lane):
    slot = _slot_size(m, size)
    b = first_from(m, SLOTS, slot, FIRST_TIE)
    if b != 0 and m.key[b] == slot:
        remove(m, SLOTS, b)
    else:
        slab = first_from(m, OPEN, slot, 0)
        if slab == 0 or m.key[slab] != slot:
            slab = _new_slab(m, slot)
            if slab == 0:
                return slab
        b = _cut_slot(m, slab, slot)
    m.state[b] = USED
    m.mark[m.mark[b]] += 1
    return b


def free(m, b):
    m.mark[m.mark[b]] -= 1
    m.state[b] = FREE
    m.g[NEXT_ORDER] += 1
    m.tie[b] = -m.g[NEXT_ORDER]
    insert(m, SLOTS, b)


def trim(m):
    given = np.int64(0)
    before = np.int64(0)
    slab = m.own[SLABS]
    while slab != 0:
        after = np.int64(m.prev[slab])
        if m.mark[slab] != 0:
            before = slab
        else:
            slot = np.int64(m.next[slab])
            while slot != 0:
                following = np.int64(m.next[slot])
                remove(m, SLOTS, slot)
                drop_block(m, slot)
                slot = following
            if m.key[slab] * m.lane[slab] < m.size[slab]:
                remove(m, OPEN, slab)
            if before == 0:
                m.own[SLABS] = after
            else:
                m.prev[before] = after
            driver_free(m, m.size[slab])
            given += m.size[slab]
            drop_block(m, slab)
        slab = after
    return given


SIZE_CLASSES = Mechanism(
    "size_classes",
    "Bonwick: The slab allocator (1994), 3.2; spacing as in jemalloc's size_classes.h",
    allocate,
    free,
    trim,
    params=(
        Param("spacing", 4, 1, 64, "classes to a doubling of the size", log=True),
        Param("slab", 2 * MiB, 64 * KiB, 64 * MiB, "the least to ask the driver for, about",
              "bytes", True),
    ),
    honours=Honours(returns=True),
    own=own,
)  # fmt: skip

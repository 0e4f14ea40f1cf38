"""Lifetime classes: blocks that are expected to live about as long share segments.

The first part of a program teaches how long the blocks of each request live. After it a request
goes to the class of its lifetime, each ten times as long as the one before; a request never seen,
and every request while learning, has a class of its own. Best fit in the class's segments; if
nothing fits there, holes in segments of longer-lived classes are used, from the next class on. A
segment that is empty serves any class.

Source: Maas et al.: Learning-based memory allocation for C++ server workloads (LLAMA, ASPLOS 2020),
4: lifetime classes a factor of ten apart, short-lived blocks in the gaps of longer-lived pages.
Differs: LLAMA predicts from stacks by a neural network and moves pages whose blocks outlive their
deadline to the next class; here the longest lifetime seen of the same request is the prediction.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..sim.engine import MALLOC_REVIVES, OP_BITS, OP_MASK
from ..sim.free_tree import first_from
from ..sim.mechanism import Foresight, Honours, Mechanism
from ..sim.packing import Packed
from ..sim.param import Param
from ..sim.span import (
    BY_SIZE,
    cut,
    drop_whole_segments,
    is_whole,
    new_segment,
    release,
    take,
)
from ..sim.state import NOW
from ..traces.program import Op
from ..traces.units import GiB, MiB
from .planned import deaths

LEARN, SEGMENT = 0, 1  # parameters
CLASSES = 8  # 0: not known; 1: below 10 events; 2: below 100; ...
EMPTY = CLASSES  # words of `own`: a tree for each class, and one for empty segments
UNIT = 512
PAGE = 2 * MiB  # segments are multiples of it, so that those of nearly equal size are of use again


def own(values: Mapping[str, int], lanes: int) -> int:
    """A tree for each class and one for empty segments."""
    return CLASSES + 1


def allocate(m, size, lane):
    need = (size + UNIT - 1) // UNIT * UNIT
    klass = m.hint[m.g[NOW]]
    b = np.int64(0)
    for k in range(klass, CLASSES):
        if b == 0 and (k == klass or klass != 0):  # what is not known stays by itself
            b = first_from(m, k, need, 0)
    if b == 0:
        b = first_from(m, EMPTY, need, 0)
    if b != 0:
        tree = m.lane[b]
        take(m, b)
        if tree == EMPTY:
            m.lane[b] = klass
    else:
        size = max(need, m.param[SEGMENT])
        b = new_segment(m, klass, (size + PAGE - 1) // PAGE * PAGE)
    if b != 0 and m.size[b] > need:
        cut(m, b, need, BY_SIZE)
    return b


def free(m, b):
    b = release(m, b, BY_SIZE)
    if is_whole(m, b):
        take(m, b)
        m.lane[b] = EMPTY
        release(m, b, BY_SIZE)


def trim(m):
    return drop_whole_segments(m, EMPTY)


def foresight(packed: Packed, values: Mapping[str, int]) -> Foresight:
    """The class of each request, from the longest lifetime seen while learning.

    What is still live when learning ends counts as long as it has lived. Nothing later is used.
    """
    events = packed.events
    n = len(events)
    op, klass = events & OP_MASK, (events >> OP_BITS) & 0xFFFFFFF
    is_malloc = (op == int(Op.MALLOC)) | (op == MALLOC_REVIVES)
    is_free = (op == int(Op.FREE)) | (op == int(Op.COMPLETE))
    learnt = n * values["learn"] // 100
    death = deaths(is_malloc, is_free, events >> 32)
    seen = np.flatnonzero(is_malloc[:learnt])
    longest = np.full(len(packed.program.req_size) + 1, -1, np.int64)
    np.maximum.at(longest, klass[seen], np.minimum(death[seen], learnt) - seen)
    expected = np.zeros(len(longest), np.int64)
    for k in range(1, CLASSES):
        expected[longest >= 10 ** (k - 1)] = k
    hints = np.where(is_malloc, expected[np.where(is_malloc, klass, 0)], 0)
    hints[:learnt] = 0
    return Foresight(hints)


LIFETIME_CLASSES = Mechanism(
    "lifetime_classes",
    "Maas et al.: LLAMA (ASPLOS 2020), 4, lifetime classes; learned from the program's first part",
    allocate,
    free,
    trim,
    params=(
        Param("learn", 25, 1, 90, "share of the program that it learns from", "%"),
        Param("segment", 20 * MiB, 2 * MiB, GiB, "the least to ask the driver for", "bytes"),
    ),
    honours=Honours(returns=True),
    own=own,
    foresight=foresight,
)

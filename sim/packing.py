"""Packing: a Program as one 64-bit word per op, the form the replay loop reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..traces.event_words import (
    COMPLETE,
    FREE,
    FREE_LATER,
    MALLOC,
    MALLOC_REVIVES,
    OP_BITS,
    RELEASE_POOL,
    TRY,
    give_number,
    take_lowest,
)
from ..traces.jit import kernel
from ..traces.long_trace import LongTrace
from ..traces.program import Op, Program
from .period import Period, find_period


@dataclass(frozen=True)
class Packed:
    """A program's events, shared by every replay of it.

    Attributes:
        program: where they came from.
        events: shape (n,) int64; slot << 32 | class << 4 | op; class = request number + 1.
        keeps_start: replays start from the recorded layout.
        prefix: number of leading events that place the start's allocations anew; 0 if kept.
        start_slot: shape (n_start,) int64; slot of each allocation live at the start.
        n_slots: slots used, slot 0 included (it stays empty).
        max_live: most allocations held at any time.
        changes: indices of the events from which on other conditions hold.
        source: the long trace that the events are mapped from; None = they are in memory.
        plans: what plan.plan_of keeps of the plans built for these events.
    """

    program: Program
    events: np.ndarray
    keeps_start: bool
    prefix: int
    start_slot: np.ndarray
    n_slots: int
    max_live: int
    changes: tuple[int, ...] = ()
    source: LongTrace | None = None
    plans: dict[tuple[object, ...], Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def period(self) -> Period | None:
        """Where the events repeat themselves, if they do."""
        return find_period(self.events, self.give_back)

    @cached_property
    def no_addresses(self) -> np.ndarray:
        """What a run says of addresses that nobody asked for; shape (A,) uint64, all 0."""
        return np.broadcast_to(np.zeros(1, np.uint64), len(self.program.request))  # one word

    def give_back(self, first: int, last: int) -> None:
        """Say that events [first, last) need not be in memory now."""
        if self.source is not None:
            shift = len(self.source.events) - len(self.events)
            self.source.give_back(first + shift, last + shift)

    def end_of_piece(self, at: int, end: int) -> int:
        """Where to stop, on the way from event `at` to `end`, to give memory back."""
        return end if self.source is None else min(end, at + self.source.piece)

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """All events in order as (index of the first, some events): all at once, or a few."""
        at, n = 0, len(self.events)
        while at < n:
            end = self.end_of_piece(at, n)
            yield at, self.events[at:end]
            self.give_back(at, end)
            at = end


@kernel
def _pack(op, arg, request, req_pool, n_start, events, slot, spare, released):
    """Fill `events`; returns (number of slots, most allocations held).

    A slot is the lowest free number, so that a program that repeats itself has events that do.
    Scratch comes from outside: making an array takes Numba a third of a second to compile.

    Args:
        slot: of each allocation, 0 at first.
        spare: one longer; a binary heap of freed slot numbers.
        released: of each pool, 0 at first.
    """
    m = 0
    top = 1
    for a in range(n_start):
        slot[a] = top
        top += 1
    live = n_start
    most = live
    for i in range(op.size):
        o = np.int64(op[i])
        a = np.int64(arg[i])
        if o == MALLOC:
            if m == 0:
                x = top
                top += 1
            else:
                x = take_lowest(spare, m)
                m -= 1
            slot[a] = x
            live += 1
            if live > most:
                most = live
            pool = req_pool[request[a]]
            if released[pool] != 0:
                released[pool] = 0
                o = np.int64(MALLOC_REVIVES)
            events[i] = (x << 32) | ((np.int64(request[a]) + 1) << OP_BITS) | o
        elif o == FREE or o == FREE_LATER or o == COMPLETE:
            x = slot[a]
            events[i] = (x << 32) | ((np.int64(request[a]) + 1) << OP_BITS) | o
            if o != FREE_LATER:
                live -= 1
                give_number(spare, m, x)
                m += 1
        elif o == TRY:
            events[i] = ((a + 1) << OP_BITS) | o
        else:
            if o == RELEASE_POOL:
                released[a] = 1
            events[i] = (a << 32) | o
    return top, most


def pack(program: Program, keep_start: bool = True) -> Packed:
    """Pack a program.

    Args:
        program: what to pack.
        keep_start: start from the recorded layout; False = place its live allocations anew, in
            allocation order, as ordinary mallocs before the first op.

    Raises:
        ValueError: its ops are not in memory; `packed_long` packs such a program.
    """
    if len(program.op) != program.n_ops:  # compiled code would read beyond them
        raise ValueError("a long trace has no ops in memory that could be packed")
    n_start, n_allocs = program.n_start, len(program.request)
    events = np.empty(program.n_ops, np.int64)
    n_slots, most = _pack(
        program.op,
        program.arg,
        program.request,
        program.req_pool,
        n_start,
        events,
        np.zeros(n_allocs, np.int64),
        np.empty(n_allocs + 1, np.int64),
        np.zeros(len(program.pools), np.uint8),
    )
    start_slot = np.arange(1, n_start + 1, dtype=np.int64)
    prefix = 0
    if not keep_start and n_start:
        klass = program.request[:n_start].astype(np.int64) + 1
        first = (start_slot << 32) | (klass << OP_BITS)
        rows = program.start.blocks
        pending = np.zeros(n_start, bool)
        owned = rows["alloc"] >= 0
        pending[rows["alloc"][owned]] = rows["state"][owned] == 2
        later = first[pending] | FREE_LATER
        # a block that was pending is freed at once after it was placed
        order = np.argsort(
            np.concatenate([2 * start_slot, 2 * start_slot[pending] + 1]), kind="stable"
        )
        first = np.concatenate([first | MALLOC, later])[order]
        prefix = len(first)
        events = np.concatenate([first, events])
    changes = tuple((np.flatnonzero(program.op == Op.CHANGE) + prefix).tolist())
    return Packed(program, events, keep_start, prefix, start_slot, int(n_slots), int(most), changes)


def packed_long(trace: LongTrace, keep_start: bool = True) -> Packed:
    """A long trace as a packed program, its events left where they are; as for `pack`."""
    program = trace.program
    prefix = 0 if keep_start else trace.prefix
    return Packed(
        program,
        trace.events[trace.prefix - prefix :],
        keep_start,
        prefix,
        np.arange(1, program.n_start + 1, dtype=np.int64),
        trace.n_slots,
        trace.max_live,
        source=trace,
    )

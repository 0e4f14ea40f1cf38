"""Checking a long trace: every piece against its checksum, every event against the rules."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .errors import TraceError
from .event import BlockState
from .event_words import (
    FAULTS,
    HIGHEST_SLOT,
    MALLOC,
    MALLOC_REVIVES,
    MOST_LIVE,
    N_COUNTS,
    PEAK_REQUESTED,
    PEAK_WANTED,
    PENDING,
    REQUESTED,
    check_words,
)
from .long_trace import LongTrace


def check_events(trace: LongTrace, advance: Callable[[int], object]) -> None:
    """Check the events of a trace whose tables are in order, and note what they add up to.

    Args:
        trace: its counts and peaks are set.
        advance: called with a number of events whenever so many more were checked.

    Raises:
        TraceError: a piece is damaged, or an event breaks a rule.
    """
    slots = np.zeros(trace.n_slots, np.int64)
    counts, ops = np.zeros(N_COUNTS, np.int64), np.zeros(16, np.int64)
    size = np.append(0, trace.program.req_size)
    done = 0
    for words in _pieces(trace):
        ends = [trace.prefix - done] if 0 < trace.prefix - done <= len(words) else []
        start = 0
        for end in [*ends, len(words)]:
            at, fault = check_words(
                words[start:end], size, len(trace.program.pools), slots, counts, ops
            )
            if fault:
                where = done + start + int(at) - trace.prefix
                raise TraceError(f"{trace.name}: event {where:,}: found {FAULTS[int(fault)]}")
            if ends and end == ends[0]:
                _check_prefix(trace, slots)
                ops[:] = 0
            start = end
        trace.give_back(done, done + len(words))
        done += len(words)
        advance(len(words))
    if not trace.prefix and len(trace.program.request):
        raise TraceError(f"{trace.name}: found no events that place what was live at the start")
    found = (int(counts[MOST_LIVE]), int(counts[HIGHEST_SLOT]) + 1)
    if found != (trace.max_live, trace.n_slots):
        raise TraceError(
            f"{trace.name}: found at most {found[0]:,} live allocations in {found[1]:,} slots, "
            f"expected {trace.max_live:,} in {trace.n_slots:,} as its tables say"
        )
    ops[MALLOC] += ops[MALLOC_REVIVES]
    trace.program.counts = dict(enumerate(ops[:MALLOC_REVIVES].tolist()))
    trace.peak_requested_bytes = int(counts[PEAK_REQUESTED])
    trace.end_requested_bytes = int(counts[REQUESTED])
    trace.peak_wanted_bytes = int(counts[PEAK_WANTED])


def _check_prefix(trace: LongTrace, slots: np.ndarray) -> None:
    """The events before the first op must place what the start layout holds, and nothing else."""
    program = trace.program
    blocks = program.start.blocks
    want = np.zeros(len(slots), np.int64)
    n = len(program.request)
    owned = blocks["alloc"] >= 0
    if n >= len(want):
        raise TraceError(f"{trace.name}: found too few slots for what was live at the start")
    want[1 : n + 1] = program.request + 1
    pending = blocks["alloc"][owned & (blocks["state"] == BlockState.PENDING)]
    want[1 + pending] |= PENDING
    if not np.array_equal(slots, want):
        raise TraceError(f"{trace.name}: its first events do not place what was live at the start")


def _pieces(trace: LongTrace) -> Iterator[np.ndarray]:
    """The events piece by piece, each checked against its hash, in a thread of its own."""
    parts = [trace.events[k : k + trace.piece] for k in range(0, len(trace.events), trace.piece)]
    n = len(parts)
    if trace.entry is not None:
        parts += [trace.entry[k : k + trace.piece] for k in range(0, len(trace.entry), trace.piece)]

    def is_whole(k: int) -> bool:
        return hashlib.sha256(parts[k].data).digest() == trace.hashes[k]

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(is_whole, 0) if parts else None
        for k, part in enumerate(parts):
            assert ahead is not None
            if not ahead.result():
                what = "events" if k < n else "entries"
                first = (k if k < n else k - n) * trace.piece
                raise TraceError(
                    f"{trace.name}: {what} {first:,} to {first + len(part) - 1:,} are damaged: "
                    "wrong checksum"
                )
            if k + 1 < len(parts):
                ahead = pool.submit(is_whole, k + 1)
            if k < n:
                yield part
            else:
                first = len(trace.events) + (k - n) * trace.piece
                trace.give_back(first, first + len(part))

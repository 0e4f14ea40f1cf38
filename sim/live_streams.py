"""Streams of a live policy: their numbers, and who must wait before memory changes hands.

Every page remembers which stream last freed memory in it. A block that would go to another stream
waits for the device first; where a policy keeps streams apart that never happens.
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import helper, inline
from .apart import invokers
from .live_state import (
    CONTEXT,
    EPOCH,
    HANDLE,
    MANY,
    MOST_STREAMS,
    N_STREAMS,
    POP,
    PUSH,
    SYNCHRONIZE,
    end_page,
    first_page,
)

NO_STREAM = -1
call0, call1 = invokers[0], invokers[1]


@helper
def number_of(p, stream):
    """Number of a stream in the order of appearance; NO_STREAM if there are too many."""
    n = p.word[N_STREAMS]
    for k in range(n):
        if p.stream[k] == stream:
            return np.int64(k)
    if n == MOST_STREAMS:
        return np.int64(NO_STREAM)
    p.stream[n] = stream
    p.word[N_STREAMS] = n + 1
    return n


@helper
def wait_for_device(p):
    """Let everything that was started on the device end."""
    p.word[EPOCH] += 1
    if p.word[SYNCHRONIZE] != 0:
        call1(p.word[PUSH], p.word[CONTEXT])
        call0(p.word[SYNCHRONIZE])
        call1(p.word[POP], p.word[HANDLE])


@inline
def note_freed(p, offset, size, stream):
    """Memory was given back on a stream, whose work may still use it."""
    number = number_of(p, stream)
    if number == NO_STREAM:
        wait_for_device(p)
        return
    now = p.word[EPOCH] << 16
    for k in range(first_page(offset), end_page(offset, size)):
        before = p.freed[k]
        is_shared = before >= now and before != now | number
        p.freed[k] = now | (MANY if is_shared else number)


@inline
def is_in_use_elsewhere(p, offset, size, stream):
    """Another stream than that of a number may still use a page of this memory."""
    now = p.word[EPOCH] << 16
    for k in range(first_page(offset), end_page(offset, size)):
        if p.freed[k] >= now and p.freed[k] != now | stream:
            return True
    return False

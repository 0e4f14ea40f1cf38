"""The replay loop: a program's events meet a policy's decisions."""

from __future__ import annotations

import numpy as np

from ..traces.event import Action
from ..traces.jit import inline, kernel
from ..traces.program import Op
from .apart import apart
from .assumed import (
    Assumed,
    forgets,
    has_holes,
    is_expandable,
    notes_addresses,
    tracks,
)
from .driver import log
from .expandable import home, place
from .index import move, rank, remove, stays
from .memory import prefetch, words_of
from .policy import Policy, before_driver, choose, from_driver, is_traceless, recover, splits
from .reclaim import (
    complete,
    free,
    free_later,
    release_everything,
    release_freeable_pools,
    release_pool,
    synchronize,
)
from .spares import new_id
from .state import (
    ALLOCATED,
    ASKED,
    BIN_SHIFT,
    CAPACITY,
    CAPTURE_EMPTIES_POOLS,
    CLASS_WORDS,
    DRIVER_USED,
    FIRST_BIN,
    FIRST_OOM,
    FIRST_OOM_BYTES,
    FREEABLE,
    FRONTIER,
    HUGE,
    IN_CAPTURE,
    KIND_MASK,
    LANE,
    LANE_WORDS,
    LATEST_PEAK,
    NEED,
    NOW,
    OOMS,
    PEAK_REQUESTED,
    POOL,
    POOL_WORDS,
    REJECTED,
    REQUESTED,
    SINGLE_POOL_EMPTY,
    SPARES,
    SPARES_NEEDED,
    STOP_AT_OOM,
    SYNCS,
    lane_of,
)
from .stats import track_malloc
from .ties import order_of, set_order_of_piece
from .view import view

# An event is slot << 32 | class << 4 | op: ops as in program.Op, and one of the packer's own.
MALLOC, FREE, TRY = int(Op.MALLOC), int(Op.FREE), int(Op.TRY)
FREE_LATER, COMPLETE = int(Op.FREE_LATER), int(Op.COMPLETE)
RELEASE_POOL, CAPTURE = int(Op.RELEASE_POOL), int(Op.CAPTURE)
MALLOC_REVIVES = 8  # a malloc that takes a released private pool back into use
OP_BITS, OP_MASK = 4, 15
PASSED = -1  # instead of a block: nothing was handed out, the next event frees it
AHEAD = 8  # events; measured: 4 to 16 do equally well
OOM = int(Action.OOM)


@inline
def _ask_driver(s, q, try_op):
    """Obtain a used block from the driver, with recovery; 0 after an out-of-memory error."""
    s.g[REJECTED] = 0
    before_driver(s, q)
    stage = np.int64(0)
    b = from_driver(s, q, False, try_op)
    while b == 0:
        stage = recover(s, q, stage)
        if stage == 0:
            break
        b = from_driver(s, q, stage == 2, try_op)
    if b == 0:
        if s.g[FIRST_OOM] == 0:
            s.g[FIRST_OOM] = s.g[NOW] + 1
            s.g[FIRST_OOM_BYTES] = s.classes[q + NEED]
        if s.g[REJECTED] == 0:
            s.g[OOMS] += 1
            room = np.int64(0)
            if s.opt[CAPACITY] < HUGE:
                room = max(room, s.opt[CAPACITY] - s.g[DRIVER_USED])
            log(s, OOM, room, s.classes[q + NEED], s.classes[q + LANE])
    return b


@apart
def obtain(s, q, try_op):
    """A used block from the driver that holds the request, not split yet; 0 = out of memory."""
    return _ask_driver(s, q, try_op)


@inline
def _cut_front(s, b, need, g):
    """A new used block of bin g for the first `need` bytes of b; the caller moves b behind it."""
    piece = new_id(s)
    left = np.int64(s.prev[b])
    s.prev[piece] = left
    s.next[piece] = b
    s.prev[b] = piece
    s.next[left] = piece
    s.size[piece] = need
    s.addr[piece] = s.addr[b]
    set_order_of_piece(s, piece, b)
    if has_holes(s):
        s.phase[piece] = s.phase[b]
        s.tag[piece] = (g << BIN_SHIFT) | (s.tag[b] & KIND_MASK)
    else:
        s.tag[piece] = g << BIN_SHIFT
    return piece


@apart
def carve_new(s, b, q, did_split):
    """Cut the request off block b, fresh from the driver, or hand all of it out."""
    if did_split:
        need = s.classes[q + NEED]
        piece = _cut_front(s, b, need, s.classes[q + FIRST_BIN])
        s.size[b] -= need
        s.addr[b] += need
        place(s, b)
        return piece
    g = rank(s, lane_of(s, b), s.size[b])
    s.tag[b] = (g << BIN_SHIFT) | (s.tag[b] & KIND_MASK)
    return b


@inline
def _count_malloc(s, size, asked):
    """Allocated and requested bytes with a block of `size` for the request; counts their peaks."""
    allocated, latest = s.g[ALLOCATED] + size, s.g[LATEST_PEAK]
    requested, most = s.g[REQUESTED] + asked, s.g[PEAK_REQUESTED]
    s.g[LATEST_PEAK] = max(latest, allocated)
    s.g[PEAK_REQUESTED] = max(most, requested)
    return allocated, requested


@inline
def malloc(policy, s, klass, try_op, is_brief):
    """Serve one request; the block handed out, or 0 after an out-of-memory error.

    Args:
        is_brief: the next event frees it, and the two leave no trace: if a free block holds it,
            only count the peaks and return PASSED.
    """
    q = klass * CLASS_WORDS
    b = choose(policy, s, q)
    if b != 0:
        need, lane = s.classes[q + NEED], s.classes[q + LANE]  # a free block is of the lane
        rest = s.size[b] - need
        if is_brief:
            _count_malloc(
                s, need if splits(policy, s, q, rest) else s.size[b], s.classes[q + ASKED]
            )
            return np.int64(PASSED)
        did_split = splits(policy, s, q, rest)
        if did_split:
            whole = b
            b = _cut_front(s, whole, need, s.classes[q + FIRST_BIN])
            if is_expandable(s, whole):
                g = home(s, lane, np.int64(s.next[whole]), rest)
            else:
                g = rank(s, lane, rest)
            addr, order = s.addr[whole] + need, order_of(s, whole)
            if not stays(s, whole, rest, addr, order, g):
                move(s, whole, rest, addr, order, g)
        else:
            remove(s, b)
            frontier = s.lanes[lane * LANE_WORDS + FRONTIER]
            if has_holes(s) and np.int64(s.tag[b]) >> BIN_SHIFT == frontier:
                g = rank(s, lane, s.size[b])
                s.tag[b] = (g << BIN_SHIFT) | (s.tag[b] & KIND_MASK)
    else:
        b = obtain(s, q, try_op)
        if b == 0:
            return b
        did_split = splits(policy, s, q, s.size[b] - s.classes[q + NEED])
        b = carve_new(s, b, q, did_split)
    if tracks(s):
        track_malloc(s, b, q, did_split)
    asked = s.classes[q + ASKED]
    s.asked[b] = asked
    s.g[ALLOCATED], s.g[REQUESTED] = _count_malloc(s, s.size[b], asked)
    return b


@apart
def rare_op(s, op, arg):
    """EMPTY_CACHE, RELEASE_POOL and CAPTURE."""
    if op == CAPTURE:
        s.g[IN_CAPTURE] = arg
    elif op == RELEASE_POOL:
        s.pool[2 * arg * POOL_WORDS + FREEABLE] = 1
    elif arg == 0 or s.opt[SINGLE_POOL_EMPTY] == 0:
        if s.g[IN_CAPTURE] == 0:
            release_everything(s)
        elif s.opt[CAPTURE_EMPTIES_POOLS] != 0:
            release_freeable_pools(s)
        else:
            s.g[SYNCS] += 1  # and then PyTorch's assertion fails
    elif s.pool[2 * arg * POOL_WORDS + FREEABLE] != 0:
        if s.g[IN_CAPTURE] != 0:
            s.g[SYNCS] += 1  # and then PyTorch's assertion fails
        else:
            synchronize(s, arg)
            release_pool(s, arg)


@apart
def free_tried(s, b):
    free(s, b)


@kernel
def play(policy, assumed, events, start, state, plan, out):
    """Carry out events[start:].

    Args:
        assumed: what is known of the run's options.
        events: shape (n,), int64; slot << 32 | class << 4 | op.
        state, plan: buffers of state.STATE and state.PLAN; the state is modified in place.
        out: shape (n,) or (0,), int64; receives the address each event dealt with, 0 = none.

    Returns:
        Index of the first event not carried out: n at the end; less if the replay ended at an
        out-of-memory error (counter FIRST_OOM is set) or the state must grow (it is not).
    """
    s = view(state, plan, assumed)
    keep = notes_addresses(s) and out.size > 0
    passes = is_traceless(policy) and forgets(s) and not keep
    n = events.size
    if start >= n:
        return n
    last = n - 1
    words = words_of(events)
    i = start
    following = words[i]
    while i < n:
        if s.g[SPARES] <= s.g[SPARES_NEEDED]:
            return i
        ahead = words[min(i + AHEAD, last)]  # what it will need is on its way when it comes up
        prefetch(s.classes, ((ahead >> OP_BITS) & 0xFFFFFFF) * CLASS_WORDS)
        prefetch(s.size, np.int64(s.slot[ahead >> 32]))
        e = following
        following = words[min(i + 1, last)]
        op = e & OP_MASK
        slot = e >> 32
        s.g[NOW] = i
        if op & 3 == 0:  # MALLOC, TRY, MALLOC_REVIVES
            klass = (e >> OP_BITS) & 0xFFFFFFF
            if op != MALLOC:
                pool = s.lanes[s.classes[klass * CLASS_WORDS + LANE] * LANE_WORDS + POOL]
                s.pool[(pool & ~1) * POOL_WORDS + FREEABLE] = 0
            # The word of its free differs from an allocation's in the lowest bit.
            is_brief = passes and following ^ e == FREE ^ MALLOC
            b = malloc(policy, s, klass, op == TRY, is_brief)
            if keep:
                out[i] = s.addr[b]  # of block 0: 0
            if is_brief and b == PASSED:
                i += 2
                following = words[min(i, last)]
                continue
            s.slot[slot] = b
            if (b == 0) | (op == TRY):
                s.slot[slot] = 0
                if b != 0:
                    free_tried(s, b)
                elif s.opt[STOP_AT_OOM] != 0:
                    return i + 1
        elif op <= COMPLETE:
            b = np.int64(s.slot[slot])
            if b != 0:
                if keep:
                    out[i] = s.addr[b]
                if op < FREE_LATER:
                    s.slot[slot] = 0
                    free(s, b)
                elif op == FREE_LATER:
                    free_later(s, b, slot)
                else:
                    complete(s, slot)
        else:
            rare_op(s, op, slot)
        i += 1
    return n


def compile_loop(policy: Policy, assumed: Assumed) -> None:
    """Compile play() for a policy under an assumption, or load it, and play nothing."""
    nothing = np.zeros(1, np.int64)
    play(policy, assumed, nothing[:0], 0, nothing, nothing, nothing[:0])

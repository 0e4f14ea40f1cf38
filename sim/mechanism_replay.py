"""Replay of a packed program through a mechanism; the answer is a Run like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..traces.jit import helper, inline, kernel
from ..traces.program import Op, Program
from .costs import work_of
from .device import FIRST_ADDRESS, Device
from .engine import CAPTURE, COMPLETE, FREE, FREE_LATER, MALLOC, OP_BITS, OP_MASK, TRY
from .ground import (
    ASKED,
    CLASS_WORDS,
    GROUND,
    LANE,
    USED,
    WAITING,
    ground,
    grown,
    new_ground,
)
from .mechanism import Foresight, Mechanism, allocate, free, trim
from .packing import Packed
from .run import Run
from .state import (
    ALLOC_RETRIES,
    ALLOCATED,
    CAPACITY,
    DEVICE_ALLOCS,
    DEVICE_FREES,
    FIRST_OOM,
    FIRST_OOM_BYTES,
    FIRST_PENDING,
    GRANULARITY,
    HUGE,
    IN_CAPTURE,
    LAST_PENDING,
    N_LANES,
    NEXT_ADDRESS,
    NOW,
    OOMS,
    PEAK_ACTIVE,
    PEAK_ALLOCATED,
    PEAK_REQUESTED,
    PEAK_RESERVED,
    PENDING,
    REQUESTED,
    RESERVED,
    SPARES,
    SPARES_NEEDED,
    STOP_AT_OOM,
    SYNCS,
)

EMPTY_CACHE = int(Op.EMPTY_CACHE)
_NOTHING = np.zeros(0, np.int64)
_STATS = {
    "allocated_bytes.all.current": ALLOCATED,
    "allocated_bytes.all.peak": PEAK_ALLOCATED,
    "active_bytes.all.peak": PEAK_ACTIVE,
    "requested_bytes.all.current": REQUESTED,
    "requested_bytes.all.peak": PEAK_REQUESTED,
    "reserved_bytes.all.current": RESERVED,
    "reserved_bytes.all.peak": PEAK_RESERVED,
    "num_device_alloc": DEVICE_ALLOCS,
    "num_device_free": DEVICE_FREES,
    "num_alloc_retries": ALLOC_RETRIES,
    "num_ooms": OOMS,
    "num_sync_all_streams": SYNCS,
}


@inline
def _queue(m, b, slot):
    """Put a block at the end of the queue of those that wait for another stream."""
    last = m.g[LAST_PENDING]
    m.state[b] = WAITING
    m.held[b] = slot
    m.earlier[b] = last
    m.later[b] = 0
    if last != 0:
        m.later[last] = b
    else:
        m.g[FIRST_PENDING] = b
    m.g[LAST_PENDING] = b


@inline
def _unqueue(m, b):
    before, after = np.int64(m.earlier[b]), np.int64(m.later[b])
    if before != 0:
        m.later[before] = after
    else:
        m.g[FIRST_PENDING] = after
    if after != 0:
        m.earlier[after] = before
    else:
        m.g[LAST_PENDING] = before


@inline
def count_served(m, b, asked):
    """Block b was handed out for a request of `asked` bytes."""
    m.state[b] = USED
    allocated = m.g[ALLOCATED] + m.size[b]
    m.g[ALLOCATED] = allocated
    m.g[PEAK_ALLOCATED] = max(m.g[PEAK_ALLOCATED], allocated)
    m.g[PEAK_ACTIVE] = max(m.g[PEAK_ACTIVE], allocated + m.g[PENDING])
    requested = m.g[REQUESTED] + asked
    m.g[REQUESTED] = requested
    m.g[PEAK_REQUESTED] = max(m.g[PEAK_REQUESTED], requested)


@helper
def _give_back(mechanism, m):
    """Wait for every stream, so that what waits becomes free; then return memory to the driver.

    Returns:
        Whether anything changed.
    """
    m.g[SYNCS] += 1
    b = m.g[FIRST_PENDING]
    waited = b != 0
    m.g[FIRST_PENDING] = 0
    m.g[LAST_PENDING] = 0
    m.g[PENDING] = 0
    while b != 0:
        after = np.int64(m.later[b])
        m.slot[m.held[b]] = 0
        m.g[REQUESTED] -= m.classes[m.klass[b] * CLASS_WORDS + ASKED]
        free(mechanism, m, b)
        b = after
    return trim(mechanism, m) > 0 or waited


@kernel
def play_mechanism(mechanism, events, start, buffer, out):
    """Carry out events[start:].

    Args:
        events: shape (n,), int64; slot << 32 | class << 4 | op.
        buffer: a ground's buffer; modified in place.
        out: shape (n,) or (0,), int64; receives address of each malloc served, 0 = none.

    Returns:
        Index of the first event not carried out: n at the end; less if the replay ended at an
        out-of-memory error (counter FIRST_OOM is set) or the ground must grow (it is not).
    """
    m = ground(buffer)
    keep = out.size > 0
    n = events.size
    for i in range(start, n):
        if m.g[SPARES] <= m.g[SPARES_NEEDED]:
            return i
        m.g[NOW] = i
        e = events[i]
        op = e & OP_MASK
        slot = e >> 32
        if op & 3 == 0:  # MALLOC, TRY, and a MALLOC that revives a private pool
            klass = (e >> OP_BITS) & 0xFFFFFFF
            asked = m.classes[klass * CLASS_WORDS + ASKED]
            lane = m.classes[klass * CLASS_WORDS + LANE]
            asks_again = m.g[IN_CAPTURE] == 0
            while True:
                b = allocate(mechanism, m, asked, lane)
                if b != 0 or not asks_again or not _give_back(mechanism, m):
                    break
                asks_again = False
                m.g[ALLOC_RETRIES] += 1
            if b == 0:
                m.slot[slot] = 0
                m.g[OOMS] += 1
                if m.g[FIRST_OOM] == 0:
                    m.g[FIRST_OOM] = i + 1
                    m.g[FIRST_OOM_BYTES] = asked
                if m.opt[STOP_AT_OOM] != 0:
                    return i + 1
                continue
            if keep:
                out[i] = m.addr[b]
            m.klass[b] = klass
            count_served(m, b, asked)
            m.slot[slot] = b
        if op == FREE or op == TRY or op == COMPLETE:
            b = np.int64(m.slot[slot])
            m.slot[slot] = 0
            if b != 0:
                if op == COMPLETE:
                    m.g[PENDING] -= m.size[b]
                    _unqueue(m, b)
                else:
                    m.g[ALLOCATED] -= m.size[b]
                m.g[REQUESTED] -= m.classes[m.klass[b] * CLASS_WORDS + ASKED]
                free(mechanism, m, b)
        elif op == FREE_LATER:
            b = np.int64(m.slot[slot])
            if b != 0:
                m.g[ALLOCATED] -= m.size[b]
                m.g[PENDING] += m.size[b]
                _queue(m, b, slot)
        elif op == CAPTURE:
            m.g[IN_CAPTURE] = slot
        elif op == EMPTY_CACHE and m.g[IN_CAPTURE] == 0:
            _give_back(mechanism, m)
    return n


def lanes_of(program: Program, mechanism: Mechanism) -> tuple[np.ndarray, int]:
    """Number what a mechanism keeps apart.

    Returns:
        The lane of each distinct request, shape (R,), int64, and how many there are, at least 1.
    """
    stream = program.req_stream if mechanism.honours.streams else 0 * program.req_stream
    pool = program.req_pool if mechanism.honours.pools else 0 * program.req_pool
    pairs = stream.astype(np.int64) * len(program.pools) + pool
    found, lane = np.unique(pairs, return_inverse=True)
    return lane.astype(np.int64), max(1, len(found))


def open_ground(
    f: Mapping[str, np.ndarray], values: Sequence[int], device: Device, n_lanes: int
) -> None:
    """Write into a new ground what a mechanism is told at the start.

    Args:
        f: views of its fields.
        values: of all parameters, in the order of their declaration.
        device: what the driver can give.
        n_lanes: how many lanes there may be.
    """
    f["param"][: len(values)] = values
    f["g"][NEXT_ADDRESS] = FIRST_ADDRESS
    f["opt"][CAPACITY] = HUGE
    if device.capacity_bytes is not None:
        f["opt"][CAPACITY] = max(0, device.capacity_bytes - device.other_bytes)
    f["opt"][GRANULARITY] = device.granularity
    f["opt"][N_LANES] = n_lanes


def replay_mechanism(
    packed: Packed,
    mechanism: Mechanism,
    values: Mapping[str, int] | None = None,
    device: Device = Device(),  # noqa: B008 (frozen)
    *,
    stop_at_oom: bool = True,
    addresses: bool = False,
) -> Run:
    """Replay a packed program through a mechanism.

    Args:
        packed: the program; a start layout must have been packed to be placed anew, for its
            addresses are another allocator's.
        mechanism: who hands out memory.
        values: its parameters by name; missing ones have their defaults.
        device: what the driver can give.
        stop_at_oom: end at the first out-of-memory error, as the program would; False = drop the
            failed allocation with its free and go on.
        addresses: return the address of every allocation.

    Raises:
        ValueError: the program keeps a start layout that is not empty.
        PolicyError: a value is out of its range.
    """
    program = packed.program
    if packed.keeps_start and program.n_start:
        raise ValueError("a mechanism cannot start in another allocator's layout: pack it anew")
    checked = mechanism.checked(values)
    chosen = dict(zip(mechanism.defaults, checked, strict=True))
    lane, n_lanes = lanes_of(program, mechanism)
    classes = len(program.req_size) + 1
    told = mechanism.foresight(packed, chosen) if mechanism.foresight is not None else Foresight()
    own = max(1, mechanism.own(chosen, n_lanes), len(told.words))
    hints = max(1, len(told.hints))
    buffer = new_ground(packed.max_live + 1024, packed.n_slots, classes, own, hints)
    f = GROUND.views(buffer)
    f["hint"][: len(told.hints)] = told.hints
    f["own"][: len(told.words)] = told.words
    f["classes"][CLASS_WORDS + ASKED : classes * CLASS_WORDS : CLASS_WORDS] = program.req_size
    f["classes"][CLASS_WORDS + LANE : classes * CLASS_WORDS : CLASS_WORDS] = lane
    open_ground(f, checked, device, n_lanes)
    f["opt"][STOP_AT_OOM] = stop_at_oom
    n = len(packed.events)
    out = np.zeros(n, np.int64) if addresses else _NOTHING
    at = 0
    while True:
        begin, stop = at, packed.end_of_piece(at, n)
        at = int(play_mechanism(mechanism, packed.events[:stop], begin, buffer, out))
        packed.give_back(begin, at)
        f = GROUND.views(buffer)
        if at == n or (f["opt"][STOP_AT_OOM] and f["g"][FIRST_OOM]):
            break
        if at < stop:
            buffer = grown(buffer, packed.n_slots, classes, own, hints)
    return _run(packed, f["g"], at, out)


def stats_of(g: np.ndarray) -> dict[str, int]:
    """The statistics that a ground's counters hold, under the names of `Run.stats`."""
    stats = {name: int(g[k]) for name, k in _STATS.items()}
    stats["active_bytes.all.current"] = int(g[ALLOCATED] + g[PENDING])
    return stats


def _run(packed: Packed, g: np.ndarray, at: int, out: np.ndarray) -> Run:
    program = packed.program
    stats = stats_of(g)
    stats["num_oom_rejections"] = stats["diverged"] = 0
    addr = np.zeros(len(program.request), np.uint64)
    if len(out):
        placed = np.flatnonzero(packed.events[: packed.prefix] & OP_MASK == MALLOC)
        addr[: len(placed)] = out[placed]
        took = np.flatnonzero(program.op[: max(0, at - packed.prefix)] == MALLOC)
        addr[program.arg[took]] = out[packed.prefix + took]
    first = int(g[FIRST_OOM]) - 1
    return Run(
        n_ops=max(0, at - packed.prefix),
        first_oom_op=max(-1, first - packed.prefix) if first >= 0 else -1,
        first_oom_bytes=int(g[FIRST_OOM_BYTES]),
        stats=stats,
        addr=addr,
        work=work_of(g.tolist()),
    )

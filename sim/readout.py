"""Reading a state back: the segments and blocks it holds, as a snapshot would show them."""

from __future__ import annotations

import numpy as np

from ..traces.event_words import MALLOC, MALLOC_REVIVES, OP_MASK, SLOT_SHIFT
from ..traces.jit import kernel
from ..traces.program import LAYOUT_BLOCK_COLUMNS, LAYOUT_SEGMENT_COLUMNS, Layout
from .memory import Fields
from .packing import Packed
from .plan import Plan
from .state import (
    BIN_SHIFT,
    DEAD,
    FIRST_PENDING,
    HIGHEST_ID,
    ID_STEP,
    IS_EXPANDABLE,
    IS_SMALL,
    POOL,
    STATE_MASK,
    STREAM,
    UNMAPPED,
    USED,
)


@kernel
def follow(heads, following, ids):
    """Write every chain's blocks into ids, head by head; returns their number."""
    n = 0
    for head in heads:
        b = np.int64(head)
        while b != 0:
            ids[n] = b
            n += 1
            b = np.int64(following[b])
    return n


def chains(f: Fields) -> tuple[np.ndarray, np.ndarray]:
    """Every block of a state, segment by segment.

    Args:
        f: the fields of the state's buffer.

    Returns:
        ids: shape (n,); segments and reservations in address order, the blocks of each (unmapped
            ranges included) in address order too.
        head: shape (n,) bool; the first block of each.
    """
    ever = np.arange(ID_STEP, int(f["g"][HIGHEST_ID]) + 1, ID_STEP)
    heads = ever[((f["tag"][ever] & STATE_MASK) != DEAD) & (f["prev"][ever] == 0)]
    heads = heads[np.argsort(f["addr"][heads], kind="stable")]
    # along the chains: a reservation's virtual range may overlap other segments' addresses when
    # the recorded device was smaller than assumed
    ids = np.zeros(len(ever), np.int64)
    ids = ids[: follow(heads, f["next"], ids)]
    return ids, f["prev"][ids] == 0


def lanes_of(f: Fields, ids: np.ndarray, plan: Plan) -> np.ndarray:
    """Lane of each block."""
    return plan.lane_of_bin[f["tag"][ids] >> BIN_SHIFT]


def pending_slots(f: Fields) -> list[int]:
    """Slots whose blocks are pending, in order of request."""
    slots = []
    after = int(f["g"][FIRST_PENDING])
    while after:
        slots.append(after - 1)
        after = int(f["later"][after - 1])
    return slots


def read_layout(f: Fields, plan: Plan, packed: Packed, n_played: int) -> Layout:
    """Return the segments and blocks a state holds after n_played events, in address order."""
    ids, head = chains(f)
    state = f["tag"][ids] & STATE_MASK
    expandable = (f["tag"][ids] & IS_EXPANDABLE) != 0
    chain = np.cumsum(head) - 1
    base = f["addr"][ids][head][chain] if len(ids) else f["addr"][:0]
    mapped = state != UNMAPPED
    after_hole = np.zeros(len(ids), bool)
    after_hole[1:] = ~mapped[:-1]
    starts = (head | after_hole) & mapped
    keep = mapped
    alloc = _owners(packed, n_played)

    ids_kept = ids[keep]
    run = np.cumsum(starts)[keep] - 1
    n_runs = int(starts.sum())
    lane = lanes_of(f, ids_kept, plan)
    size = f["size"][ids_kept]
    blocks = {name: np.zeros(len(ids_kept), d) for name, d in LAYOUT_BLOCK_COLUMNS.items()}
    blocks["address"][:] = f["addr"][ids_kept]
    blocks["size"][:] = size
    used = state[keep] == USED
    top = int(f["g"][HIGHEST_ID]) + 1
    pending = np.zeros(top, bool)
    pending[f["slot"][pending_slots(f)]] = True
    blocks["state"][:] = np.where(used, np.where(pending[ids_kept], 2, 1), 0)
    asked = f["asked"][ids_kept]
    blocks["requested_size"][:] = np.where(used, asked, 0)
    by_block = np.full(top, -1, np.int64)
    slots = f["slot"][: packed.n_slots]
    by_block[slots[slots > 0]] = alloc[slots > 0]
    blocks["alloc"][:] = np.where(used, by_block[ids_kept], -1)

    segments = {name: np.zeros(n_runs, d) for name, d in LAYOUT_SEGMENT_COLUMNS.items()}
    first = np.flatnonzero(starts[keep])
    segments["first_block"][:] = first
    segments["n_blocks"][:] = np.diff(np.append(first, len(ids_kept)))
    segments["address"][:] = f["addr"][ids_kept][first]
    segments["size"][:] = np.bincount(run, weights=size, minlength=n_runs).astype(np.int64)
    row = plan.lanes[lane[first]]
    segments["stream"][:] = row[:, STREAM]
    segments["pool"][:] = row[:, POOL] >> 1
    segments["is_small"][:] = row[:, IS_SMALL]
    segments["is_expandable"][:] = expandable[keep][first]
    segments["reservation"][:] = np.where(expandable[keep], base[keep], 0)[first]
    return Layout(segments, blocks)


def _owners(packed: Packed, n_played: int) -> np.ndarray:
    """Allocation that last took each slot during the first n_played events; -1 = none."""
    owner = np.full(packed.n_slots, -1, np.int64)
    owner[packed.start_slot] = np.arange(len(packed.start_slot))
    # Allocations are numbered in the order of their mallocs, those of the start first; where the
    # first events place these anew, that makes no difference.
    number = 0 if packed.prefix else len(packed.start_slot)
    for first, events in packed.pieces():
        events = events[: max(0, n_played - first)]
        took = events[np.isin(events & OP_MASK, (MALLOC, MALLOC_REVIVES))] >> SLOT_SHIFT
        owner[took] = number + np.arange(len(took))
        number += len(took)
        if first + len(events) >= n_played:
            break
    return owner

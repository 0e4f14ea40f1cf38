"""The state a recording ends in, and what happened between its last entry and that state.

PyTorch copies the history first and walks the segments afterwards; other threads may slip frees
and allocations in between, and entries can be missing altogether.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from .event import BlockState, empty_columns
from .live_blocks import LIVE, PENDING
from .matching import Followed
from .ops import Ops
from .program import LAYOUT_BLOCK_COLUMNS, LAYOUT_SEGMENT_COLUMNS, Layout, Op
from .rollback import Extents
from .view import History
from .warm_start import StartBlocks


def reconcile(
    ops: Ops, h: History, followed: Followed, start: StartBlocks, notes: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Compare what the history leaves live with the final state; add ops that lead to it.

    Args:
        ops: added to, behind the last entry.
        h, followed, start: the history, as far as it is understood.
        notes: "late_free", "late_completion", "lost_free", "state_mismatch" and
            "unexplained_block" are counted.

    Returns:
        The allocation of each final block, shape (blocks,) int32, -1 for free ones; and the rows
        of the final blocks that no entry explains, which are numbered behind all others.
    """
    b, last = h.blocks, len(h.action) * 8
    live = np.flatnonzero(followed.state)
    state, alloc = followed.state[live], followed.current[live]
    active = np.flatnonzero(b["state"] != BlockState.INACTIVE)
    where = b["address"][active].astype(np.int64)
    order = np.argsort(where, kind="stable")
    slot = np.searchsorted(where[order], followed.addresses[live])
    there = slot < len(order)
    block = np.zeros(len(live), np.int64)
    block[there] = active[order[slot[there]]]
    there[there] = b["address"][block[there]].astype(np.int64) == followed.addresses[live[there]]

    asked = np.concatenate([start.requested, h.size[followed.alloc_entry]])[alloc]
    says, shown = np.zeros(len(live), np.int64), np.zeros(len(live), np.int64)
    says[there] = b["requested_size"][block[there]]
    shown[there] = b["state"][block[there]]
    there &= (says <= 0) | (says == asked)
    owner = np.full(len(b["address"]), -1, np.int32)
    owner[block[there]] = alloc[there]

    for mask, op, note in (
        ((state == LIVE) & ~there, Op.FREE, "late_free"),
        ((state == PENDING) & ~there, Op.COMPLETE, "late_completion"),
        ((state == LIVE) & there & (shown == BlockState.PENDING), Op.FREE_LATER, "lost_free"),
    ):
        ops.add(np.full(int(mask.sum()), last), op, alloc[mask])
        notes[note] += int(mask.sum())
    returned = (state == PENDING) & there & (shown == BlockState.ALLOCATED)
    notes["state_mismatch"] += int(returned.sum())

    extra = active[owner[active] < 0]
    numbers = followed.n_start + len(followed.alloc_entry) + np.arange(len(extra))
    owner[extra] = numbers
    ops.add(np.full(len(extra), last + 1), Op.MALLOC, numbers)
    held = b["state"][extra] == BlockState.PENDING
    ops.add(np.full(int(held.sum()), last + 2), Op.FREE_LATER, numbers[held])
    notes["unexplained_block"] += len(extra)
    return owner, extra


def lay_out_end(h: History, extents: Extents, owner: np.ndarray) -> Layout:
    """Return the final state as a layout; segments in creation order as far as entries show it."""
    b, s = h.blocks, h.segments
    order = np.lexsort((s["address"], extents.final_birth))
    segments = empty_columns(LAYOUT_SEGMENT_COLUMNS, len(order))
    segments["size"][:] = s["total_size"][order]
    for name in ("address", "stream", "pool", "is_small", "is_expandable", "n_blocks"):
        segments[name][:] = s[name][order]
    segments["reservation"][:] = extents.final_reservation[order]
    segments["first_block"][:] = np.cumsum(segments["n_blocks"]) - segments["n_blocks"]
    shift = s["first_block"][order] - segments["first_block"]
    rows = np.repeat(shift, segments["n_blocks"])
    rows += np.arange(len(rows))
    blocks = empty_columns(LAYOUT_BLOCK_COLUMNS, len(rows))
    for name in ("address", "size", "requested_size", "state"):
        blocks[name][:] = b[name][rows]
    blocks["alloc"][:] = owner[rows]
    return Layout(segments, blocks)

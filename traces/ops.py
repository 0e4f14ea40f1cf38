"""Put what a program did in order: recorded entries, and between them what they imply."""

from __future__ import annotations

from collections import Counter

import numpy as np

from .causes import Causes
from .event import Action
from .live_blocks import LIVE
from .matching import UNREQUESTED, Followed
from .program import Op
from .rollback import Extents
from .view import History

# An op's key is 8 * entry + its place among the ops of one entry, in this order: what an entry
# shows to have happened before it, the op itself, what follows from it.
LOST, RELEASE, CAPTURE, EMPTY, RESUME, ITSELF, AFTER, END = range(8)


class Ops:
    """A program's ops, collected out of order."""

    def __init__(self) -> None:
        self._rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, key: object, op: Op, arg: object, entry: object = -1) -> None:
        """Add one op, or as many as there are keys."""
        keys = np.atleast_1d(np.asarray(key, np.int64))
        shape = keys.shape
        self._rows.append(
            (
                keys,
                np.full(shape, int(op), np.uint8),
                np.broadcast_to(np.asarray(arg, np.int32), shape),
                np.broadcast_to(np.asarray(entry, np.int64), shape),
            )
        )

    def ordered(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return key, op, arg and entry in program order; equal keys as they were added."""
        key, op, arg, entry = (np.concatenate(c) for c in zip(*self._rows, strict=True))
        order = np.argsort(key, kind="stable")
        return key[order], op[order], arg[order], entry[order]


def driver_keys(h: History, extents: Extents, causes: Causes) -> np.ndarray:
    """Return for each segment entry the key of the op that called the driver; -1 = none.

    A segment comes and goes for the next request served, or in an inferred empty_cache.
    """
    served = np.flatnonzero((h.action == Action.ALLOC) | (h.action == Action.OOM))
    following = np.searchsorted(served, extents.entries)
    key = np.full(len(extents.entries), -1, np.int64)
    has = following < len(served)
    key[has] = served[following[has]] * 8 + ITSELF
    for call in causes.empty_caches:
        key[np.searchsorted(extents.entries, call.entries)] = call.first * 8 + EMPTY
    return key


def add_recorded(ops: Ops, h: History, followed: Followed, causes: Causes) -> None:
    """Add the requests, the failures and the frees that have entries of their own.

    A TRY's argument counts the failures; it becomes a request number when all are known.
    """
    at = followed.alloc_entry
    ops.add(at * 8 + ITSELF, Op.MALLOC, followed.n_start + np.arange(len(at)), at)
    failed = np.flatnonzero(h.action == Action.OOM)
    ops.add(failed * 8 + ITSELF, Op.TRY, np.arange(len(failed)), failed)
    matched = followed.entry_alloc >= 0
    requested = (h.action == Action.FREE_REQUESTED) & matched
    immediate = requested & (followed.none_completes | np.append(followed.at_once[1:], False))
    completed = (h.action == Action.FREE_COMPLETED) & matched & ~followed.at_once
    unrequested = completed & (followed.fate == UNREQUESTED)
    for mask, op in (
        (immediate | unrequested, Op.FREE),
        (requested & ~immediate, Op.FREE_LATER),
        (completed & ~unrequested, Op.COMPLETE),
    ):
        at = np.flatnonzero(mask)
        key = at * 8 + ITSELF
        if op == Op.COMPLETE and causes.late:
            # A synchronize inside the malloc completes them: they must be pending still when it
            # begins. The op itself matters only to a replay in which no synchronize comes.
            late = [causes.late.get(i, -1) for i in at.tolist()]
            key = np.where(np.array(late) < 0, key, np.array(late, np.int64) * 8 + AFTER)
        ops.add(key, op, followed.entry_alloc[at], at)


def add_inferred(
    ops: Ops,
    h: History,
    followed: Followed,
    extents: Extents,
    causes: Causes,
    keys: np.ndarray,
    notes: Counter[str],
) -> None:
    """Add what the program did that has no entry.

    A block that vanished is freed as late as possible: just before the op whose entry shows it
    gone. Nothing recorded before that contradicts it being live, as far as addresses go.

    Args:
        ops: added to.
        h, followed, extents, causes: the history, as far as it is understood.
        keys: of `driver_keys`.
        notes: "lost_free" and "lost_completion" are counted.
    """
    for call in causes.empty_caches:
        key = call.first * 8
        for pool in call.releases:
            ops.add(key + RELEASE, Op.RELEASE_POOL, pool)
        captures = not call.syncs and call.pool == 0
        if captures:
            ops.add(key + CAPTURE, Op.CAPTURE, 1)
        ops.add(key + EMPTY, Op.EMPTY_CACHE, call.pool)
        if captures:
            ops.add(key + RESUME, Op.CAPTURE, 0)
    for entry, pools in causes.releases.items():
        for pool in pools:
            ops.add(entry * 8 + RELEASE, Op.RELEASE_POOL, pool)
    for entry in causes.in_capture:
        ops.add(entry * 8 + CAPTURE, Op.CAPTURE, 1)
        ops.add(entry * 8 + END, Op.CAPTURE, 0)
    for alloc, entry, state in followed.lost.tolist():
        at = entry
        if h.action[entry] != Action.ALLOC:
            key = int(keys[np.searchsorted(extents.entries, entry)])
            at = key // 8 if key >= 0 else entry
        ops.add(at * 8 + LOST, Op.FREE if state == LIVE else Op.COMPLETE, alloc)
        notes["lost_free" if state == LIVE else "lost_completion"] += 1

"""The packing of a profile: all that comes before an iteration, and the iteration, which recurs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .iteration import NEAR
from .packing import MOST_FIRST_FIT, pack
from .packing_buffers import Buffers
from .packing_firstfit import first_fit

ROW_WORDS = 4
OFFSET, END, BORN, DIES = range(4)  # bytes [offset, end) are in use during requests [born, dies)
EVER = 1 << 62  # when what stays dies


class Profile(NamedTuple):
    """Where everything that was profiled has its place.

    Attributes:
        rows: shape (r, ROW_WORDS) int64: first the pieces of which an iteration uses all at some
            time, then the places that are in use in every iteration, both in the order of their
            offsets; then the other places.
        row_of: shape (p,) int64; the row of each request profiled, -1 = it has none.
        n_pieces: how many rows are pieces.
        n_recurring: how many are pieces or in use in every iteration.
    """

    rows: np.ndarray
    row_of: np.ndarray
    n_pieces: int
    n_recurring: int


def pack_profile(
    died: np.ndarray, size: np.ndarray, start: int, length: int, rounds: int = 1
) -> Profile:
    """Pack what was profiled.

    What is there when the iteration begins and still when it has ended is taken to stay for ever.
    What a round hands to the next to free has its place for all of the time, whatever comes between
    two rounds; where that takes more memory than is in use at once, from its birth to its death.
    What lives for longer than an iteration is left behind by each of them, and has no place.

    Args:
        died: shape (n,); the request before which each is free again.
        size: shape (n,); bytes.
        start, length: the iteration, in requests; if nothing comes after it, nothing outlives it.
        rounds: how many times it goes through the same.

    Raises:
        KeyboardInterrupt: the user ended the search.
    """
    end = start + length
    born, dies, size = np.arange(end), died[:end], size[:end]
    outlives = (dies > end) & (end < len(died))
    crosses = outlives & (born >= start)
    each = np.flatnonzero(~(crosses & (dies - born > length)))
    born, dies, size = born[each], dies[each], size[each]
    crosses, stays = crosses[each], outlives[each] & (born < start)
    step = length // rounds
    hands_over = (born >= start) & (dies > born - (born - start) % step + step) & (end < len(died))
    first, last = np.where(hands_over, 0, born), np.where(hands_over, end, np.minimum(dies, end))
    plan = pack(Buffers(first, last, size), seconds=0.0)
    if plan.interrupted:
        raise KeyboardInterrupt
    offset = plan.offsets
    change = np.bincount(born, size, end + 1) - np.bincount(np.minimum(dies, end), size, end + 1)
    is_low = np.cumsum(change).max() >= NEAR * plan.height
    if hands_over.any() and not is_low and len(each) <= MOST_FIRST_FIT:
        around = _pack_around(born, dies, size, np.flatnonzero(crosses), start, end)
        if (around + size).max() < NEAR * plan.height:
            offset, first, last = around, born, dies
    rows = np.stack([offset, offset + size, first, np.where(stays, EVER, last)], axis=1)
    recurs = stays | (each >= start)
    order = np.lexsort((first, offset, ~recurs))
    pieces = _pieces(rows[order[: recurs.sum()]])
    row_of = np.full(end, -1, np.int64)
    row_of[each[order]] = len(pieces) + np.arange(len(each))
    rows = np.concatenate([pieces, rows[order]]).astype(np.int64)
    return Profile(rows, row_of, len(pieces), len(pieces) + int(recurs.sum()))


def _pieces(rows: np.ndarray) -> np.ndarray:
    """Rows that touch or overlap, in the order of their offsets, as one that is always in use."""
    top = np.maximum.accumulate(rows[:, END])
    begins = np.flatnonzero(np.concatenate([[True], rows[1:, OFFSET] > top[:-1]])[: len(rows)])
    ends = top[np.concatenate([begins[1:] - 1, [-1]])[: len(begins)]]
    always = np.zeros(len(begins), np.int64)
    return np.stack([rows[begins, OFFSET], ends, always, always + EVER], axis=1)


def _pack_around(
    born: np.ndarray, dies: np.ndarray, size: np.ndarray, crosses: np.ndarray, start: int, end: int
) -> np.ndarray:
    """Lay what crosses from one iteration to the next at the bottom, and the rest around it.

    All that crosses is there at once, when an iteration begins. It is in the way from its birth to
    the end of the iteration, and in the next one to its death; and so is what the first iteration
    finds there and frees at the same moment, which has the same place.

    Args:
        born, dies: shape (n,); requests.
        size: shape (n,); bytes.
        crosses: shape (c,); which cross.
        start, end: the iteration.

    Returns:
        shape (n,); offsets in bytes.
    """
    crosses = crosses[np.argsort(born[crosses] - dies[crosses], kind="stable")]  # shortest on top
    offset = np.zeros(len(size), np.int64)
    offset[crosses] = np.cumsum(size[crosses]) - size[crosses]
    goes = dies[crosses] - (end - start)  # when it goes, in the iteration after its own
    before: dict[tuple[int, int], list[int]] = {}
    for k in np.flatnonzero((born < start) & (dies > start) & (dies <= end)).tolist():
        before.setdefault((int(dies[k]), int(size[k])), []).append(k)
    since = np.full(len(crosses), start)
    is_placed = np.zeros(len(size), bool)
    is_placed[crosses] = True
    for c, (when, k) in enumerate(zip(goes.tolist(), crosses.tolist(), strict=True)):
        if found := before.get((when, int(size[k]))):
            twin = found.pop()
            since[c] = born[twin]
            offset[twin] = offset[k]
            is_placed[twin] = True
    rest = np.flatnonzero(~is_placed)
    # As buffers: what crosses, once for each iteration it is there in; then everything else.
    lower = np.concatenate([born[crosses], since, born[rest]])
    upper = np.concatenate([np.full(len(crosses), end), goes, np.minimum(dies[rest], end)])
    sizes = np.concatenate([size[crosses], size[crosses], size[rest]])
    there = np.repeat(np.arange(len(crosses)), 2)
    there[1::2] += len(crosses)
    place = np.concatenate([offset[crosses], offset[crosses], offset[rest]])
    best = EVER
    for wish in ((upper - lower) * sizes.astype(float), sizes):
        order = 2 * len(crosses) + np.argsort(-wish[2 * len(crosses) :], kind="stable")
        height = int(first_fit(lower, upper, sizes, there, order, place))
        if height < best:
            best, offset[rest] = height, place[2 * len(crosses) :]
    return offset

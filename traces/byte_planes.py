"""How the columns of a stored recording become bytes that compress well, and back.

A column of n integers becomes k planes of n bytes: plane j holds byte j, lowest first, of every
value, and k is as small as the largest value allows. Signed values are folded to unsigned ones
first (0, -1, 1, -2, ... become 0, 1, 2, 3, ...). All arithmetic is modulo 2**64, so that every
value comes back, whatever a strange recording holds.
"""

from __future__ import annotations

import numpy as np

from .distinct import PIECE, distinct
from .errors import TraceError
from .event import Action


def to_planes(values: np.ndarray) -> np.ndarray:
    """Split integers into byte planes.

    Args:
        values: shape (n,), any integer type.

    Returns:
        shape (k, n), uint8, 1 <= k <= 8.
    """
    folded = _fold(values)
    k = max(1, (int(folded.max()).bit_length() + 7) // 8) if len(folded) else 1
    return np.ascontiguousarray(folded.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :k].T)


def from_planes(planes: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    """Join byte planes into integers; the inverse of `to_planes`.

    Raises:
        TraceError: a value does not fit the type.
    """
    k, n = planes.shape
    if k == 1 and dtype.kind == "u":
        return planes[0].astype(dtype)
    wide = np.zeros((n, 8), np.uint8)
    for j in range(k):
        wide[:, j] = planes[j]
    values = _unfold(wide.view("<u8").reshape(n).astype(np.uint64, copy=False), dtype)
    if dtype.itemsize < 8 and n:
        limits = np.iinfo(dtype)
        if values.max() > limits.max or (dtype.kind == "i" and values.min() < limits.min):
            raise TraceError(f"{where}: found a value that does not fit {dtype.name}")
    return values.astype(dtype, copy=False)


def differences(values: np.ndarray, first: int) -> np.ndarray:
    """Return each value minus the one before it, the first minus `first`; int64, wrapping."""
    wide = values.astype(np.int64, copy=False)
    out = np.empty_like(wide)
    if len(wide):
        with np.errstate(over="ignore"):
            out[0] = wide[0] - np.int64(first)
            np.subtract(wide[1:], wide[:-1], out=out[1:])
    return out


def running_sum(steps: np.ndarray, first: int) -> np.ndarray:
    """Return the values whose `differences` were given."""
    if not len(steps):
        return steps
    out = np.cumsum(steps.view(np.uint64), dtype=np.uint64)
    out += np.uint64(first % (1 << 64))
    return out.view(np.int64)


def references(action: np.ndarray, addr: np.ndarray) -> np.ndarray:
    """For every free, count how many entries ago its allocation was.

    Args:
        action, addr: shape (n,), the columns of the entries.

    Returns:
        shape (number of FREE_REQUESTED and FREE_COMPLETED entries,), int64: distance to the
        latest ALLOC entry with the same address, 0 if there is none before it.
    """
    table, place = distinct(addr)
    latest = np.full(len(table), -1, np.int64)  # entry of each address's latest allocation so far
    parts = [np.zeros(0, np.int64)]
    for at in range(0, len(addr), PIECE):
        act, own = action[at : at + PIECE], place[at : at + PIECE]
        is_free, allocs = frees(act), np.flatnonzero(act == Action.ALLOC)
        source = _latest_within(act == Action.ALLOC, own)
        source = np.where(source >= 0, source + at, latest[own])
        here = np.arange(at, at + len(act))
        parts.append(np.where(source >= 0, here - source, 0)[is_free])
        latest[own[allocs]] = allocs + at  # of equal places the last one stays
    return np.concatenate(parts)


def _latest_within(is_alloc: np.ndarray, place: np.ndarray) -> np.ndarray:
    """For every entry of a piece the latest allocation at its place up to there; -1 = none."""
    order = np.argsort(place, kind="stable")
    by_place = place[order]
    rank = np.arange(len(place))
    starts = np.ones(len(place), bool)
    starts[1:] = by_place[1:] != by_place[:-1]
    group = np.maximum.accumulate(np.where(starts, rank, 0))
    allocs = np.maximum.accumulate(np.where(is_alloc[order], rank, -1))
    out = np.full(len(place), -1, np.int64)
    found = allocs >= group
    out[order[found]] = order[allocs[found]]
    return out


def frees(action: np.ndarray) -> np.ndarray:
    """Return which entries are frees, requested or completed."""
    return (action == Action.FREE_REQUESTED) | (action == Action.FREE_COMPLETED)


def _fold(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "u":
        return values
    wide = values.astype(np.int64, copy=False)
    return ((wide << 1) ^ (wide >> 63)).view(np.uint64)


def _unfold(folded: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "u":
        return folded
    return (folded >> np.uint64(1)).view(np.int64) ^ -(folded & np.uint64(1)).view(np.int64)

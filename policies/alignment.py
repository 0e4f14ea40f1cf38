"""Alignment: which of the requests that were profiled each request of a program is."""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline, kernel
from .iteration import PATTERN

DEVIATES, OUTSIDE = -1, -2  # no request that was profiled: between those of an iteration, or not


def align(klass: np.ndarray, start: int, length: int, look: int) -> tuple[np.ndarray, np.ndarray]:
    """Match the requests of a program with those profiled: its own, to the end of an iteration.

    Those are themselves. From there on requests are matched with the iteration's in order, a few in
    a row at least, since one alone is like many. What lies between two such rows of an iteration
    deviates from it. What lies before the requests with which it begins, as many of them as come
    nowhere else in it, is outside of all iterations, as a validation is; if all of it came before
    the iteration too, in a row, it is matched with that.

    Args:
        klass: shape (n,); what each request asks for, equal for equal requests.
        start, length: the iteration, in requests.
        look: how many of the iteration's requests may be passed over, and how many of the program's
            before only the beginning of the iteration is waited for.

    Returns:
        shape (n,), which of those profiled each request is, DEVIATES or OUTSIDE; and shape (n,),
        how often the iteration was gone through before.
    """
    found, turns = np.empty(len(klass), np.int64), np.empty(len(klass), np.int64)
    _align(klass, start, length, look, _first_seen(klass, start), found, turns)
    return found, turns


def _first_seen(klass: np.ndarray, end: int) -> np.ndarray:
    """Where before request `end` a program first went on as it does at each request.

    Args:
        klass: shape (n,); what each request asks for.
        end: where what is looked at ends.

    Returns:
        shape (n,); the request from which on PATTERN are the same; -1 = there is none.
    """
    seen = np.full(len(klass), -1, np.int64)
    if end < PATTERN:
        return seen
    number, many = klass, 1  # equal for equal rows of so many requests
    while many < PATTERN:
        both = number[:-many] * (int(number.max()) + 1) + number[many:]
        number = np.unique(both, return_inverse=True)[1]
        many *= 2
    rows, first = np.unique(number[: end - PATTERN + 1], return_index=True)
    at = np.minimum(np.searchsorted(rows, number), len(rows) - 1)
    seen[: len(number)] = np.where(rows[at] == number, first[at], -1)
    return seen


@kernel
def _opening(wanted, start, length):
    """How many of an iteration's first requests come nowhere else in it, in the same order.

    Args:
        wanted: shape (n,); what each request asks for.
        start, length: the iteration.

    Source: Gusfield, Algorithms on strings, trees and sequences, 1997, 1.4: the Z algorithm, on an
        iteration that is followed by itself.
    """
    alike = np.zeros(length, np.int64)  # requests from there on that are as the first ones
    longest = np.int64(0)
    left = right = np.int64(0)  # the stretch of such requests that reaches furthest
    for i in range(1, length):
        k = min(alike[i - left], right - i) if i < right else np.int64(0)
        while k < length and wanted[start + k] == wanted[start + (i + k) % length]:
            k += 1
        alike[i] = k
        if i + k > right:
            left, right = i, i + k
        longest = max(longest, k)
    return min(longest + 1, length)


@inline
def _goes_on(wanted, i, k, many, start, end):
    """`many` requests from i on, or fewer at the program's end, are the iteration's from k on."""
    for _ in range(many):
        if i == len(wanted):
            return True
        if wanted[i] != wanted[k]:
            return False
        i += 1
        k = k + 1 if k + 1 < end else start
    return True


@inline
def _leave(wanted, first, last, seen, start, turn, found, turns):
    """Requests first..last-1 are outside of all iterations: all of them were profiled, or none."""
    p = seen[first] if first < last else np.int64(-1)
    is_seen = p >= 0 and p + last - first <= start
    for i in range(first, last):
        is_seen = is_seen and wanted[i] == wanted[p + i - first]
    for i in range(first, last):
        found[i] = p + i - first if is_seen else OUTSIDE
        turns[i] = turn


@kernel
def _align(wanted, start, length, look, seen, found, turns):
    """As `align`; `seen` is of `_first_seen`, the last two are output."""
    end = start + length
    many = np.int64(min(PATTERN, length))
    opening = max(many, _opening(wanted, start, length))
    q = start  # the iteration's next request
    turn = np.int64(1)
    missed = np.int64(0)  # requests since the last that is of the iteration
    for i in range(min(end, len(wanted))):
        found[i] = i
        turns[i] = 0
    for i in range(end, len(wanted)):
        if missed != 0 or wanted[i] != wanted[q]:
            k = np.int64(-1)
            if _goes_on(wanted, i, start, opening, start, end):
                k = start
                turn += q != start
                _leave(wanted, i - missed, i, seen, start, turn, found, turns)
            elif missed < look:
                for at in range(q, min(q + look, end)):
                    if _goes_on(wanted, i, at, many, start, end):
                        k = np.int64(at)
                        break
            if k < 0:
                missed += 1
                found[i] = DEVIATES
                turns[i] = turn
                continue
            q = k
            missed = np.int64(0)
        found[i] = q
        turns[i] = turn
        q += 1
        if q == end:
            q = start
            turn += 1
    turn += missed != 0 and q != start
    _leave(wanted, len(wanted) - missed, len(wanted), seen, start, turn, found, turns)

"""Iteration: the requests of a program that come again and again, found without being told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

PATTERN = 16  # requests in a row that must be alike before two places are compared further
PLACES = 8  # parts of a program at whose borders a repetition is looked for
MOST_TRIES = 64  # distances that are compared further, from each of these places
MOST = 0.5  # share of the program's requests that repeat, and of its memory that is needed for them
NEAR = 0.99  # share of the most memory, to be taken for it


def find_iteration(klass: np.ndarray, live: np.ndarray) -> tuple[int, int] | None:
    """Find an iteration: requests that are followed by the same requests, in the same order.

    A layer repeats within a step, and a step within the program. So a stretch is an iteration if it
    needs most of what comes and goes in the program; and of several periods that is taken in whose
    repetitions, the first time included, most requests lie, of equals the shortest.

    Frees do not count: the order of a step's can depend on more than the step.

    Args:
        klass: shape (n,); what each request asks for, equal for equal requests.
        live: shape (n,); bytes in use once each is served.

    Returns:
        (first request, number of requests); None if nothing repeats for most of the program.
    """
    least = np.minimum.accumulate(live[::-1])[::-1]  # from each request on
    most = np.maximum.accumulate(live)  # up to each request
    best = (0, 0)
    start = 0
    for period in _periods(klass):
        runs = _runs(klass, period)
        first = _soonest(runs, period, most)
        once = live[first : first + period]
        if once.max() - once.min() < MOST * (most[-1] - least[first]):
            continue
        covered = reached = 0
        for begin, end in runs:
            covered += end - max(begin, reached)
            reached = end
        if (covered, -period) > best:
            best, start = (covered, -period), first
    return (start, -best[1]) if best[0] > MOST * len(klass) else None


def _soonest(runs: list[tuple[int, int]], period: int, most: np.ndarray) -> int:
    """The first iteration by whose end is needed nearly as much as by the end of any.

    A program may repeat first one thing and then another of the same length, as pictures grow, and
    do something else in between: what is known up to there must do for the rest.

    Args:
        runs: where a period is gone through twice or more, one at the least.
        period: requests.
        most: shape (n,); most bytes in use up to each request.
    """
    last = runs[-1][1] - 2 * period
    enough = int(np.searchsorted(most, NEAR * most[last + period - 1])) + 1 - period
    return next(max(first, enough) for first, end in runs if end - 2 * period >= enough)


def _periods(klass: np.ndarray) -> Iterator[int]:
    """Distances at which a program repeats itself, each once.

    From a place in the program to where it goes on in the same way, and from its rarest request to
    the same: what is rare comes once in an iteration, however often its layers repeat.
    """
    n = len(klass)
    often = np.bincount(klass)
    known: set[int] = set()
    for part in range(1, PLACES):
        border, after = n * part // PLACES, n * (part + 1) // PLACES
        if after == border:
            continue
        rarest = border + int(often[klass[border:after]].argmin())
        for at in (border, rarest):
            if n - at < 2 * PATTERN:
                continue
            periods = np.arange(PATTERN, (n - at) // 2 + 1)
            for k in range(PATTERN):
                periods = periods[klass[at + periods + k] == klass[at + k]]
            for period in periods[:MOST_TRIES].tolist():
                if period not in known and np.array_equal(
                    klass[at : at + period], klass[at + period : at + 2 * period]
                ):
                    known.add(period)
                    yield period


def _runs(klass: np.ndarray, period: int) -> list[tuple[int, int]]:
    """Where a period is gone through twice or more: (first request, end) of each such stretch."""
    same = np.concatenate([[False], klass[period:] == klass[:-period], [False]])
    change = np.flatnonzero(same[1:] != same[:-1])
    return [
        (first, last + period)
        for first, last in zip(change[::2].tolist(), change[1::2].tolist(), strict=True)
        if last - first >= period
    ]

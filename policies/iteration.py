"""Iteration: the stretch of a program that repeats, found without being told."""

from __future__ import annotations

import numpy as np

PATTERN = 32  # events that must be alike before two places are compared further
PLACES = 8  # parts of a program at whose borders a repetition is looked for
MOST_TRIES = 64  # repetitions of a pattern that are compared further
MOST = 0.5  # share of the events that must be followed by themselves, one period later


def find_iteration(codes: np.ndarray) -> tuple[int, int] | None:
    """Find a stretch of events that is followed by its own repetition.

    A layer repeats within a step, and a step within the program: of the stretches found the one
    whose length most events of the program repeat after is taken, of equals the shortest.

    Args:
        codes: shape (n,); what each event is, equal for equal events.

    Returns:
        (first event, number of events); None if nothing repeats for most of the program.
    """
    n = len(codes)
    best: tuple[float, int, int] | None = None
    known: set[int] = set()
    for eighth in range(1, PLACES):
        at = n * eighth // PLACES
        pattern = codes[at : at + PATTERN]
        if len(pattern) < PATTERN:
            continue
        again = np.flatnonzero(codes[at + 1 :] == pattern[0]) + 1
        tries = 0
        for period in again[again >= PATTERN].tolist():
            if at + 2 * period > n or tries == MOST_TRIES:
                break
            tries += 1
            if period in known or not np.array_equal(
                codes[at : at + period], codes[at + period : at + 2 * period]
            ):
                continue
            known.add(period)
            share = float((codes[period:] == codes[:-period]).mean())
            if share >= MOST and (best is None or (share, -period) > (best[0], -best[2])):
                best = (share, at, period)
    return None if best is None else best[1:]

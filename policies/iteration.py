"""Iteration: the stretch of a program that repeats, found without being told."""

from __future__ import annotations

import numpy as np

PATTERN = 32  # events that must be alike before two places are compared further
PLACES = 8  # places of a program where a repetition is looked for
MOST_TRIES = 64  # repetitions of a pattern that are compared further


def find_iteration(codes: np.ndarray) -> tuple[int, int] | None:
    """Find a stretch of events that is followed by its own repetition.

    Args:
        codes: shape (n,); what each event is, equal for equal events.

    Returns:
        (first event, number of events) of the earliest such stretch found from the places tried,
        the middle of the program first; None if nothing repeats.
    """
    n = len(codes)
    for eighth in (4, 3, 5, 2, 6, 1, 7):
        at = n * eighth // PLACES
        pattern = codes[at : at + PATTERN]
        if len(pattern) < PATTERN:
            continue
        again = np.flatnonzero(codes[at + 1 :] == pattern[0])[:MOST_TRIES] + 1
        for period in again.tolist():
            if at + 2 * period > n:
                break
            if period < PATTERN or not np.array_equal(
                pattern, codes[at + period : at + period + PATTERN]
            ):
                continue
            if np.array_equal(codes[at : at + period], codes[at + period : at + 2 * period]):
                return at, period
    return None

"""Where a program repeats itself: the longest stretch of its events that is periodic."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

WINDOW = 32  # events that must agree before a distance is taken for a period
LOOKS = (0.97, 0.75, 0.5)  # where in the program to look for something seen before
OCCURRENCES = 2000  # of an event, looked at from each of these places
DISTANCES = 12  # tried from each of these places, the nearest first
CHUNK = 1 << 16  # events compared at a time
LEAST_REPEATS = 4


class Period(NamedTuple):
    """Events [start, start + length * repeats) are `repeats` times the same `length` events."""

    start: int
    length: int
    repeats: int


def find_period(
    events: np.ndarray, give_back: Callable[[int, int], None] = lambda first, last: None
) -> Period | None:
    """Return the periodic stretch that covers most events, or None if nothing repeats enough.

    A stretch is verified event by event; only where to look is a guess, so a stretch can be
    overlooked but never wrong. Of several lengths for about the same stretch the least is taken.

    Args:
        events: shape (n,) int64.
        give_back: told of events [first, last) that need not be in memory now.
    """
    n = len(events)
    best: Period | None = None
    for share in LOOKS:
        end = int(n * share)
        if end < 2 * WINDOW:
            continue
        if best is not None and best.start <= end < best.start + best.length * best.repeats:
            continue  # a look into what is known to repeat shows nothing new
        for length in _distances(events, end, give_back):
            found = _stretch(events, end, length, give_back)
            give_back(0, n)  # what was looked at last, wherever it was
            if found is not None and (
                best is None or found.length * found.repeats > 1.1 * best.length * best.repeats
            ):
                best = found
    return best


def _distances(events: np.ndarray, end: int, give_back: Callable[[int, int], None]) -> list[int]:
    """How long before `end` the same WINDOW events ended, the latest occurrences first."""
    window = events[end - WINDOW : end]
    values, counts = np.unique(window, return_counts=True)
    sample = events[max(0, end - CHUNK * 16) : end]
    rarest = min(values[counts == counts.min()].tolist(), key=lambda v: int((sample == v).sum()))
    inside = int(np.flatnonzero(window == rarest)[0])
    out: list[int] = []
    seen = 0
    # From the latest occurrence back; a period longer than this does not repeat often enough.
    high, lowest = end - WINDOW + inside, max(0, end - WINDOW - len(events) // LEAST_REPEATS)
    while high > lowest:
        low = max(lowest, high - CHUNK)
        begins = low + np.flatnonzero(events[low:high] == rarest)[::-1] - inside
        for begin in begins.tolist():
            if begin >= 0 and np.array_equal(events[begin : begin + WINDOW], window):
                out.append(end - WINDOW - begin)
            seen += 1
            if len(out) == DISTANCES or seen == OCCURRENCES:
                return out
        give_back(low, end)  # whatever the system mapped around what was read, too
        high = low
    return out


def _stretch(
    events: np.ndarray, at: int, length: int, give_back: Callable[[int, int], None]
) -> Period | None:
    """Return the longest stretch around event `at` that repeats every `length` events."""
    same_from, same_to = at - length, at - length  # events[i] == events[i + length] inside
    while same_from > 0:
        low = max(0, same_from - CHUNK)
        same = events[low:same_from] == events[low + length : same_from + length]
        wrong = np.flatnonzero(~same)
        if len(wrong):
            same_from = low + int(wrong[-1]) + 1
            break
        give_back(low, same_from)
        give_back(low + length, same_from + length)
        same_from = low
    last = len(events) - length
    while same_to < last:
        high = min(last, same_to + CHUNK)
        same = events[same_to:high] == events[same_to + length : high + length]
        wrong = np.flatnonzero(~same)
        if len(wrong):
            same_to += int(wrong[0])
            break
        give_back(same_to, high)
        give_back(same_to + length, high + length)
        same_to = high
    count = (same_to + length - same_from) // length
    return Period(same_from, length, count) if count >= LEAST_REPEATS else None

"""Worth: how much memory a line may reserve and still matter to anybody who compares it."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from ..sim.state import HUGE
from .outcome import Outcome
from .recommend import WORTH, rank

FIRST = 8  # lines that the search starts from, the best ranked


class Worth:
    """The worst ratio of reserved to requested bytes at which a line can still be chosen.

    A line is chosen if it is among the FIRST by rank, or reserves at most WORTH more than the best.
    Rank goes by failures, then retries, then this ratio: once FIRST lines are known that neither
    fail nor retry, a line whose ratio exceeds the greatest of theirs, and the best by more than
    WORTH, comes after all of them, whatever else it does. More lines only lower the limit.
    """

    def __init__(self) -> None:
        self._ratios: list[float] = []  # of the best such lines, ascending

    def note(self, outcomes: Sequence[Outcome]) -> None:
        """Take notice of a line, one outcome per subject."""
        r = rank(outcomes)
        if not r.failures and not r.retries:
            bisect.insort(self._ratios, r.worst)
            del self._ratios[FIRST:]

    @property
    def limit(self) -> float:
        """The greatest ratio that matters; infinite until enough is known."""
        if len(self._ratios) < FIRST:
            return math.inf
        return max(self._ratios[-1], self._ratios[0] * (1 + WORTH))

    def bound(self, requested: int) -> int:
        """Most bytes a line may reserve for a program that requests so many at once."""
        limit = self.limit
        if math.isinf(limit):
            return HUGE
        requested = max(1, requested)
        bytes_ = int(limit * requested) + 1
        while bytes_ / requested > limit:  # as `rank` divides
            bytes_ -= 1
        return bytes_

"""Which of the lines measured to recommend: the simplest that is as good as the best."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..sim.settings import Settings
from .outcome import Outcome

WORTH = 0.01  # a line is recommended over a simpler one only if it saves more than this


@dataclass(frozen=True)
class Rank:
    """How good a line is for all subjects together; lower is better, compared in this order.

    Attributes:
        failures: subjects that run out of memory on the device asked about.
        retries: 1 if any subject has to give all cached memory back there to go on, else 0; 0 where
            the smallest device counts, on which nearly everything has to.
        worst: greatest ratio of what is needed, the peak reserved bytes or the smallest device, to
            peak requested bytes over the subjects.
        mean: its mean.
        calls: driver calls, all subjects.
    """

    failures: int
    retries: int
    worst: float
    mean: float
    calls: int

    @property
    def key(self) -> tuple[int, int, float, float, int]:
        return (self.failures, self.retries, self.worst, self.mean, self.calls)


def rank(outcomes: Sequence[Outcome]) -> Rank:
    """Rank a line by its outcomes, one per subject; the worst case counts first."""
    ratios = [o.needed_bytes / max(1, o.peak_requested_bytes) for o in outcomes]
    return Rank(
        failures=sum(o.ooms > 0 for o in outcomes),
        retries=int(any(o.alloc_retries > 0 and o.smallest_bytes is None for o in outcomes)),
        worst=max(ratios, default=0.0),
        mean=sum(ratios) / max(1, len(ratios)),
        calls=sum(o.device_allocs + o.device_frees for o in outcomes),
    )


@dataclass(frozen=True)
class Line:
    """A line and how it ranks.

    Attributes:
        conf: the settings line.
        settings: what it means.
        rank: how good it is.
    """

    conf: str
    settings: Settings
    rank: Rank

    @property
    def complexity(self) -> tuple[int, int]:
        """Number of keys, then length: what a user has to understand and defend."""
        return (re.sub(r"\[.*?\]", "", self.conf).count(":"), len(self.conf))


def best_of(lines: Sequence[Line]) -> Line:
    """The line that ranks first, whatever it looks like."""
    return min(lines, key=lambda x: (x.rank.key, x.complexity))


def recommend(lines: Sequence[Line]) -> Line:
    """The simplest line that is as good as the best.

    As good: it fails and retries on no more subjects, and needs at most WORTH more in the worst
    case. Among equally simple ones the better ranked wins.
    """
    best = best_of(lines)
    good = [
        x
        for x in lines
        if x.rank.failures <= best.rank.failures
        and x.rank.retries <= best.rank.retries
        and x.rank.worst <= best.rank.worst * (1 + WORTH)
    ]
    fewest = min(x.complexity[0] for x in good)
    return min((x for x in good if x.complexity[0] == fewest), key=lambda x: (x.rank.key, x.conf))

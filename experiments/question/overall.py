"""Policies over all recordings of an experiment: what they save, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .runner import Measured

SAME = 0.01  # share by which peaks must differ to count as better or worse
LEAST_PAIRS = 6  # fewer cannot reach p < 0.05, whatever they say
RESAMPLES = 9_999


@dataclass(frozen=True)
class Overall:
    """One policy against the baseline over all recordings; simulated.

    Attributes:
        policy: what tables call it.
        role: as of its rows.
        fits, of: recordings on which it ran, and all there are.
        pairs: recordings on which both it and the baseline ran.
        saved: share of the baseline's peak reserved bytes, by the geometric mean of the pairs.
        low, high: 95 % interval of that by resampling the recordings; None with fewer than
            LEAST_PAIRS, of which resampling makes intervals that are too narrow.
        worst: the least that it saves on any pair.
        better, same, worse: pairs in which it reserves at least SAME less, about as much, more.
        p: two-sided Wilcoxon signed-rank test of the logarithms of the ratios, not corrected for
            the number of policies; None with fewer than LEAST_PAIRS that differ.
        smallest_saved: the same share of the smallest GPU; None = not asked.
        above_bound: geometric mean of peaks over what was live, less 1, where it ran.
    """

    policy: str
    role: str
    fits: int
    of: int
    pairs: int
    saved: float | None
    low: float | None
    high: float | None
    worst: float | None
    better: int
    same: int
    worse: int
    p: float | None
    smallest_saved: float | None
    above_bound: float | None


def overall(tables: Sequence[Measured], seed: int) -> list[Overall]:
    """Compare every policy with the baseline; the best on average first, those that failed last.

    Args:
        tables: of one simulated device.
        seed: of the resampling.
    """
    rows = [{r.policy: r for r in t.rows} for t in tables]
    names = [r.policy for r in tables[0].rows if r.role not in ("bound", "offline")]
    base = next(r.policy for r in tables[0].rows if r.role == "baseline")
    out = []
    for name in names:
        pairs = [(of[name], of[base]) for of in rows]
        peaks = [(a.peak_reserved_bytes, b.peak_reserved_bytes) for a, b in pairs]
        least = [(a.min_capacity_bytes, b.min_capacity_bytes) for a, b in pairs]
        above = [a.above_bound for a, _ in pairs if a.above_bound is not None]
        ratios = _ratios(peaks)
        low, high = _interval(np.log(ratios), seed)
        out.append(
            Overall(
                policy=name,
                role=pairs[0][0].role,
                fits=sum(not a.ooms for a, _ in pairs),
                of=len(pairs),
                pairs=len(ratios),
                saved=_saved(_mean(ratios)),
                low=_saved(high),
                high=_saved(low),
                worst=_saved(max(ratios, default=None)),
                better=sum(r <= 1 - SAME for r in ratios),
                same=sum(1 - SAME < r < 1 + SAME for r in ratios),
                worse=sum(r >= 1 + SAME for r in ratios),
                p=_wilcoxon(ratios),
                smallest_saved=_saved(_mean(_ratios(least))),
                above_bound=_above(_mean([1 + a for a in above])),
            )
        )
    return sorted(out, key=lambda o: (o.of - o.fits, o.saved is None, -(o.saved or 0.0)))


def _ratios(pairs: Sequence[tuple[int | None, int | None]]) -> list[float]:
    return [a / b for a, b in pairs if a is not None and b]


def _mean(ratios: Sequence[float]) -> float | None:
    return math.exp(float(np.mean(np.log(ratios)))) if ratios else None


def _saved(ratio: float | None) -> float | None:
    return None if ratio is None else 1 - ratio


def _above(ratio: float | None) -> float | None:
    return None if ratio is None else ratio - 1


def _interval(logs: np.ndarray, seed: int) -> tuple[float | None, float | None]:
    from scipy.stats import bootstrap

    if len(logs) < LEAST_PAIRS:
        return None, None
    if np.ptp(logs) == 0:
        return float(np.exp(logs[0])), float(np.exp(logs[0]))
    found = bootstrap(
        (logs,), np.mean, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(np.exp(found.low)), float(np.exp(found.high))


def _wilcoxon(ratios: Sequence[float]) -> float | None:
    from scipy.stats import wilcoxon

    logs = np.log([r for r in ratios if r != 1.0])
    if len(logs) < LEAST_PAIRS:
        return None
    found: Any = wilcoxon(logs)  # SciPy gives its result no name
    return float(found.pvalue)

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
        programs: programs among the pairs; variants of one count as one in all means below.
        saved: share of the baseline's peak reserved bytes, by the geometric mean.
        low, high: 95 % interval of that by resampling the programs; None with fewer than
            LEAST_PAIRS, of which resampling makes intervals that are too narrow.
        worst: the least that it saves on any pair.
        better, same, worse: pairs in which it reserves at least SAME less, about as much, more.
        p: two-sided Wilcoxon signed-rank test of the programs' ratios, not corrected for the number
            of policies; None with fewer than LEAST_PAIRS that differ.
        smallest_saved: the same share of the smallest GPU; None = not asked.
        above_bound: geometric mean of peaks over what was live, less 1, where it ran.
    """

    policy: str
    role: str
    fits: int
    of: int
    pairs: int
    programs: int
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
    programs = [t.program for t in tables]
    out = []
    for name in names:
        pairs = [(of[name], of[base]) for of in rows]
        peaks = [_ratio(a.peak_reserved_bytes, b.peak_reserved_bytes) for a, b in pairs]
        least = [_ratio(a.min_capacity_bytes, b.min_capacity_bytes) for a, b in pairs]
        above = [None if a.above_bound is None else 1 + a.above_bound for a, _ in pairs]
        ratios = [r for r in peaks if r is not None]
        logs = _logs(peaks, programs)
        low, high = _interval(logs, seed)
        out.append(
            Overall(
                policy=name,
                role=pairs[0][0].role,
                fits=sum(not a.ooms for a, _ in pairs),
                of=len(pairs),
                pairs=len(ratios),
                programs=len(logs),
                saved=_saved(_mean(logs)),
                low=_saved(high),
                high=_saved(low),
                worst=_saved(max(ratios, default=None)),
                better=sum(r <= 1 - SAME for r in ratios),
                same=sum(1 - SAME < r < 1 + SAME for r in ratios),
                worse=sum(r >= 1 + SAME for r in ratios),
                p=_wilcoxon(logs),
                smallest_saved=_saved(_mean(_logs(least, programs))),
                above_bound=_above(_mean(_logs(above, programs))),
            )
        )

    def place(o: Overall) -> tuple[int, bool, float, bool]:
        return o.of - o.fits, o.saved is None, -(o.saved or 0.0), o.role != "baseline"

    return sorted(out, key=place)


def _ratio(a: int | None, b: int | None) -> float | None:
    return a / b if a is not None and b else None


def _logs(ratios: Sequence[float | None], programs: Sequence[str]) -> np.ndarray:
    """Mean logarithm of each program's ratios: variants of one are no independent witnesses."""
    of: dict[str, list[float]] = {}
    for ratio, program in zip(ratios, programs, strict=True):
        if ratio is not None:
            of.setdefault(program, []).append(math.log(ratio))
    return np.array([np.mean(logs) for logs in of.values()])


def _mean(logs: np.ndarray) -> float | None:
    return math.exp(float(np.mean(logs))) if len(logs) else None


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


def _wilcoxon(logs: np.ndarray) -> float | None:
    from scipy.stats import wilcoxon

    logs = logs[logs != 0.0]
    if len(logs) < LEAST_PAIRS:
        return None
    found: Any = wilcoxon(logs)  # SciPy gives its result no name
    return float(found.pvalue)

"""Compute the quantiles that `traces/requests.py` keeps of a log of requests.

python -m tightfit.experiments.fit_requests LOG...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ..traces.requests import LEVELS, Requests, read_requests


def quantiles(tokens: np.ndarray) -> tuple[int, ...]:
    """Return the number of tokens at each of LEVELS, rounded."""
    return tuple(np.rint(np.percentile(tokens, LEVELS)).astype(int).tolist())


def correlation(requests: Requests) -> float:
    """Return the correlation of the logarithms of the two lengths."""
    return float(np.corrcoef(np.log(requests.prompt), np.log(requests.answer))[0, 1])


def main(paths: list[str]) -> None:
    """Print the quantiles of each log, as they stand in the module."""
    for path in paths:
        found = read_requests(Path(path))
        print(f"{Path(path).name}: {len(found.prompt):,} requests, "
              f"correlation {correlation(found):.2f}")  # fmt: skip
        print(f"        prompt={quantiles(found.prompt)},")
        print(f"        answer={quantiles(found.answer)},")


if __name__ == "__main__":
    main(sys.argv[1:])

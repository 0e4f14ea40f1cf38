"""Lifetime guess: how long what is requested will live, by what was requested before it."""

from __future__ import annotations

import numpy as np

from ..traces.jit import kernel


def guess_lifetimes(
    kind: np.ndarray, died: np.ndarray, clock: np.ndarray, first: np.ndarray
) -> np.ndarray:
    """How long the longest-lived request of the same kind lived, of those gone by then.

    Where one that is still there is older than that, nothing is known of the kind: of two requests
    of a size one may be a gradient and one a part of the optimizer.

    Args:
        kind: shape (n,); kind of each request.
        died: shape (n,); the request before which each was free again, n = never.
        clock: shape (n,); time at each request, never falling.
        first: shape (n,); what is supposed while none of the kind has gone, -1 = nothing.

    Returns:
        shape (n,); ticks of the clock, -1 = nothing is known.
    """
    guess = np.empty(len(kind), np.int64)
    _guess(kind, died, np.argsort(died, kind="stable"), clock, first, guess)
    return guess


@kernel
def _guess(kind, died, by_death, clock, first, guess):
    """As `guess_lifetimes`; `by_death`: requests in the order in which they go; `guess`: output."""
    n = len(kind)
    longest = np.full(kind.max() + 1, -1, np.int64)
    after = np.full(n, -1, np.int64)  # the next request of the same kind
    oldest = np.full(len(longest), -1, np.int64)  # of those of a kind that are still there
    newest = np.full(len(longest), -1, np.int64)
    gone = np.int64(0)
    for i in range(n):
        while gone < n and died[by_death[gone]] <= i:
            r = by_death[gone]
            longest[kind[r]] = max(longest[kind[r]], clock[died[r] - 1] - clock[r])
            gone += 1
        k = kind[i]
        longest[k] = max(longest[k], first[i])
        while oldest[k] >= 0 and died[oldest[k]] <= i:
            oldest[k] = after[oldest[k]]
        guess[i] = longest[k]
        if oldest[k] >= 0 and clock[i] - clock[oldest[k]] > longest[k]:
            guess[i] = -1
        if oldest[k] < 0:
            oldest[k] = i
        else:
            after[newest[k]] = i
        newest[k] = i

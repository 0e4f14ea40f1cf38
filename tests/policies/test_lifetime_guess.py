"""A lifetime is guessed from what went before, and from nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from tightfit.policies.lifetime_guess import guess_lifetimes

pytestmark = pytest.mark.interpreted


def test_a_lifetime_is_that_of_its_kind_until_then() -> None:
    """As a walk through the program finds it, and of nothing that comes later."""
    known = unknown = supposed = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        n = 200
        kind = rng.integers(0, 6, n)
        died = np.minimum(np.arange(n) + rng.integers(1, 30, n), n)
        died[rng.random(n) < 0.05] = n
        clock = np.cumsum(rng.integers(0, 3, n))
        first = np.where(kind < 2, 0, -1)
        found = guess_lifetimes(kind, died, clock, first)
        for r in range(n):
            same = [q for q in range(r) if kind[q] == kind[r]]
            gone = [clock[died[q] - 1] - clock[q] for q in same if died[q] <= r]
            there = [clock[r] - clock[q] for q in same if died[q] > r]
            longest = max([*gone, first[r]])
            want = -1 if max(there, default=-1) > longest else longest
            assert found[r] == want, (seed, r)
            known += want > 0
            unknown += want == -1
            supposed += not gone and want == 0
    assert min(known, unknown, supposed) > 5

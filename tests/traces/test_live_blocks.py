"""The index of live blocks answers as a plain search does, across every level of its counts."""

import numpy as np
import pytest

from tightfit.traces.jit import kernel
from tightfit.traces.live_blocks import count, next_live, previous_live


@kernel
def ask(state, c1, c2, c3, at, above, below):
    for r in range(len(state)):
        if state[r]:
            count(c1, c2, c3, r, 1)
    for k in range(len(at)):
        above[k] = next_live(state, c1, c2, c3, at[k])
        below[k] = previous_live(state, c1, c2, c3, at[k])


@pytest.mark.parametrize(
    ("n", "live"),
    [
        pytest.param(1, 0, marks=pytest.mark.interpreted),
        pytest.param(64, 1, marks=pytest.mark.interpreted),
        pytest.param(5000, 3, marks=pytest.mark.interpreted),
        (300_000, 2),
        (600_000, 0),
        (600_000, 2),
        (600_001, 5000),
    ],
)
def test_neighbours_are_those_of_a_plain_search(n, live):
    rng = np.random.default_rng(n + live)
    state = np.zeros(n, np.uint8)
    state[rng.choice(n, live, replace=False)] = 1
    edges = np.array([0, n - 1, 63, 64, 4095, 4096, 262143, 262144])
    at = np.concatenate([edges[edges < n], rng.integers(0, n, 200), np.flatnonzero(state)[:50]])
    above, below = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
    c1, c2, c3 = (np.zeros((n >> shift) + 1, np.int32) for shift in (6, 12, 18))
    ask(state, c1, c2, c3, at, above, below)
    ranks = np.flatnonzero(state)
    padded = np.concatenate([[-1], ranks, [n]])
    assert above.tolist() == padded[np.searchsorted(ranks, at) + 1].tolist()
    assert below.tolist() == padded[np.searchsorted(ranks, at, "right")].tolist()

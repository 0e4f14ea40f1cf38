"""Distinct values found in pieces are those that NumPy finds at once."""

from __future__ import annotations

import numpy as np
import pytest

from tightfit.traces import byte_planes, distinct
from tightfit.traces.event import Action


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int16])
def test_pieces_give_what_one_sort_gives(
    n: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distinct, "PIECE", 8)
    values = np.random.default_rng(n).integers(0, 30, n).astype(dtype)
    table, place = distinct.distinct(values)
    expected, inverse = np.unique(values, return_inverse=True)
    assert table.dtype == dtype and table.tolist() == expected.tolist()
    assert place.tolist() == inverse.tolist()


def test_a_free_finds_its_allocation_in_an_earlier_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    kinds = [Action.ALLOC, Action.FREE_REQUESTED, Action.FREE_COMPLETED, Action.OOM]
    action = rng.choice(kinds, 500).astype(np.uint8)
    addr = rng.integers(0, 40, 500).astype(np.uint64)
    expected, latest = [], {}
    for i, (a, where) in enumerate(zip(action.tolist(), addr.tolist(), strict=True)):
        if a == Action.ALLOC:
            latest[where] = i
        elif a != Action.OOM:
            expected.append(i - latest[where] if where in latest else 0)
    for piece in (7, 64, 1000):
        monkeypatch.setattr(byte_planes, "PIECE", piece)
        assert byte_planes.references(action, addr).tolist() == expected

"""Distinct values of long columns, found in pieces: Ctrl-C is heard between two of them.

NumPy sorts a column in one call, which takes seconds for tens of millions of values and cannot be
interrupted. Columns of a recording have few distinct values, so that this is no slower.
"""

from __future__ import annotations

import numpy as np

PIECE = 1 << 20  # values at a time


def distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values, sorted, and the place of each value among them.

    Args:
        values: shape (n,).

    Returns:
        The same as `np.unique(values, return_inverse=True)`: shape (d,) of the values' type, and
        shape (n,) int64.
    """
    starts = range(0, len(values), PIECE)
    found = [np.unique(values[at : at + PIECE]) for at in starts]
    while len(found) > 1:  # neighbours are merged, so that each is sorted few times
        found = [np.unique(np.concatenate(found[k : k + 2])) for k in range(0, len(found), 2)]
    table = found[0] if found else values[:0].copy()
    place = np.empty(len(values), np.int64)
    for at in starts:
        place[at : at + PIECE] = np.searchsorted(table, values[at : at + PIECE])
    return table, place

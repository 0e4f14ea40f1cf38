"""Peeling: leave out of a search what is sure to find a place afterwards."""

from __future__ import annotations

import numpy as np

from .packing_bound import Sections


def peel(sections: Sections, size: np.ndarray, ceiling: int, unit: int) -> list[np.ndarray]:
    """Return the buffers that fit below a ceiling however the others lie, in rounds.

    The k buffers that share time with one leave at most k + 1 gaps in its lifespan. If what they
    leave free is more than k + 1 gaps each a unit too small could hold, one gap is wide enough.
    Of each round the later ones may count on this while the earlier ones are there; so place what
    was never peeled first, then the last round, and the first round at the end.

    Args:
        sections: lifespans.
        size: shape (n,) bytes, multiples of `unit`.
        ceiling: bytes.
        unit: bytes.

    Returns:
        Rounds of rows, in the order in which they were peeled.
    """
    first, last = sections.first, sections.last
    left = np.arange(len(size))
    rounds = []
    while len(left):
        begun = np.zeros((2, sections.count + 1), np.int64)
        ended = np.zeros((2, sections.count + 1), np.int64)
        for column, amount in enumerate((size[left] // unit, np.ones(len(left), np.int64))):
            np.add.at(begun[column], first[left], amount)
            np.add.at(ended[column], last[left], amount)
        begun.cumsum(1, out=begun)
        ended.cumsum(1, out=ended)
        around = begun[:, last[left] - 1] - ended[:, first[left]]
        own = size[left] // unit
        others, gaps = around[0] - own, around[1]  # k others, so k + 1 = all of them with this one
        sure = ceiling // unit - others > gaps * (own - 1)
        if sure.sum() * 200 < len(left):
            break
        rounds.append(left[sure])
        left = left[~sure]
    return rounds

"""Sections of time, and what no packing can go below: the bytes that are live at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .packing_buffers import Buffers


@dataclass(frozen=True)
class Sections:
    """Lifespans in sections: the stretches of time that matter, numbered 0..count-1.

    Between two events nothing changes, and of neighbouring stretches those whose buffers are all
    there in the next one too can be left out: whoever meets there meets again. What remains are
    the stretches that begin with a birth and end with a death.

    Attributes:
        first, last: shape (n,); buffer k is there in sections first[k] .. last[k] - 1.
        count: number of sections.
        live: shape (count,) int64; bytes live in each.
    """

    first: np.ndarray
    last: np.ndarray
    count: int
    live: np.ndarray

    @property
    def peak(self) -> int:
        """Greatest number of bytes live at once."""
        return int(self.live.max(initial=0))


def sections_of(buffers: Buffers) -> Sections:
    """Cut time into the sections that matter."""
    if not len(buffers):
        none = np.zeros(0, np.int64)
        return Sections(none, none, 0, none)
    moments, index = np.unique(np.concatenate([buffers.lower, buffers.upper]), return_inverse=True)
    lower, upper = index[: len(buffers)], index[len(buffers) :]
    place = np.arange(len(moments))
    births = np.zeros(len(moments), bool)
    deaths = np.zeros(len(moments), bool)
    births[lower] = True
    deaths[upper] = True
    last_birth = np.maximum.accumulate(np.where(births, place, -1))
    last_death = np.maximum.accumulate(np.where(deaths, place, -1))
    matters = deaths[1:] & (last_birth >= last_death)[:-1]
    kept = np.flatnonzero(matters)
    first = np.searchsorted(kept, lower)
    last = np.searchsorted(kept, upper)
    change = np.zeros(len(kept) + 1, np.int64)
    np.add.at(change, first, buffers.size)
    np.add.at(change, last, -buffers.size)
    return Sections(first, last, len(kept), np.cumsum(change)[:-1])


def peak_live(buffers: Buffers) -> int:
    """Return the greatest number of bytes live at once; no packing is lower."""
    return sections_of(buffers).peak

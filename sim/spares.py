"""Rows of a table that are not in use: blocks come and go in them.

Those that were in use before lie on a stack, the latest on top, and are taken first. Those that
never were are taken in ascending order and are in no list, so that their memory is not touched.
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline
from .memory import Fields
from .state import DEAD, FRESH, HIGHEST_ID, ID_STEP, SPARES


@inline
def take_row(s, step):
    """Take a spare row; the replay loops guarantee that one is left.

    Args:
        step: from the name of a row to the next one's.
    """
    left = s.g[SPARES] - 1
    s.g[SPARES] = left
    top = left - s.g[FRESH]
    if top < 0:
        s.g[FRESH] = left
        b = s.g[HIGHEST_ID] + step
        s.g[HIGHEST_ID] = b
        return b
    return np.int64(s.spare[top])


@inline
def give_row(s, b):
    """Row b is not in use any more."""
    s.spare[s.g[SPARES] - s.g[FRESH]] = b
    s.g[SPARES] += 1


@inline
def new_id(s):
    """Take a spare block id of a state."""
    return take_row(s, ID_STEP)


@inline
def drop_id(s, b):
    """Give a block id of a state back."""
    s.tag[b] = DEAD
    give_row(s, b)


def all_spare(f: Fields, rows: int) -> None:
    """Rows 1 to `rows` of an empty table are to spare."""
    f["g"][SPARES] = f["g"][FRESH] = rows


def more_spare(f: Fields, rows: int) -> None:
    """A table has `rows` more rows than before."""
    f["g"][SPARES] += rows
    f["g"][FRESH] += rows

"""Requests: a program's distinct requests after a policy has decided all that depends on them.

Rounding, pool, segment size and split threshold are functions of the request alone. They are worked
out once per configuration, so that the replay loop only looks them up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..traces.units import MiB


@dataclass(frozen=True)
class Requests:
    """One row per request of a Program, plus the options the mechanism itself needs.

    Attributes:
        need: shape (R,) int64; bytes a block must have.
        segment: bytes to ask the driver for when no block fits.
        least_rest: the smallest remainder worth splitting off; HUGE = never split.
        is_small: True where the request is served from the small pool.
        expands: True where new memory for the request is expandable.
        captured: True where only a capture can have made the request.
        small_page, large_page: bytes of an expandable page in either pool.
        reserve_bytes: virtual bytes of a new expandable reservation.
        options: values of the state's options by index (MAX_SPLIT, LIMIT, ...); absent ones keep
            the values that switch them off.
    """

    need: np.ndarray
    segment: np.ndarray
    least_rest: np.ndarray
    is_small: np.ndarray
    expands: np.ndarray
    captured: np.ndarray
    small_page: int = 2 * MiB
    large_page: int = 20 * MiB
    reserve_bytes: int = 0
    options: dict[int, int] = field(default_factory=dict)

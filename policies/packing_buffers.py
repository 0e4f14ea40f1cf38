"""Buffers: what has to be placed in memory, and when each of them is there.

offset
  |   +-----+            a buffer is a rectangle: its lifespan is given,
  |   |  b  +------+     its size is given, its offset is sought
  |   +-----+  c   |
  | +----------+   |
  | |    a     +---+
  +-+----------+-----> moments
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..traces.errors import TraceError
from ..traces.program import Op, Program

LARGEST = 1 << 61  # bytes; sums of sizes stay within an int64


@dataclass(frozen=True)
class Buffers:
    """The buffers of one packing problem; all arrays have shape (n,) and are int64.

    Attributes:
        lower: first moment at which each buffer is there.
        upper: first moment at which it is gone again (lifespans are half-open), > lower.
        size: bytes, > 0.

    Raises:
        TraceError: lengths differ, a lifespan is empty, or a size is out of range.
    """

    lower: np.ndarray
    upper: np.ndarray
    size: np.ndarray

    def __post_init__(self) -> None:
        for name in ("lower", "upper", "size"):
            column = np.ascontiguousarray(getattr(self, name), np.int64)
            object.__setattr__(self, name, column)
        if not len(self.lower) == len(self.upper) == len(self.size):
            raise TraceError(
                f"buffers: found {len(self.lower)} lower, {len(self.upper)} upper and "
                f"{len(self.size)} sizes, expected as many of each"
            )
        for row in np.flatnonzero(self.lower >= self.upper)[:1]:
            raise TraceError(
                f"buffer {row}: found lower {self.lower[row]} and upper {self.upper[row]}, "
                "expected lower < upper"
            )
        for row in np.flatnonzero(self.size <= 0)[:1]:
            raise TraceError(f"buffer {row}: found size {self.size[row]}, expected 1 or more")
        if self.size.astype(float).sum() >= LARGEST:
            raise TraceError(f"buffers: found sizes that add up to more than {LARGEST} bytes")

    def __len__(self) -> int:
        return len(self.size)

    def take(self, rows: np.ndarray) -> Buffers:
        """Some of the buffers, by row or by mask."""
        return Buffers(self.lower[rows], self.upper[rows], self.size[rows])


def lifetimes_of(program: Program, quantum: int = 512) -> Buffers:
    """Return when each allocation of a program holds memory; row k is allocation k.

    Moment 0 is the start, op k happens at moment k + 1. What was live at the start is there from
    moment 0, what is never freed stays until the last moment, n_ops + 1. Memory whose free is
    pending (FREE_LATER) cannot be used again before it completes, so it counts until then.
    Requests that failed when recorded (TRY) hold nothing.

    Args:
        program: the requests of one device.
        quantum: bytes; sizes are rounded up to a multiple of it. 512 is what the native allocator
            rounds to; 1 keeps the bytes asked for.
    """
    n = len(program.request)
    moments = np.arange(1, program.n_ops + 1)
    lower = np.zeros(n, np.int64)
    upper = np.full(n, program.n_ops + 1, np.int64)
    born = program.op == Op.MALLOC
    lower[program.arg[born]] = moments[born]
    gone = (program.op == Op.FREE) | (program.op == Op.COMPLETE)
    # A free that completes "again" changes nothing: the first moment counts.
    np.minimum.at(upper, program.arg[gone], moments[gone])
    size = program.req_size[program.request].astype(np.int64)
    return Buffers(lower, upper, -(-size // quantum) * quantum)

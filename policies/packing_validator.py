"""Check a packing the slow way: every buffer against every other. Shares no code with packing."""

from __future__ import annotations

from collections.abc import Sequence


def packing_fault(
    lower: Sequence[int],
    upper: Sequence[int],
    size: Sequence[int],
    offsets: Sequence[int],
    height: int,
) -> str:
    """Return the first thing that is wrong with a packing, or "" if nothing is.

    Args:
        lower, upper: half-open lifespans, in moments.
        size: bytes.
        offsets: where each buffer was put, in bytes.
        height: the bytes the packing claims to need; it must need exactly these.
    """
    n = len(size)
    if len(offsets) != n:
        return f"{len(offsets)} offsets for {n} buffers"
    highest = 0
    for i in range(n):
        start, end = int(offsets[i]), int(offsets[i]) + int(size[i])
        if start < 0:
            return f"buffer {i} has no offset"
        highest = max(highest, end)
        for j in range(i):
            both_alive = lower[i] < upper[j] and lower[j] < upper[i]
            both_there = start < int(offsets[j]) + int(size[j]) and int(offsets[j]) < end
            if both_alive and both_there:
                return f"buffers {j} and {i} overlap"
    if highest != height:
        return f"the packing needs {highest} bytes, not {height}"
    return ""

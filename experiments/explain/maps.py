"""A segment as a line of characters, from its first byte to its last."""

from __future__ import annotations

from .standing import Segment

WIDTH = 48
FULL, PARTLY, FREE = "#", "+", "."


def drawn(segment: Segment, width: int = WIDTH) -> str:
    """Draw a segment: each character stands for an equal part of it.

    Args:
        segment: its blocks in address order.
        width: characters.

    Returns:
        FULL where a part is in use from end to end, FREE where none of it is, else PARTLY.
    """
    used = [0] * width  # bytes in use of each part, times width, so that all are whole numbers
    for block in segment.blocks:
        if block.is_free:
            continue
        start = (block.address - segment.address) * width
        end = start + block.size * width
        for k in range(start // segment.size, (end - 1) // segment.size + 1):
            used[k] += min(end, (k + 1) * segment.size) - max(start, k * segment.size)
    return "".join(FREE if not n else FULL if n == segment.size else PARTLY for n in used)

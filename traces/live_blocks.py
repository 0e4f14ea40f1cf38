"""The live blocks in address order: a byte per address, and counts that skip the dead ones.

`state[rank]` says what the block at each address is; c1, c2 and c3 count those that are not dead in
groups of 64, 4096 and 262144 ranks.
"""

from __future__ import annotations

from .jit import inline

DEAD, LIVE, PENDING = 0, 1, 2  # state of the block at an address


@inline
def next_live(state, c1, c2, c3, at):
    """Return the lowest rank >= at whose block is not dead, or len(state)."""
    n = len(state)
    k = at
    while k < n:
        if k & 63 == 0 and c1[k >> 6] == 0:
            if k & 4095 == 0 and c2[k >> 12] == 0:
                k += 262144 if k & 262143 == 0 and c3[k >> 18] == 0 else 4096
            else:
                k += 64
        elif state[k] != DEAD:
            return k
        else:
            k += 1
    return n


@inline
def previous_live(state, c1, c2, c3, at):
    """Return the highest rank <= at whose block is not dead, or -1."""
    k = at
    while k >= 0:
        if k & 63 == 63 and c1[k >> 6] == 0:
            if k & 4095 == 4095 and c2[k >> 12] == 0:
                k -= 262144 if k & 262143 == 262143 and c3[k >> 18] == 0 else 4096
            else:
                k -= 64
        elif state[k] != DEAD:
            return k
        else:
            k -= 1
    return -1


@inline
def count(c1, c2, c3, rank, change):
    """Count a block in or out: change is 1 when it becomes live, -1 when it dies."""
    c1[rank >> 6] += change
    c2[rank >> 12] += change
    c3[rank >> 18] += change

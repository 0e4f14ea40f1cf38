"""The bound that needs no search: no allocator reserves less than the program holds at once."""

from __future__ import annotations

import numpy as np

from ..sim.engine import MALLOC_REVIVES
from ..sim.packing import Packed
from ..traces.program import Op


def peak_live_bytes(packed: Packed) -> int:
    """Most bytes asked for and not yet free at any moment; what another stream reads still counts.

    So does a request that failed when it was recorded: a policy that fits must serve it.

    Args:
        packed: a program; what a start layout holds counts from the beginning.
    """
    if packed.source is not None:
        return packed.source.peak_wanted_bytes  # counted when it was read
    program = packed.program
    op = packed.events & 15
    klass = (packed.events >> 4) & 0xFFFFFFF
    comes = (op == Op.MALLOC) | (op == MALLOC_REVIVES)
    goes = (op == Op.FREE) | (op == Op.COMPLETE)
    tries = op == Op.TRY
    size = np.concatenate([[0], program.req_size])[np.where(comes | goes | tries, klass, 0)]
    live = np.cumsum(np.where(comes, size, np.where(goes, -size, 0)))
    live += np.where(tries, size, 0)
    before = 0
    if packed.keeps_start:
        before = int(program.req_size[program.request[: program.n_start]].sum())
    return before + int(live.max(initial=0))

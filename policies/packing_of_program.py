"""The packing problem of a packed program: what any allocator would have to place, and when."""

from __future__ import annotations

import numpy as np

from ..sim.engine import MALLOC_REVIVES, OP_BITS, OP_MASK
from ..sim.packing import Packed
from ..traces.program import Op
from .packing_buffers import Buffers
from .planned import deaths

UNIT = 512  # bytes; every allocator here aligns to 256 at least, PyTorch's to 512


def buffers_of(packed: Packed) -> Buffers:
    """One buffer for each request, event for event.

    A request that failed when it was recorded is there for one moment: a policy that fits must
    serve it. What waits for another stream is there until the wait is over.

    Args:
        packed: a program; what a start layout holds is there from the beginning.
    """
    program, events = packed.program, packed.events
    op, klass, slot = events & OP_MASK, (events >> OP_BITS) & 0xFFFFFFF, events >> 32
    is_malloc = (op == int(Op.MALLOC)) | (op == MALLOC_REVIVES)
    is_free = (op == int(Op.FREE)) | (op == int(Op.COMPLETE))
    born, tried = np.flatnonzero(is_malloc), np.flatnonzero(op == int(Op.TRY))
    death = deaths(is_malloc, is_free, slot)[born]
    sizes = program.req_size
    lower, upper, size = [born, tried], [death, tried + 1], [klass[born] - 1, klass[tried] - 1]
    if packed.keeps_start and program.n_start:
        rows = np.arange(program.n_start)
        ends = np.full(program.n_start, len(events))
        freed = np.flatnonzero(is_free)
        # the first free in a slot that nothing was allocated in before
        first = {int(s): int(i) for i, s in zip(freed[::-1], slot[freed][::-1], strict=True)}
        for row in rows.tolist():
            ends[row] = first.get(int(packed.start_slot[row]), len(events))
        lower.append(np.full(program.n_start, -1))
        upper.append(ends)
        size.append(program.request[: program.n_start])
    requests = np.concatenate(size).astype(np.int64)
    wanted = sizes[requests] if len(requests) else np.zeros(0, np.int64)
    rounded = -(-wanted // UNIT) * UNIT
    return Buffers(np.concatenate(lower) + 1, np.concatenate(upper) + 1, rounded)

"""One block, allocated and freed before anything else: which size serves a program best?

The block stays cached, and what comes later is split from it, so that the free pieces of many sizes
lie in one segment and join again. PyTorch's tuning guide advises the like for inputs of varying
length (a first step with the longest), without saying what it is worth. Its size matters, and not
monotonously; here it is searched for by replay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..sim.packing import Packed, pack
from ..sim.run import Run
from ..traces.program import NO_DRIVER, Op, Program
from ..traces.units import MiB
from .smallest import ran

STEP = 2 * MiB
SHARES = np.linspace(0.3, 1.3, 41)  # of what the program holds at most, tried first
BETWEEN = 8  # sizes tried on either side of the best of them


@dataclass(frozen=True)
class FirstBlock:
    """A block that is allocated and freed before anything else.

    Attributes:
        bytes: its size.
        stream: index of the program's stream that it is allocated on.
        packed: the program with it, to be replayed.
        run: the program's run with it.
    """

    bytes: int
    stream: int
    packed: Packed
    run: Run


def with_first_block(program: Program, size: int, stream: int) -> Program:
    """The program with a block allocated and freed first.

    Args:
        program: one that begins with nothing live.
        size: of the block, bytes.
        stream: index of its stream.

    Returns:
        The changed program; its allocation 0 is the block.
    """
    numbered = np.isin(program.op, (Op.MALLOC, Op.FREE, Op.FREE_LATER, Op.COMPLETE))
    arg = program.arg + numbered
    end = replace(program.end, blocks=dict(program.end.blocks))
    end.blocks["alloc"] = end.blocks["alloc"] + (end.blocks["alloc"] >= 0)
    return replace(
        program,
        op=np.concatenate([[Op.MALLOC, Op.FREE], program.op]).astype(program.op.dtype),
        arg=np.concatenate([[0, 0], arg]).astype(program.arg.dtype),
        entry=np.concatenate([[-1, -1], program.entry]),
        request=np.insert(program.request, 0, len(program.req_size)),
        req_size=np.append(program.req_size, size),
        req_stream=np.append(program.req_stream, program.req_stream.dtype.type(stream)),
        req_pool=np.append(program.req_pool, program.req_pool.dtype.type(0)),
        addr=np.insert(program.addr, 0, 0),
        end=end,
        **NO_DRIVER,
    )


def main_stream(program: Program) -> int:
    """The stream on which most is held at once, memory pools left out; its index."""
    most, chosen = 0, 0
    size, stream, pool = (
        column[program.request]
        for column in (program.req_size, program.req_stream, program.req_pool)
    )
    gives, takes = program.op == Op.MALLOC, np.isin(program.op, (Op.FREE, Op.FREE_LATER))
    moved = np.flatnonzero(gives | takes)
    alloc = program.arg[moved]
    change = np.where(gives[moved], size[alloc], -size[alloc])
    for number in range(len(program.streams)):
        own = (stream[alloc] == number) & (pool[alloc] == 0)
        held = int(np.cumsum(change[own]).max(initial=0))
        if held > most:
            most, chosen = held, number
    return chosen


def best_first_block(
    program: Program,
    play: Callable[[Packed], Run],
    bound: int,
    advance: Callable[[], None] = lambda: None,
) -> FirstBlock | None:
    """Search for the size with which least is given back in need, and then least is reserved.

    Args:
        program: the program.
        play: replays it; a run that meets an out-of-memory error is worse than one that does not.
        bound: the most that the program holds at once, bytes.
        advance: called after every replay.

    Returns:
        The best size tried, the smallest of equals; None where memory was live before recording
        began, as nothing can come before it.
    """
    if program.n_start or not program.n_ops or bound < STEP:
        return None
    stream = main_stream(program)
    first = pack(with_first_block(program, STEP, stream), keep_start=False)
    best: FirstBlock | None = None
    rank = (True, 0, 0, 0)

    def attempt(size: int) -> None:
        nonlocal best, rank
        # The events are the same for every size; what was planned for them is not.
        sized = replace(first.program, req_size=np.append(first.program.req_size[:-1], size))
        packed = replace(first, program=sized, plans={})
        run = play(packed)
        advance()
        stats = run.stats
        own = (
            not ran(run), stats["num_alloc_retries"], stats["reserved_bytes.all.peak"], size,
        )  # fmt: skip
        if best is None or own < rank:
            best, rank = FirstBlock(size, stream, packed, run), own

    coarse = sorted({max(STEP, int(share * bound) // STEP * STEP) for share in SHARES})
    for size in coarse:
        attempt(size)
    assert best is not None
    at = coarse.index(best.bytes)
    low, high = coarse[max(0, at - 1)], coarse[min(len(coarse) - 1, at + 1)]
    for size in np.linspace(low, high, 2 * BETWEEN + 1)[1:-1].astype(np.int64).tolist():
        if size // STEP * STEP not in coarse:
            attempt(size // STEP * STEP)
    return best


def statement(block: FirstBlock) -> str:
    """The block as a line of Python."""
    return f'torch.empty({block.bytes}, dtype=torch.uint8, device="cuda")'

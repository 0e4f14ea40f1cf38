"""One block, allocated and freed before anything else: which size serves a program best?

The block stays cached, and what comes later is split from it, so that the free pieces of many sizes
lie in one segment and join again. PyTorch's tuning guide advises the like for inputs of varying
length (a first step with the longest), without saying what it is worth. Its size matters, and not
monotonously; here it is searched for by replay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..sim.packing import Packed, pack
from ..sim.run import Run
from ..traces.program import NO_DRIVER, Op, Program
from ..traces.units import MiB
from .share_out import share_out
from .smallest import ran

STEP = 2 * MiB
SHARES = np.linspace(0.3, 1.3, 41)  # of what the program holds at most, tried first
BETWEEN = 8  # sizes tried on either side of the best of them


@dataclass(frozen=True)
class FirstBlock:
    """A block that is allocated and freed before anything else.

    Attributes:
        bytes: its size.
        streams: of each program the index of the stream that it is allocated on.
        packed: each program with it, to be replayed.
        runs: each program's run with it.
    """

    bytes: int
    streams: tuple[int, ...]
    packed: tuple[Packed, ...]
    runs: tuple[Run, ...]


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
    programs: Sequence[Program],
    play: Callable[[Packed], Run],
    bounds: Sequence[int],
    advance: Callable[[], None] = lambda: None,
) -> FirstBlock | None:
    """Search for the size with which least is given back in need, and then least is reserved.

    Of several programs, ranks of one script, say, the one counts that reserves most beyond its
    bound.

    Args:
        programs: the programs; each gets the block.
        play: replays one, in any thread; a run that meets an out-of-memory error is worse than one
            that does not.
        bounds: the most that each program holds at once, bytes.
        advance: called when a size was tried.

    Returns:
        The best size tried, the smallest of equals; None where memory was live before recording
        began, as nothing can come before it.
    """
    most = max(bounds)
    if most < STEP or any(program.n_start or not program.n_ops for program in programs):
        return None
    streams = tuple(main_stream(program) for program in programs)
    firsts = [
        pack(with_first_block(program, STEP, stream), keep_start=False)
        for program, stream in zip(programs, streams, strict=True)
    ]
    ranks: dict[int, tuple[bool, int, float, int]] = {}

    def sized(size: int) -> tuple[Packed, ...]:
        # The events are the same for every size; what was planned for them is not.
        return tuple(
            replace(
                first,
                program=replace(
                    first.program, req_size=np.append(first.program.req_size[:-1], size)
                ),
                plans={},
            )
            for first in firsts
        )

    def attempt(size: int) -> None:
        runs = list(map(play, sized(size)))
        stats = [run.stats for run in runs]
        peaks = [s["reserved_bytes.all.peak"] for s in stats]
        ranks[size] = (
            not all(map(ran, runs)),
            sum(s["num_alloc_retries"] for s in stats),
            max(peak / max(1, bound) for peak, bound in zip(peaks, bounds, strict=True)),
            size,
        )
        advance()

    coarse = sorted({max(STEP, int(share * most) // STEP * STEP) for share in SHARES})
    share_out(attempt, coarse)
    at = coarse.index(min(ranks, key=ranks.__getitem__))
    low, high = coarse[max(0, at - 1)], coarse[min(len(coarse) - 1, at + 1)]
    between = np.linspace(low, high, 2 * BETWEEN + 1)[1:-1].astype(np.int64) // STEP * STEP
    share_out(attempt, sorted(set(between.tolist()) - set(coarse)))
    best = min(ranks, key=ranks.__getitem__)
    packed = sized(best)
    return FirstBlock(best, streams, packed, tuple(map(play, packed)))


def statement(block: FirstBlock) -> str:
    """The block as a line of Python."""
    return f'torch.empty({block.bytes}, dtype=torch.uint8, device="cuda")'

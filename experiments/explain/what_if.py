"""A program as it might have been: cut short, with memory freed earlier, kept apart or flushed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...traces.program import NO_DRIVER, Op, Program

OWN_POOL = 1 << 20  # second number of a made-up MemPool's id; PyTorch counts from 1


def until(program: Program, n_ops: int, flushed: bool = False) -> Program:
    """The program's first ops.

    Args:
        program: the whole.
        n_ops: how many ops of it.
        flushed: whether cached memory is given back at the end, as before a request fails.
    """
    kept = replace(
        program,
        op=program.op[:n_ops],
        arg=program.arg[:n_ops],
        entry=program.entry[:n_ops],
        **NO_DRIVER,
    )
    return _inserted(kept, [n_ops], Op.EMPTY_CACHE, [0]) if flushed else kept


def freed_before(program: Program, op: int, allocs: Sequence[int]) -> Program:
    """The program with some allocations freed just before an op, and not later.

    Args:
        program: as recorded.
        op: index of an op; the frees come just before it.
        allocs: allocations in use then.
    """
    later = np.isin(program.op, (Op.FREE, Op.FREE_LATER, Op.COMPLETE)) & np.isin(
        program.arg, np.asarray(allocs, np.int64)
    )
    later[:op] = False
    kept = replace(
        program,
        op=program.op[~later],
        arg=program.arg[~later],
        entry=program.entry[~later],
        **NO_DRIVER,
    )
    return _inserted(kept, [op] * len(allocs), Op.FREE, allocs)


def flushed_before(program: Program, ops: Sequence[int]) -> Program:
    """The program with torch.cuda.empty_cache() called just before each of some ops."""
    return _inserted(replace(program, **NO_DRIVER), ops, Op.EMPTY_CACHE, [0] * len(ops))


def in_own_pool(program: Program, allocs: np.ndarray, tries: np.ndarray) -> Program:
    """The program with some requests served from a `torch.cuda.MemPool` of their own.

    Only what came from the default pools moves, and only what was asked for after recording began.

    Args:
        program: as recorded.
        allocs: allocations that move.
        tries: indices of TRY ops, requests that failed when recorded, that move too.
    """
    moved = allocs[program.req_pool[program.request[allocs]] == 0]
    moved = moved[moved >= program.n_start]
    tries = tries[program.req_pool[program.arg[tries]] == 0]
    asked = np.concatenate([program.request[moved], program.arg[tries]])
    wanted, of = np.unique(asked, return_inverse=True)
    request, arg = program.request.copy(), program.arg.copy()
    request[moved] = len(program.req_size) + of[: len(moved)]
    arg[tries] = len(program.req_size) + of[len(moved) :]
    own = np.full(len(wanted), len(program.pools), program.req_pool.dtype)
    return replace(
        program,
        arg=arg,
        request=request,
        req_size=np.append(program.req_size, program.req_size[wanted]),
        req_stream=np.append(program.req_stream, program.req_stream[wanted]),
        req_pool=np.append(program.req_pool, own),
        pools=[*program.pools, (0, OWN_POOL)],
        **NO_DRIVER,
    )


def _inserted(program: Program, before: Sequence[int], op: Op, args: Sequence[int]) -> Program:
    """The program with an op of one kind inserted before each of some ops."""
    at = np.asarray(before, np.int64)
    return replace(
        program,
        op=np.insert(program.op, at, int(op)),
        arg=np.insert(program.arg, at, np.asarray(args, np.int64)),
        entry=np.insert(program.entry, at, -1),
    )

"""A recorded program as one that a real allocator can be asked for, request by request.

From outside PyTorch nobody can say when another stream is done with a block, nor be inside a graph
capture without capturing. So both sides of the comparison play the same slightly plainer program: a
free that waited for another stream comes when it was completed, the private pool of a graph is an
ordinary one, and memory that was live before recording began is asked for first. Settings calls are
made on both sides, where the program made them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...traces.event import BlockState
from ...traces.program import Layout, Op, Program
from ...traces.whole_file import replacing

# Codes of the steps in the file that the worker reads; the worker has the same ones.
ALLOC, FREE, TRY, EMPTY, RELEASE, DELETE, SET = range(7)


@dataclass(frozen=True)
class Replayable:
    """A program for both sides.

    Attributes:
        program: it, for the simulator; it starts from nothing.
        notes: how it differs from the recorded one, in words.
    """

    program: Program
    notes: tuple[str, ...]


def replayable(program: Program) -> Replayable:
    """Return the plainer program that a recorded one is replayed as."""
    notes: list[str] = []
    if program.settings_calls:
        notes.append(f"{len(program.settings_calls):,} settings calls are made as the program did")
    n_start = program.n_start
    op, arg, entry = program.op.copy(), program.arg.copy(), program.entry.copy()
    pending = _pending_at_start(program)
    waits = int((op == Op.FREE_LATER).sum())
    if waits:
        notes.append(f"{waits:,} frees that waited for another stream come when they completed")
    if len(program.pools) > 1:
        notes.append(f"{len(program.pools) - 1} private pools, whatever made them, are MemPools")
    if n_start:
        notes.append(f"{n_start:,} blocks that were live when recording began are asked for first")
    completed = np.zeros(len(program.request), bool)
    completed[arg[op == Op.COMPLETE]] = True
    never = int((~completed[arg[op == Op.FREE_LATER]]).sum()) + int((~completed[pending]).sum())
    if never:
        notes.append(f"{never:,} frees that were still waiting at the end never come")
    tries = int((op == Op.TRY).sum())
    if tries:
        notes.append(f"{tries:,} requests that failed when recorded must be served, as all others")
    op[op == Op.COMPLETE] = Op.FREE
    kept = (op != Op.FREE_LATER) & (op != Op.CAPTURE)
    first = np.arange(n_start, dtype=np.int32)
    plain = replace(
        program,
        op=np.concatenate([np.full(n_start, int(Op.MALLOC), np.uint8), op[kept]]),
        arg=np.concatenate([first, arg[kept]]).astype(np.int32),
        entry=np.concatenate([np.full(n_start, -1, np.int64), entry[kept]]),
        pools=[(0, number) for number in range(len(program.pools))],
        start=Layout(),
        end=Layout(),
        addr=np.zeros(len(program.request), np.uint64),
        driver_op=np.zeros(0, np.int64),
        driver_action=np.zeros(0, np.uint8),
        driver_addr=np.zeros(0, np.uint64),
        driver_size=np.zeros(0, np.int64),
    )
    return Replayable(plain, tuple(notes))


def _pending_at_start(program: Program) -> np.ndarray:
    rows = program.start.blocks
    return rows["alloc"][(rows["alloc"] >= 0) & (rows["state"] == BlockState.PENDING)]


def write_steps(program: Program, path: Path) -> None:
    """Write a replayable program as the arrays that the worker plays.

    The steps have one row per op: `code`, `slot` (the allocation; the pool of EMPTY, RELEASE and
    DELETE; of SET which of the `calls`, from 1), `size` in bytes, `stream` and `pool` as numbers. A
    pool that is emptied by itself is deleted as a MemPool is, which releases it and empties it in
    one.
    """
    n = program.n_ops
    op, arg = program.op, program.arg
    code = np.zeros(n, np.uint8)
    for which, step in (
        (Op.MALLOC, ALLOC), (Op.FREE, FREE), (Op.TRY, TRY), (Op.EMPTY_CACHE, EMPTY),
        (Op.RELEASE_POOL, RELEASE), (Op.CHANGE, SET),
    ):  # fmt: skip
        code[op == which] = step
    alone = (op == Op.EMPTY_CACHE) & (arg > 0)
    code[alone] = DELETE
    request = np.zeros(n, np.int64)
    mallocs = op == Op.MALLOC
    request[mallocs] = program.request[arg[mallocs]]
    request[op == Op.TRY] = arg[op == Op.TRY]
    asks = mallocs | (op == Op.TRY)
    columns = {
        "code": code,
        "slot": arg.astype(np.int64),
        "size": np.where(asks, program.req_size[request], 0),
        "stream": np.where(asks, program.req_stream[request], 0).astype(np.int64),
        "pool": np.where(asks, program.req_pool[request], 0).astype(np.int64),
        "n_streams": np.array(len(program.streams)),
        "streams": program.streams,
        "n_pools": np.array(len(program.pools)),
        "deleted": np.unique(arg[alone]).astype(np.int64),
        "calls": np.array([call.line for call in program.settings_calls], np.str_),
    }
    with replacing(path) as out:
        np.savez(out, allow_pickle=False, **columns)

"""Tiling: a recorded program made long by repeating what leaves things as it found them."""

from __future__ import annotations

import numpy as np

from ...traces.errors import TraceError
from ...traces.program import Op, Program

LIVE, PENDING, CAPTURING = 0, 1, 2


def repeatable_part(program: Program) -> tuple[int, int]:
    """The longest stretch of ops [i, j) that ends with what it began with.

    "What" is the number of live and of pending allocations of each request. Of equally long
    stretches the last.

    Raises:
        TraceError: no stretch does.
    """
    prints = _prints(program)
    _, first, group = np.unique(prints, return_index=True, return_inverse=True)
    length = np.arange(len(prints)) - first[group]
    j = len(length) - 1 - int(np.argmax(length[::-1]))
    if length[j] == 0:
        raise TraceError("tiling: no part of the program ends with what it began with")
    return int(first[group[j]]), j


def tile(program: Program, n_ops: int) -> Program:
    """Repeat the longest repeatable part until there are at least n_ops ops.

    A repetition frees, for each allocation that was live when the part first began, one of the same
    request that is live now: of several the one that is as old among them.

    Raises:
        TraceError: the program starts with live memory, or nothing in it can be repeated.
    """
    if program.n_start:
        raise TraceError("tiling: found memory live at the start, expected a cold start")
    i, j = repeatable_part(program)
    op, arg = program.op[i:j], program.arg[i:j].astype(np.int64)
    of_alloc = np.isin(op, (Op.MALLOC, Op.FREE, Op.FREE_LATER, Op.COMPLETE))
    born = arg[op == Op.MALLOC]
    before, after = _held(program, i), _held(program, j)
    # name[a]: the allocation that plays the part of a in the current repetition.
    name = np.arange(len(program.request), dtype=np.int64)
    n_born = int((program.op[:j] == Op.MALLOC).sum())
    ops, args = [program.op[:j]], [program.arg[:j].astype(np.int64)]
    requests = [program.request[:n_born]]
    total = j
    while total < n_ops:
        following = name.copy()
        following[before] = name[after]
        following[born] = n_born + np.arange(len(born))
        name = following
        ops.append(op)
        args.append(np.where(of_alloc, name[np.where(of_alloc, arg, 0)], arg))
        requests.append(program.request[born])
        n_born += len(born)
        total += j - i
    return Program(
        device=program.device,
        op=np.concatenate(ops),
        arg=np.concatenate(args).astype(np.int32),
        entry=np.full(total, -1, np.int64),
        request=np.concatenate(requests),
        req_size=program.req_size,
        req_stream=program.req_stream,
        req_pool=program.req_pool,
        streams=program.streams,
        pools=program.pools,
        addr=np.zeros(n_born, np.uint64),
    )


def _prints(program: Program) -> np.ndarray:
    """A fingerprint of what is held before each op and at the end; shape (n + 1,) uint64."""
    rng = np.random.default_rng(0)
    random = rng.integers(0, 1 << 63, (3, len(program.req_size) + 1)).astype(np.uint64)
    op = program.op
    of_alloc = np.isin(op, (Op.MALLOC, Op.FREE, Op.FREE_LATER, Op.COMPLETE))
    request = np.zeros(len(op), np.int64)
    request[of_alloc] = program.request[program.arg[of_alloc]]
    step = np.zeros(len(op), np.uint64)
    step[op == Op.MALLOC] += random[LIVE, request[op == Op.MALLOC]]
    for ends in (Op.FREE, Op.FREE_LATER):
        step[op == ends] -= random[LIVE, request[op == ends]]
    step[op == Op.FREE_LATER] += random[PENDING, request[op == Op.FREE_LATER]]
    step[op == Op.COMPLETE] -= random[PENDING, request[op == Op.COMPLETE]]
    turned = np.where(op == Op.CAPTURE, program.arg, -1)
    step[turned == 1] += random[CAPTURING, 0]
    step[turned == 0] -= random[CAPTURING, 0]
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(step)])


def _held(program: Program, end: int) -> np.ndarray:
    """Allocations live or pending before op `end`, ordered by state and request, then by age."""
    state = np.full(len(program.request), -1)
    op, arg = program.op[:end], program.arg[:end]
    state[arg[op == Op.MALLOC]] = LIVE
    state[arg[op == Op.FREE_LATER]] = PENDING
    state[arg[(op == Op.FREE) | (op == Op.COMPLETE)]] = -1
    held = np.flatnonzero(state >= 0)
    return held[np.lexsort((held, program.request[held], state[held]))]

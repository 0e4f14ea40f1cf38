"""Find out when blocks were freed whose free was not recorded.

Lifting frees such a block at the last moment that addresses allow: just before something else lies
there. The allocator's choices in between can show that it was free before: with the block still
live, a replay places an allocation where the recording does not have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .program import Op, Program
from .recording import Finding


def settle_lost_frees(
    program: Program, replay: Callable[[Program], np.ndarray], max_replays: int = 200
) -> Program:
    """Move inferred frees forward until a replay meets the recorded addresses.

    One step: take the first allocation that a replay places elsewhere, and of the inferred frees
    that come later the nearest one which, moved in front of it, lets the replay get further.

    Args:
        program: a lifted program.
        replay: returns the address of each allocation, shape (A,), when a program is replayed
            under the recorded settings with the recorded driver.
        max_replays: give up after so many.

    Returns:
        The program itself if nothing could be improved, else one with frees moved and a finding
        "settled_free" that says how many.
    """
    is_inferred = (program.op == Op.FREE) & (program.entry < 0)
    if not is_inferred.any():
        return program
    best, moved = program, 0
    wrong = _first_wrong(best, replay(best))
    replays = 1
    while wrong < best.n_ops:
        improved = False
        for at in _candidates(best, wrong).tolist():
            if replays >= max_replays:
                break
            trial = _move(best, at, wrong)
            replays += 1
            reached = _first_wrong(trial, replay(trial))
            if reached > wrong + 1:  # the wrong op itself now stands one further
                best, wrong, improved = trial, reached, True
                moved += 1
                break
        if not improved:
            break
    if not moved:
        return program
    note = Finding(
        "settled_free",
        moved,
        f"{moved} of the frees that were not recorded took place earlier than addresses alone "
        "show: later allocations chose other memory",
        program.device,
    )
    return replace(best, findings=[*program.findings, note])


def _first_wrong(program: Program, addr: np.ndarray) -> int:
    """Return the first MALLOC not served at its recorded address, or the number of ops."""
    mallocs = np.flatnonzero(program.op == Op.MALLOC)
    alloc = program.arg[mallocs]
    wrong = mallocs[addr[alloc] != program.addr[alloc]]
    return int(wrong[0]) if len(wrong) else program.n_ops


def _candidates(program: Program, wrong: int) -> np.ndarray:
    """Return the inferred frees behind an op whose block was live at it, nearest first."""
    behind = np.arange(program.n_ops) > wrong
    frees = np.flatnonzero((program.op == Op.FREE) & (program.entry < 0) & behind)
    born = np.full(len(program.addr), -1)
    mallocs = np.flatnonzero(program.op == Op.MALLOC)
    born[program.arg[mallocs]] = mallocs
    return frees[born[program.arg[frees]] < wrong]


def _move(program: Program, at: int, to: int) -> Program:
    """Return the program with op number `at` moved in front of op number `to`."""
    order = np.arange(program.n_ops)
    order[to + 1 : at + 1] = order[to:at]
    order[to] = at
    calls = program.driver_op
    return replace(
        program,
        op=program.op[order],
        arg=program.arg[order],
        entry=program.entry[order],
        driver_op=calls + ((calls >= to) & (calls < at)),
    )

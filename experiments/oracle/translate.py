"""A case as a Program: what the simulator is asked, given when real frees completed.

When a free of a block that another stream uses completes is the device's doing, not the
allocator's: a Program carries it as an input (COMPLETE). Here it is read off the real trace. Frees
that complete while the allocator waits for everything are left to the simulator: those are its own
to predict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...sim.release import Release
from ...traces.event import Action
from ...traces.program import Op, Program
from .commands import ANY_STREAM, CHANGES, HANDLE, Case, Code
from .run import AFTER_WAIT, Answer

DRIVER_CALLS = (
    Action.SEGMENT_ALLOC,
    Action.SEGMENT_FREE,
    Action.SEGMENT_MAP,
    Action.SEGMENT_UNMAP,
)


# Plain numbers: attributes of an enum are slow in a loop over every command.
CHANGING = frozenset(map(int, CHANGES))
MALLOC, FREE, RECORD = int(Code.MALLOC), int(Code.FREE), int(Code.RECORD)
EMPTY, RELEASE, SCOPE_BEGIN, SCOPE_END = map(
    int, (Code.EMPTY, Code.RELEASE, Code.SCOPE_BEGIN, Code.SCOPE_END)
)
CAPTURE_BEGIN, CAPTURE_END = int(Code.CAPTURE_BEGIN), int(Code.CAPTURE_END)
OP_MALLOC, OP_FREE, OP_FREE_LATER = int(Op.MALLOC), int(Op.FREE), int(Op.FREE_LATER)


@dataclass(frozen=True)
class Translated:
    """A program and where its parts came from.

    Attributes:
        program: for the simulator; pool number p stands for the private pool (0, p).
        command: shape (n_ops,) int64; the command each op stands for.
        malloc: shape (A,) int64; the MALLOC command of each allocation.
        side_streams: streams that were recorded on blocks.
    """

    program: Program
    command: np.ndarray
    malloc: np.ndarray
    side_streams: set[int]


def translate(case: Case, answer: Answer, rules: Release) -> Translated:
    """Translate the commands that were certainly carried out.

    Args:
        rules: says which calls put the allocator into capture context.
    """
    commands = case.commands[: answer.reached]
    trace = answer.trace
    is_done = (trace["action"] == Action.FREE_COMPLETED) & (trace["flags"] & AFTER_WAIT == 0)
    done: dict[int, list[int]] = {}
    for command, addr in zip(
        trace["command"][is_done].tolist(), trace["addr"][is_done].tolist(), strict=True
    ):
        done.setdefault(command, []).append(addr)
    returned = answer.returned.tolist()
    ops: list[int] = []
    args: list[int] = []
    of: list[int] = []
    requests: dict[tuple[int, int, int], int] = {}
    request: list[int] = []
    malloc: list[int] = []
    number: dict[int, int] = {}  # allocation id -> its number here
    address: list[int] = []
    pending: dict[int, int] = {}  # address -> allocation
    scopes: list[tuple[int, int]] = []  # (pool, stream)
    side_streams: set[int] = set()
    open_captures = 0
    in_context = False
    last_pool = 0
    changes = 0

    def add(op: int, arg: int, i: int) -> None:
        ops.append(op)
        args.append(arg)
        of.append(i)

    def context(i: int) -> None:
        nonlocal in_context
        now = bool(scopes) if rules.capture_means_any_scope else open_captures > 0
        if now != in_context:
            in_context = now
            add(Op.CAPTURE, int(now), i)

    for i, (code, stream, id, size) in enumerate(
        zip(*(commands[c].tolist() for c in ("code", "stream", "id", "size")), strict=True)
    ):
        finished = done.get(i, [])
        if code == FREE:
            alloc = number.get(id, -1)
            if alloc < 0 or not address[alloc]:
                continue
            if finished and address[alloc] == finished[0]:
                add(OP_FREE, alloc, i)
            else:
                add(OP_FREE_LATER, alloc, i)
                pending[address[alloc]] = alloc
            continue
        for addr in finished:
            # Behind a defect a block can lie elsewhere than where it was handed out (defects.py).
            if addr in pending:
                add(Op.COMPLETE, pending.pop(addr), i)
        if code == MALLOC:
            pool = 0
            # Source: the order in which get_pool looks through captures_underway.
            for p, s in reversed(scopes) if rules.version >= (2, 10) else scopes:
                if s in (ANY_STREAM, stream):
                    pool = p
                    break
            last_pool = max(last_pool, pool)
            wanted = requests.setdefault((size, stream, pool), len(requests))
            if case.scattered and not returned[i]:
                # To a driver that answers as recorded, only a recorded failure says no.
                add(Op.TRY, wanted, i)
                continue
            number[id] = len(request)
            add(OP_MALLOC, len(request), i)
            request.append(wanted)
            malloc.append(i)
            address.append(returned[i])
        elif code in CHANGING:
            changes += 1
            add(Op.CHANGE, changes, i)
        elif code == RECORD:
            side_streams.add(stream)
        elif code == EMPTY:
            last_pool = max(last_pool, id)
            add(Op.EMPTY_CACHE, id, i)
        elif code == RELEASE:
            last_pool = max(last_pool, id)
            add(Op.RELEASE_POOL, id, i)
        elif code in (SCOPE_BEGIN, CAPTURE_BEGIN):
            scopes.append((id, stream))
            open_captures += code == CAPTURE_BEGIN
            context(i)
        elif code in (SCOPE_END, CAPTURE_END):
            scopes.remove(next(s for s in reversed(scopes) if s[0] == id))
            open_captures -= code == CAPTURE_END
            context(i)
    table = np.array(list(requests), np.int64).reshape(-1, 3)
    n_streams = int(table[:, 1].max(initial=0)) + 1
    program = Program(
        device=0,
        op=np.array(ops, np.uint8),
        arg=np.array(args, np.int32),
        entry=np.full(len(ops), -1, np.int64),
        request=np.array(request, np.int32),
        req_size=table[:, 0].copy(),
        req_stream=table[:, 1].astype(np.int32),
        req_pool=table[:, 2].astype(np.int32),
        streams=np.arange(n_streams, dtype=np.int64) * HANDLE,
        pools=[(0, p) for p in range(last_pool + 1)],
        addr=np.array(address, np.uint64),
    )
    if case.scattered:
        _add_driver_calls(program, np.array(of, np.int64), trace[trace["command"] < len(commands)])
    return Translated(program, np.array(of, np.int64), np.array(malloc, np.int64), side_streams)


def _add_driver_calls(program: Program, command: np.ndarray, trace: np.ndarray) -> None:
    """Tell a program what its driver granted and where, as a recording would."""
    rows = trace[np.isin(trace["action"], DRIVER_CALLS)]
    # A command's own op is its last: completed frees come before it.
    program.driver_op = np.searchsorted(command, rows["command"], "right").astype(np.int64) - 1
    program.driver_action = rows["action"].copy()
    program.driver_addr = rows["addr"].copy()
    program.driver_size = rows["size"].copy()

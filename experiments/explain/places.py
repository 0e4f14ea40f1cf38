"""Where in the user's code each allocation was asked for."""

from __future__ import annotations

import numpy as np

from ...traces.event import BlockState
from ...traces.program import Op, Program
from ...traces.recording import DeviceRecording, Recording
from ..owners import user_frame

NOT_RECORDED = "(no stack recorded)"
BEFORE = "(before recording began)"


class Places:
    """The place of each allocation of a program, in words; equal words are one owner.

    Args:
        program: its allocations.
        recording: where it was lifted from; the stacks are its own.
    """

    def __init__(self, program: Program, recording: Recording) -> None:
        device = recording.devices[program.device]
        self._program, self._of_entry = program, device.entries["stack"]
        self._stacks = recording.stacks
        self._words: dict[int, str] = {0: NOT_RECORDED}
        self._n_start = program.n_start
        malloc = np.flatnonzero(program.op == Op.MALLOC)
        self.entry = np.full(len(program.request), -1, np.int64)
        self.entry[program.arg[malloc]] = program.entry[malloc]
        self.freed = np.zeros(len(program.request), bool)
        self.freed[program.arg[np.isin(program.op, (Op.FREE, Op.FREE_LATER))]] = True
        start = program.start.blocks
        self.freed[start["alloc"][start["state"] == BlockState.PENDING]] = True
        self.stack = np.zeros(len(program.request), np.int64)
        known = self.entry >= 0
        self.stack[known] = device.entries["stack"][self.entry[known]]
        for alloc, stack in _from_end(program, device).items():
            self.stack[alloc] = stack

    def __getitem__(self, alloc: int) -> str:
        """Where allocation number `alloc` was asked for."""
        stack = int(self.stack[alloc])
        if not stack and alloc < self._n_start:
            return BEFORE
        return self.of_stack(stack)

    def of_stack(self, stack: int) -> str:
        """The place that a stack of the recording comes from."""
        if stack not in self._words:
            self._words[stack] = user_frame(self._stacks[stack])
        return self._words[stack]

    def has_stack(self, entries: np.ndarray) -> np.ndarray:
        """Whether a place was recorded with each of some entries."""
        return self._of_entry[entries] != 0

    def of_op(self, op: int) -> str:
        """Where op number `op` was asked for."""
        entry = int(self._program.entry[op])
        return self.of_stack(int(self._of_entry[entry]) if entry >= 0 else 0)

    def tries_at(self, where: str) -> np.ndarray:
        """Indices of the TRY ops that were asked for at a place."""
        tries = np.flatnonzero(self._program.op == Op.TRY)
        return tries[[self.of_op(int(op)) == where for op in tries]]

    def allocs_at(self, where: str) -> np.ndarray:
        """All allocations of the program that were asked for at a place."""
        stacks, of = np.unique(self.stack, return_inverse=True)
        words = [self.of_stack(int(s)) for s in stacks]
        at = np.array([w == where for w in words], bool)[of]
        if where == BEFORE or where == NOT_RECORDED:
            old = np.arange(len(at)) < self._n_start
            at = (self.stack == 0) & (old if where == BEFORE else ~old)
        return np.flatnonzero(at)


def _from_end(program: Program, device: DeviceRecording) -> dict[int, int]:
    """Stacks of what was live before recording began and still is at its end."""
    stack_at = dict(
        zip(device.blocks["address"].tolist(), device.blocks["stack"].tolist(), strict=True)
    )
    owner, address = program.end.blocks["alloc"], program.end.blocks["address"]
    old = (owner >= 0) & (owner < program.n_start)
    return {
        int(alloc): stack_at.get(int(at), 0)
        for alloc, at in zip(owner[old], address[old], strict=True)
    }

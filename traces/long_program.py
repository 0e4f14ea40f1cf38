"""LongProgram: a program whose ops stay in their file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .program import Op, Program


@dataclass
class LongProgram(Program):
    """A program without its ops, which `long_file` maps from a file as event words.

    `op`, `arg` and `entry` are empty, `request` holds the allocations of the start only.

    Attributes:
        n_events: number of ops.
        counts: how often each op occurs.
        find_entry: finds the recorded entry of an op in the file.
    """

    n_events: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    find_entry: Callable[[int], int] = field(default=int, repr=False, compare=False)

    @property
    def n_ops(self) -> int:
        return self.n_events

    def count(self, op: Op) -> int:
        return self.counts.get(int(op), 0)

    def entry_of(self, op: int) -> int:
        return self.find_entry(op)

"""Exactness: how much of a recording the simulator reproduces, allocation by allocation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..policies.native import replay_native
from ..sim.packing import Packed
from ..sim.release import Release
from ..sim.run import Run
from ..sim.settings import Settings
from ..traces.event import Action
from ..traces.program import Layout, Op, Program
from ..traces.units import format_bytes

LOST = ("lost_free", "late_free")  # findings about blocks freed with no record of it
_SEGMENT_ACTIONS = (
    Action.SEGMENT_ALLOC,
    Action.SEGMENT_FREE,
    Action.SEGMENT_MAP,
    Action.SEGMENT_UNMAP,
)


@dataclass(frozen=True)
class Exactness:
    """A validation replay held against its recording.

    Attributes:
        device: device index.
        allocs, allocs_exact: recorded allocations; those placed at the recorded address.
        segments, segments_exact: recorded driver calls that succeeded; those predicted in the same
            op at the same address with the same size.
        segments_extra: driver calls predicted that the recording does not have.
        final_blocks_exact: the last state equals the snapshot's, block by block.
        lost_frees: blocks that vanished with no recorded free; their frees are inferred.
        complete: nothing had to be guessed.
        divergence: the first difference in words; "" if there is none.
        differs_at: the recorded entry of the first difference; one beyond the last if only the last
            state differs; None = nothing does.
    """

    device: int
    allocs: int
    allocs_exact: int
    segments: int
    segments_exact: int
    segments_extra: int
    final_blocks_exact: bool
    lost_frees: int
    complete: bool
    divergence: str
    differs_at: int | None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was recorded that a replay could get wrong."""
        return self.allocs == 0 and self.segments == 0

    @property
    def is_exact(self) -> bool:
        return (
            self.allocs_exact == self.allocs
            and self.segments_exact == self.segments
            and self.segments_extra == 0
            and self.final_blocks_exact
        )


def compare_with_recording(packed: Packed, settings: Settings, rules: Release) -> Exactness:
    """Replay with the recorded driver's answers and compare everything the recording shows.

    Args:
        packed: the program, packed to keep its start.
        settings: the settings it was recorded under.
        rules: the release to follow.
    """
    program = packed.program
    run = replay_native(
        packed,
        settings,
        rules,
        stop_at_oom=False,
        recorded_driver=True,
        events=True,
        layout=True,
    )
    mallocs = np.flatnonzero(program.op == Op.MALLOC)
    allocs = program.arg[mallocs]
    placed = run.addr[allocs] == program.addr[allocs]
    calls = run.events[np.isin(run.events["action"], _SEGMENT_ACTIONS)]
    mine = Counter(
        zip(*(calls[name].tolist() for name in ("op", "action", "addr", "size")), strict=True)
    )
    recorded = Counter(
        zip(
            program.driver_op.tolist(),
            program.driver_action.tolist(),
            program.driver_addr.tolist(),
            program.driver_size.tolist(),
            strict=True,
        )
    )
    missing, extra = recorded - mine, mine - recorded
    assert run.layout is not None
    ends_alike = same_layout(run.layout, program.end)
    wrong, divergence = _first_divergence(program, run, mallocs, placed, missing, extra)
    differs_at = None if wrong == program.n_ops and ends_alike else _entry_at(program, wrong)
    return Exactness(
        device=program.device,
        allocs=len(mallocs),
        allocs_exact=int(placed.sum()),
        segments=recorded.total(),
        segments_exact=recorded.total() - missing.total(),
        segments_extra=extra.total(),
        final_blocks_exact=ends_alike,
        lost_frees=sum(f.count for f in program.findings if f.kind in LOST),
        complete=program.complete,
        divergence=divergence,
        differs_at=differs_at,
    )


def same_layout(a: Layout, b: Layout) -> bool:
    """Whether two layouts hold the same segments and blocks, whatever their order."""
    for x, y, columns in (
        (a.segments, b.segments, ("address", "size", "stream", "is_small", "is_expandable")),
        (a.blocks, b.blocks, ("address", "size", "state")),
    ):
        i, j = np.argsort(x["address"]), np.argsort(y["address"])
        if any(not np.array_equal(x[c][i], y[c][j]) for c in columns):
            return False
    return True


def _first_divergence(
    program: Program,
    run: Run,
    mallocs: np.ndarray,
    placed: np.ndarray,
    missing: Counter[tuple[int, int, int, int]],
    extra: Counter[tuple[int, int, int, int]],
) -> tuple[int, str]:
    """The op of the first difference between a run and its recording, and what it is.

    Without one: the number of ops, and "".
    """
    wrong = mallocs[~placed]
    first_alloc = int(wrong[0]) if len(wrong) else program.n_ops
    calls = sorted(
        [(row, "recorded but not predicted") for row in missing]
        + [(row, "predicted but not recorded") for row in extra]
    )
    if calls and calls[0][0][0] <= first_alloc:
        (op, action, addr, size), what = calls[0]
        name = Action(action).name.lower()
        return op, f"{_place(program, op)}: {name} of {format_bytes(size)} at {addr:#x} {what}"
    if not len(wrong):
        return program.n_ops, ""
    alloc = int(program.arg[first_alloc])
    size = int(program.req_size[program.request[alloc]])
    where = f"{_place(program, first_alloc)}: {format_bytes(size)} recorded at "
    found = int(run.addr[alloc])
    predicted = f"predicted at {found:#x}" if found else "predicted to run out of memory"
    return first_alloc, where + f"{int(program.addr[alloc]):#x}, {predicted}"


def _entry_at(program: Program, op: int) -> int:
    """The entry of an op, or of the next that has one; one beyond the last if none has."""
    known = program.entry[op:][program.entry[op:] >= 0]
    return int(known[0]) if len(known) else int(program.entry.max(initial=-1)) + 1


def _place(program: Program, op: int) -> str:
    entry = int(program.entry[op]) if op < program.n_ops else -1
    return f"entry {entry:,}" if entry >= 0 else f"op {op:,}"

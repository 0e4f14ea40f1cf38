"""Timing: one program through every simulator, in turn, in one process."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from ...policies.native import requests_of
from ...policies.pytorch import PYTORCH
from ...sim.device import Device
from ...sim.packing import Packed, pack
from ...sim.reference import replay_reference
from ...sim.release import Release
from ...sim.replay import replay
from ...sim.requests import Requests
from ...sim.run import Run
from ...sim.settings import Settings
from ...traces.errors import VerificationError
from ...traces.program import Op, Program
from .compiled import CompiledRun, can_time, driver_reason, time_compiled
from .set_simulator import CompilerMissing, SetRun, library, simulate

REFERENCE_OPS = 5_000  # a plain-Python replay of more takes too long


@dataclass(frozen=True)
class Case:
    """A program under one line.

    Attributes:
        program: what is replayed.
        packed: its events, packed once; packing is not part of any time.
        settings, requests: the line, and what it makes of the program's requests.
    """

    name: str
    program: Program
    packed: Packed
    settings: Settings
    requests: Requests

    @property
    def events(self) -> int:
        """Mallocs and frees; a free that pends and its completion are one."""
        return int(np.isin(self.program.op, (Op.MALLOC, Op.FREE, Op.FREE_LATER, Op.TRY)).sum())


@dataclass(frozen=True)
class Speed:
    """Cost of one case; nanoseconds of processor time per event, medians.

    Attributes:
        events: mallocs and frees.
        tightfit_ns: a whole replay() of the packed program, every event played: plan and state
            included.
        skipping_ns: the same with repetitions skipped, the search for them not included.
        cpp_set_ns: the events alone; None = no C++ compiler.
        pytorch_ns: PyTorch's compiled allocator, the calls alone; None = not at hand, or the
            program is not made of mallocs and frees in the default pools alone.
        reference_ns: the plain-Python referee on the program's beginning; None = not run.
        memory_bytes: what a replay allocates at most, beside the packed program.
    """

    events: int
    tightfit_ns: float
    skipping_ns: float
    cpp_set_ns: float | None
    pytorch_ns: float | None
    reference_ns: float | None
    memory_bytes: int

    @property
    def ratio(self) -> float | None:
        """How many times faster than the C++ simulator."""
        return None if self.cpp_set_ns is None else self.cpp_set_ns / self.tightfit_ns

    @property
    def pytorch_ratio(self) -> float | None:
        """How many times faster than PyTorch's allocator."""
        return None if self.pytorch_ns is None else self.pytorch_ns / self.tightfit_ns


def make_case(name: str, program: Program, settings: Settings, rules: Release) -> Case:
    """Pack a program and work out its requests."""
    requests = requests_of(program, settings, rules, Device())
    return Case(name, program, pack(program), settings, requests)


def measure(case: Case, rules: Release, runs: int, slow: bool = True) -> Speed:
    """Time a case in every simulator, the fast ones in turn.

    Args:
        case: what to replay, on a device that never runs out.
        rules: the release.
        runs: how often each is run; the first run of each is extra and not counted.
        slow: also run PyTorch's allocator, as often, and the plain-Python referee, once.

    Raises:
        VerificationError: two simulators disagree.
    """
    ours, skipping, theirs, compiled = [], [], [], []
    has_compiled = slow and can_time(case.program) and not driver_reason()
    for k in range(runs + 1):
        start = time.thread_time_ns()
        run = replay(case.packed, PYTORCH, case.requests, skip=False)
        middle = time.thread_time_ns()
        short = replay(case.packed, PYTORCH, case.requests)
        end = time.thread_time_ns()
        if short.stats != run.stats:
            raise VerificationError(f"bench {case.name}: skipping changes the answer")
        other = _set_run(case)
        if other is not None:
            _agree(case, run, other, "the C++ simulator")
        real = time_compiled(case.packed, case.settings) if has_compiled else None
        if real is not None:
            _agree(case, run, real, "PyTorch's allocator")
        if k:
            ours.append(middle - start)
            skipping.append(end - middle)
            theirs.append(other.nanoseconds if other else 0)
            compiled.append(real.nanoseconds if real else 0)
    n = max(1, case.events)
    return Speed(
        events=case.events,
        tightfit_ns=statistics.median(ours) / n,
        skipping_ns=statistics.median(skipping) / n,
        cpp_set_ns=statistics.median(theirs) / n if any(theirs) else None,
        pytorch_ns=statistics.median(compiled) / n if any(compiled) else None,
        reference_ns=_reference_ns(case, rules) if slow else None,
        memory_bytes=_memory_bytes(case),
    )


def compiler_reason() -> str:
    """Why there is no C++ column; "" if there is one."""
    try:
        library()
    except CompilerMissing as error:
        return str(error)
    return ""


def _set_run(case: Case) -> SetRun | None:
    try:
        return simulate(case.packed, case.requests)
    except CompilerMissing:
        return None


def _agree(case: Case, run: Run, other: SetRun | CompiledRun, name: str) -> None:
    """Speed means something only if the answers are the same."""
    for key in ("reserved_bytes.all.peak", "num_device_alloc", "num_device_free", "num_ooms"):
        if run.stats[key] != other.stats[key]:
            raise VerificationError(
                f"bench {case.name}: {key} is {run.stats[key]:,} by tightfit, "
                f"{other.stats[key]:,} by {name}, expected the same"
            )


def _reference_ns(case: Case, rules: Release) -> float:
    """One replay of the program's first ops by the plain-Python referee."""
    program = case.program
    n = min(program.n_ops, REFERENCE_OPS)
    first = replace(program, op=program.op[:n], arg=program.arg[:n], entry=program.entry[:n])
    start = time.thread_time_ns()
    replay_reference(first, case.settings, rules)
    return (time.thread_time_ns() - start) / max(1, n)


def replay_afresh(case: Case) -> Run:
    """Play every event in a thread that has no state of an earlier run to use again."""
    with ThreadPoolExecutor(1) as fresh:
        return fresh.submit(replay, case.packed, PYTORCH, case.requests, skip=False).result()


def _memory_bytes(case: Case) -> int:
    tracemalloc.start()
    try:
        replay_afresh(case)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

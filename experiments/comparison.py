"""Comparing: every policy on every recording, and the bound that none can pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ..policies.contender import BASELINE, Contender, contender, names
from ..policies.live_bytes import peak_live_bytes
from ..sim.device import Device
from ..sim.packing import Packed
from ..sim.release import Release
from ..sim.run import Run
from ..traces.recording import Finding
from .subject import Subject

# What no policy can go below, the weakest first: label, source, bytes of a packed program.
BOUNDS: tuple[tuple[str, str, Callable[[Packed], int]], ...] = (
    ("peak live bytes", "the program holds that much at once", peak_live_bytes),
)


@dataclass(frozen=True)
class Row:
    """One policy, or one bound, on one recording; simulated.

    Attributes:
        policy: as the user wrote it; for a bound its name.
        role: "bound", "baseline" or "policy".
        source: the paper or the code that it follows.
        peak_reserved_bytes: on the device asked about; None if it ran out of memory there.
        above_bound: share by which that exceeds the peak of live bytes.
        peak_allocated_bytes: most bytes in blocks handed out, until the end or the failure.
        device_allocs, device_frees, alloc_retries: successful driver calls, second attempts.
        ooms: 1 if it ran out of memory; the replay ends there.
        first_oom_event: recorded entry at which it did; None = it did not.
        first_oom_bytes: what was asked for then.
        ignores: what the program has that the policy does not honour.
    """

    policy: str
    role: str
    source: str
    peak_reserved_bytes: int | None
    above_bound: float | None
    peak_allocated_bytes: int | None = None
    device_allocs: int | None = None
    device_frees: int | None = None
    alloc_retries: int | None = None
    ooms: int = 0
    first_oom_event: int | None = None
    first_oom_bytes: int | None = None
    ignores: tuple[str, ...] = ()


@dataclass(frozen=True)
class TraceRows:
    """All rows of one device of one recording: bounds, then policies, the least memory first."""

    trace: str
    device: int
    events: int
    rows: list[Row]

    @property
    def baseline(self) -> Row:
        return next(r for r in self.rows if r.role == "baseline")

    @property
    def best(self) -> Row | None:
        """The policy that reserves least; None if all ran out of memory."""
        return next((r for r in self.rows if r.role != "bound" and not r.ooms), None)


def contenders(asked: Sequence[str], rules: Release) -> list[Contender]:
    """The policies asked for, or the whole catalogue; the baseline is always one of them.

    Raises:
        PolicyError: one of them does not exist, or has unacceptable parameters.
    """
    found = [contender(text, rules) for text in (asked or names())]
    if not any(c.is_baseline for c in found):
        found.insert(0, contender(BASELINE, rules))
    return list({c.label: c for c in found}.values())


def compare_all(
    subjects: Sequence[Subject],
    policies: Sequence[Contender],
    gpu: Device,
    advance: Callable[[], None] = lambda: None,
) -> list[TraceRows]:
    """Measure every policy on every subject, on all cores.

    Memory that was live before recording began is placed anew by every policy, so that all start
    equal.
    """
    packed = [s.anew if s.is_warm else s.kept for s in subjects]
    bounds = [
        [Row(label, "bound", source, size(p), None) for label, source, size in BOUNDS]
        for p in packed
    ]
    todo = [(k, policy) for k in range(len(subjects)) for policy in policies]

    def work(item: tuple[int, Contender]) -> tuple[int, Row]:
        k, policy = item
        run = policy.replay(packed[k], gpu)
        return k, _row(subjects[k], policy, gpu, run, bounds[k][0].peak_reserved_bytes or 0)

    measured: list[list[Row]] = [[] for _ in subjects]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            for k, row in pool.map(work, todo):
                measured[k].append(row)
                advance()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    out = []
    for k, subject in enumerate(subjects):
        rows = sorted(measured[k], key=lambda r: (r.ooms, r.peak_reserved_bytes or 0))
        out.append(TraceRows(subject.name, subject.device, len(packed[k].events), bounds[k] + rows))
    return out


def _row(subject: Subject, policy: Contender, gpu: Device, run: Run, bound: int) -> Row:
    stats = run.stats
    failed = stats["num_ooms"] + stats["num_oom_rejections"] > 0
    peak = None if failed else stats["reserved_bytes.all.peak"]
    event = None
    if failed:
        event = int(subject.program.entry[run.first_oom_op]) if run.first_oom_op >= 0 else 0
    return Row(
        policy=policy.label,
        role="baseline" if policy.is_baseline else "policy",
        source=policy.source,
        peak_reserved_bytes=peak,
        above_bound=peak / bound - 1 if peak is not None and bound else None,
        peak_allocated_bytes=stats["allocated_bytes.all.peak"],
        device_allocs=stats["num_device_alloc"],
        device_frees=stats["num_device_free"],
        alloc_retries=stats["num_alloc_retries"],
        ooms=int(failed),
        first_oom_event=event,
        first_oom_bytes=run.first_oom_bytes if failed else None,
        ignores=tuple(policy.ignores(subject.program, gpu)),
    )


def notes_on_mismatches(traces: Sequence[TraceRows]) -> list[Finding]:
    """What policies do not honour, said once for each recording."""
    return [
        Finding("not_honoured", 1, text, t.device)
        for t in traces
        for row in t.rows
        for text in row.ignores
    ]

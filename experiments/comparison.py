"""Comparing: every policy on every recording, the bound none can pass, and the best packing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from threading import Lock

from ..policies.contender import BASELINE, Contender, contender, names
from ..sim.costs import Cost
from ..sim.device import Device
from ..sim.release import Release
from ..traces.errors import ConfigError
from ..traces.recording import Finding
from ..traces.units import format_bytes
from .recorded_start import recorded_failure
from .row import Row, bound_rows, packing_row, row_of, smallest_of
from .share_out import share_out
from .smallest import CAPACITY_STEP, with_smallest
from .subject import Subject

SECONDS = 2.0  # for the search of one recording's packing, unless the user says otherwise


@dataclass(frozen=True)
class TraceRows:
    """All rows of one device of one recording: bounds, then policies, the least memory first.

    Of those that reserve the same the baseline comes first.
    """

    trace: str
    device: int
    events: int
    rows: list[Row]

    @property
    def baseline(self) -> Row:
        return next(r for r in self.rows if r.role == "baseline")

    @property
    def best(self) -> Row | None:
        """The policy that reserves least and could run; None if all ran out of memory."""
        able = ("baseline", "policy")
        return next((r for r in self.rows if r.role in able and not r.ooms), None)


def contenders(asked: Sequence[str], rules: Release) -> list[Contender]:
    """The policies asked for, or the whole catalogue; the baseline is always one of them.

    Raises:
        PolicyError: one of them does not exist, or has unacceptable parameters.
    """
    found = [contender(text, rules) for text in (asked or names())]
    if not any(c.is_baseline for c in found):
        found.insert(0, contender(BASELINE, rules))
    return list({c.label: c for c in found}.values())


def without_foresight(
    policies: Sequence[Contender], asked: bool
) -> tuple[list[Contender], list[Finding]]:
    """Of some policies those that a long trace can be replayed through, and what to say of it.

    Raises:
        ConfigError: a policy that the user asked for is told of the whole program beforehand.
    """
    told = [c.label for c in policies if c.knows]
    if told and asked:
        raise ConfigError(
            f"--policy: {told[0]} is told of the whole program beforehand, and a long trace is "
            "never in memory as a whole"
        )
    text = "a long trace is never in memory as a whole: no offline packing was searched for"
    text += f", and {', '.join(told)} were left out" if told else ""
    return [c for c in policies if not c.knows], [Finding("long", 1, text)]


def compare_all(
    subjects: Sequence[Subject],
    policies: Sequence[Contender],
    gpu: Device,
    advance: Callable[[], None] = lambda: None,
    packing_seconds: float = SECONDS,
    costs: dict[str, Cost] | None = None,
    smallest: bool = False,
) -> list[TraceRows]:
    """Measure every policy on every subject, on all cores.

    Memory that was live before recording began is placed anew by every policy, so that all start
    equal.

    Args:
        subjects: the recordings.
        policies: who is measured.
        gpu: the device.
        advance: called after each policy and each packing.
        packing_seconds: for the search of each recording's packing; 0 = no such row.
        costs: what the driver's calls take; None = the shipped table.
        smallest: find the smallest device of each, too.
    """
    packed = [s.anew if s.is_warm else s.kept for s in subjects]
    bounds = [bound_rows(p) for p in packed]
    todo = [(k, policy) for k in range(len(subjects)) for policy in policies]

    measured: list[list[Row]] = [[] for _ in subjects]
    lock = Lock()

    def work(item: tuple[int, Contender]) -> None:
        k, policy = item
        run = policy.replay(packed[k], gpu)
        bound = bounds[k][0].peak_reserved_bytes or 0
        row = row_of(subjects[k], policy, gpu, run, bound, costs)
        if smallest:
            row = with_smallest(row, smallest_of(policy, packed[k], gpu))
        with lock:
            measured[k].append(row)
            advance()

    share_out(work, todo, waits=False)
    place = {policy.label: k for k, policy in enumerate(policies)}
    out = []
    for k, subject in enumerate(subjects):
        # equals stand as they were asked for, behind the baseline: who is no better does not win
        measured[k].sort(key=lambda r: (r.role != "baseline", place[r.policy]))
        rows = sorted(measured[k], key=lambda r: (r.ooms, r.peak_reserved_bytes or 0))
        if packing_seconds > 0:
            bounds[k].append(packing_row(packed[k], packing_seconds, bounds[k][0]))
            advance()
        out.append(TraceRows(subject.name, subject.device, len(packed[k].events), bounds[k] + rows))
    return out


def notes_on_mismatches(traces: Sequence[TraceRows]) -> list[Finding]:
    """How good the packing is, and what policies do not honour; of several recordings, in which."""
    out = []
    several = len({t.trace for t in traces}) > 1
    for t in traces:
        where = f"{PurePath(t.trace).name}: " if several else ""
        for kind, text in remarks(t):
            more = "; --packing gives the search more time" if text.endswith(" lowest") else ""
            out.append(Finding(kind, 1, where + text + more, t.device))
    return out


def notes_on_recordings(subjects: Sequence[Subject], rules: Release, gpu: Device) -> list[Finding]:
    """What was noticed in the recordings, and what became of memory live at their start."""
    out = []
    several = len({s.name for s in subjects}) > 1
    for s in subjects:
        where = f"{PurePath(s.name).name}: " if several else ""
        for f in s.program.findings:
            out.append(Finding(f.kind, f.count, where + f.text, f.device))
        if s.is_warm:
            text = "memory that was live before recording began is placed anew by every policy"
            failed = recorded_failure([s], rules, gpu)
            if failed is not None:
                text += (
                    "; where it was recorded, the recorded settings run out of memory at entry "
                    f"{failed:,}: see replay"
                )
            out.append(Finding("start", 1, where + text, s.device))
    return out


def remarks(trace: TraceRows) -> list[tuple[str, str]]:
    """What must be said beside a recording's rows: a kind, and a sentence."""
    out = []
    for row in trace.rows:
        if row.proven_bytes is not None:
            out.append(("packing", _packing_words(row)))
        out += [("not_honoured", text) for text in row.ignores]
    out += _smallest_words(trace.rows)
    return list(dict.fromkeys(out))  # a policy with several values says so once


def _smallest_words(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What is not as simple as a smallest device sounds."""
    out = []
    found = [(r.policy, r.min_capacity_bytes, r.sure_capacity_bytes) for r in rows]
    sure = [
        f"{policy} up to {format_bytes(sure - CAPACITY_STEP)}"
        for policy, least, sure in found
        if least is not None and sure is not None and sure > least
    ]
    if sure:
        text = f"GPUs larger than the smallest are not always enough: {', '.join(sure)}"
        out.append(("not_monotone", text))
    bisected = [
        r.policy for r in rows if r.min_capacity_bytes is not None and not r.min_capacity_proven
    ]
    if bisected:
        text = f"smallest GPU bisected, not every smaller size tried: {', '.join(bisected)}"
        out.append(("bisected", text))
    return out


def _packing_words(row: Row) -> str:
    least, found = row.proven_bytes or 0, row.peak_reserved_bytes or 0
    if found == least:
        return f"{row.policy}: no packing in multiples of 512 bytes is lower"
    gap = found / least - 1 if least else 0.0
    share = f"{gap:.2%}" if gap >= 5e-5 else "0.01%"
    return (
        f"{row.policy}: no packing in multiples of 512 bytes is below {format_bytes(least)}, so "
        f"this one is within {share} of the lowest"
    )

"""What no recording shows, and where in a program it first mattered.

Each of these is found by holding what the real allocator did under A against what it did under B:
the thing left no trace in the recording made under A and had an effect under B. Nothing is
excluded because a prediction was wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...policies.native import round_sizes
from ...sim.release import Release
from ...sim.run import Run
from ...sim.settings_line import parse_settings
from ...traces.event import Action
from ...traces.program import Op, Program
from ..unseen_notes import (
    ABOUT_CAPTURE,
    ABOUT_COMPLETION,
    ABOUT_EMPTY_CACHE,
    ABOUT_FAILED_SIZE,
    ABOUT_POOL,
    ABOUT_POOL_RELEASE,
)
from .commands import Case, Code
from .defects import RETURNS
from .run import AFTER_WAIT, Answer
from .translate import Translated
from .triples import Reality

NOTHING = "a program that ended before anything was allocated"
EMPTY = "an empty_cache that released nothing"
POOL_RELEASE = "when a private pool lost its last user"
CAPTURE_EMPTY = "that an empty_cache was called during a capture"
CAPTURE_OOM = "that memory ran out during a capture"
COMPLETION = "why a free completed: by itself, or because everything was waited for"
ORDER = "the order in which one call completes several frees (it follows host addresses)"
POOL = "which private pool memory came from (until 2.11)"
FAILED_POOL = "which private pool a request that failed was for (until 2.11)"
FAILED_SIZE = "the exact size of a request that failed"
# Name -> the kind of note that `tightfit replay` gives about it.
NOTES = {
    EMPTY: ABOUT_EMPTY_CACHE,
    POOL_RELEASE: ABOUT_POOL_RELEASE,
    CAPTURE_EMPTY: ABOUT_CAPTURE,
    CAPTURE_OOM: ABOUT_CAPTURE,
    COMPLETION: ABOUT_COMPLETION,
    ORDER: ABOUT_COMPLETION,
    POOL: ABOUT_POOL,
    FAILED_POOL: ABOUT_FAILED_SIZE,
    FAILED_SIZE: ABOUT_FAILED_SIZE,
}


@dataclass(frozen=True)
class Unseen:
    """Something that the recording does not show.

    Attributes:
        name: what.
        command: the first command whose effects depend on it.
    """

    name: str
    command: int

    @property
    def note(self) -> str:
        """The kind of note that `tightfit replay` must give."""
        return NOTES[self.name]


@dataclass(frozen=True)
class Told:
    """One case as the simulator retells it; its events are the real ones, with pools.

    Attributes:
        translated, run: the retelling.
    """

    translated: Translated
    run: Run

    def returns(self) -> list[tuple[int, int]]:
        """Return (command, pool) of everything that went back to the driver."""
        rows = self.run.events[np.isin(self.run.events["action"], RETURNS)]
        command = self.translated.command[rows["op"]]
        return list(zip(command.tolist(), rows["pool"].tolist(), strict=True))


def find_unseen(
    reality: Reality, rules: Release, told_a: Told, told_b: Told, program: Program
) -> list[Unseen]:
    """Return everything that mattered and that the recording does not show, earliest first.

    Args:
        reality: what happened under A and B.
        rules: the release.
        told_a, told_b: the runs under A and B, retold.
        program: what was lifted from the recording.
    """
    found = [
        *_empty_caches(reality, rules),
        *_captures(reality, rules),
        *_pool_releases(reality, told_a, told_b),
        *_completions(reality),
        # Elsewhere it decides about no block, only about counters that are left open then.
        *(_orders(reality) if rules.tie_break == "block" else ()),
        *_pools(reality, rules, told_a, program),
        *_failed_size(reality, rules),
    ]
    return sorted(found, key=lambda u: u.command)


def in_context(case: Case, rules: Release) -> np.ndarray:
    """Return for each command whether it stands in capture context; shape (n,) bool."""
    code = case.commands["code"]
    opens = code == Code.CAPTURE_BEGIN
    closes = code == Code.CAPTURE_END
    if rules.capture_means_any_scope:
        opens = opens | (code == Code.SCOPE_BEGIN)
        closes = closes | (code == Code.SCOPE_END)
    return np.cumsum(opens.astype(int) - closes.astype(int)) > 0


def _commands_with(answer: Answer, *actions: int) -> set[int]:
    rows = answer.trace
    return set(rows["command"][np.isin(rows["action"], actions)].tolist())


def _empty_caches(reality: Reality, rules: Release) -> list[Unseen]:
    shown = _commands_with(reality.a, *RETURNS)
    mattered = _commands_with(reality.whole, *RETURNS, Action.FREE_COMPLETED)
    calls = np.flatnonzero(reality.recorded.commands["code"] == Code.EMPTY).tolist()
    found = [Unseen(EMPTY, i) for i in calls if i in mattered and i not in shown]
    context = in_context(reality.recorded, rules)
    return found + [Unseen(CAPTURE_EMPTY, i) for i in calls if i in shown and context[i]]


def _captures(reality: Reality, rules: Release) -> list[Unseen]:
    """Out-of-memory errors in a capture: outside one, cached memory is given back before them.

    Not what throw_on_cudamalloc_oom rejects: that ends before anything is given back, anywhere.
    """
    context = in_context(reality.program, rules)
    return [Unseen(CAPTURE_OOM, i) for i in _commands_with(reality.whole, Action.OOM) if context[i]]


def _pool_releases(reality: Reality, told_a: Told, told_b: Told) -> list[Unseen]:
    commands = reality.recorded.commands
    released = {
        int(commands["id"][i]): i for i in np.flatnonzero(commands["code"] == Code.RELEASE).tolist()
    }
    shown: dict[int, int] = {}
    for command, pool in told_a.returns():
        if command >= released.get(pool, len(commands)):
            shown.setdefault(pool, command)
    return [
        Unseen(POOL_RELEASE, command)
        for command, pool in told_b.returns()
        if released.get(pool, len(commands)) <= command < shown.get(pool, len(commands) + 1)
    ]


def completions(case: Case, answer: Answer) -> dict[int, tuple[int, bool]]:
    """Return for each allocation freed the command in which that completed, and if by waiting."""
    ids = case.commands["id"].tolist()
    pending: dict[int, int] = {}
    done: dict[int, tuple[int, bool]] = {}
    rows = answer.trace
    for command, action, addr, flags in zip(
        *(rows[c].tolist() for c in ("command", "action", "addr", "flags")), strict=True
    ):
        if action == Action.FREE_REQUESTED:
            pending[addr] = ids[command]
        elif action == Action.FREE_COMPLETED:
            done[pending.pop(addr)] = command, bool(flags & AFTER_WAIT)
    return done


def _completions(reality: Reality) -> list[Unseen]:
    """Frees that B does not complete at the same time as A, and not by waiting earlier either."""
    a = completions(reality.recorded, reality.a)
    b = completions(reality.program, reality.whole)
    never = len(reality.program.commands), False
    gave_back = _commands_with(reality.a, *RETURNS, Action.OOM)
    last = int(reality.recorded.commands["id"][-1]) if len(reality.recorded.commands) else -1
    found = []
    for allocation in a.keys() | b.keys():
        at_a, waited_a = a.get(allocation, never)
        at_b, waited_b = b.get(allocation, never)
        # In a malloc that gave memory back, too, those it waited for look like the others.
        forced_a = waited_a or at_a in gave_back
        predictable = at_b <= at_a if waited_b else at_a == at_b and not forced_a
        at = _malloc(reality.program, allocation)
        if allocation not in b and reality.whole.returned[at] == 0:
            predictable = True  # it failed under B: there is nothing to free
        if allocation == last and recorded_failure(reality) is not None:
            predictable = True  # the request that failed under A, freed at once under B
        if not predictable:
            found.append(Unseen(COMPLETION, min(at_a, at_b)))
    return found


def _orders(reality: Reality) -> list[Unseen]:
    """Calls in which A and B complete the same frees in different orders."""
    in_a, in_b = (
        _completed_by_command(case, answer)
        for case, answer in ((reality.recorded, reality.a), (reality.program, reality.whole))
    )
    found = []
    for command in in_a.keys() & in_b.keys():
        a, b = in_a[command], in_b[command]
        both = set(a) & set(b)
        if [k for k in a if k in both] != [k for k in b if k in both]:
            found.append(Unseen(ORDER, command))
    return found


def differ_in_order(reality: Reality) -> bool:
    """Whether some call completes the same frees in different orders under A and B.

    Like other accidents of order it shows in the accumulators of inactive_split, and, in 2.12, in
    which of two equal blocks is taken.
    """
    return bool(_orders(reality))


def _completed_by_command(case: Case, answer: Answer) -> dict[int, list[int]]:
    out: dict[int, list[int]] = {}
    for allocation, (command, _) in completions(case, answer).items():  # in the order of the trace
        out.setdefault(command, []).append(allocation)
    return out


def _malloc(case: Case, allocation: int) -> int:
    commands = case.commands
    asked = (commands["code"] == Code.MALLOC) & (commands["id"] == allocation)
    return int(np.flatnonzero(asked)[0])


def _pools(reality: Reality, rules: Release, told_a: Told, program: Program) -> list[Unseen]:
    if rules.version >= (2, 12):
        return []
    true = told_a.translated.program
    requests = [*program.request.tolist(), *program.arg[program.op == Op.TRY].tolist()]
    wanted = [*true.request.tolist(), *true.arg[true.op == Op.TRY].tolist()]
    asked = np.array([b for _, b in true.pools])[true.req_pool[wanted]]
    read = np.array([max(p) for p in program.pools])[program.req_pool[requests]]
    n = min(len(asked), len(read))
    wrong = np.flatnonzero(asked[:n] != read[:n])[:1].tolist()
    mallocs = [*told_a.translated.malloc.tolist(), len(reality.recorded.commands) - 1]
    return [Unseen(POOL if k < len(program.request) else FAILED_POOL, mallocs[k]) for k in wrong]


def _failed_size(reality: Reality, rules: Release) -> list[Unseen]:
    """The entry of a failure has the size as A rounded it; B may round the request otherwise."""
    oom = recorded_failure(reality)
    if oom is None:
        return []
    divisions = parse_settings(reality.program.conf, rules).roundup_divisions
    sizes = np.array([int(reality.recorded.commands["size"][-1]), oom])
    true, read = round_sizes(sizes, divisions).tolist()
    return [] if true == read else [Unseen(FAILED_SIZE, len(reality.recorded.commands) - 1)]


def recorded_failure(reality: Reality) -> int | None:
    """Return the rounded size of the failed request that ends the recording, None without one."""
    trace = reality.a.trace
    if not len(trace) or trace["action"][-1] != Action.OOM:
        return None
    return int(trace["size"][-1])

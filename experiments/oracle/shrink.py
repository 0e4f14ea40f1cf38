"""Make a case that shows a difference as small as it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ...sim.release import Release
from ...sim.settings_line import parse_settings
from ...traces.errors import PolicyError
from .commands import Case, Code

MOST_TRIALS = 1500


def shrink(case: Case, rules: Release, differs: Callable[[Case], bool]) -> Case:
    """Return a smallest case found that still differs: fewer commands, then fewer settings.

    Args:
        case: one that differs.
        rules: the release whose lines the settings line must remain.
        differs: whether the simulator and the real allocator disagree about a case.
    """
    trials = 0

    def still(candidate: Case) -> bool:
        nonlocal trials
        trials += 1
        return trials <= MOST_TRIALS and differs(candidate)

    while True:
        size = len(case.commands), len(case.conf)
        case = _shrink_commands(case, still)
        case = _shrink_line(case, rules, still)
        if size == (len(case.commands), len(case.conf)):
            return case


def _shrink_commands(case: Case, still: Callable[[Case], bool]) -> Case:
    """Remove ever smaller pieces, from the end to the beginning (delta debugging)."""
    piece = len(case.commands) // 2
    while piece:
        end = len(case.commands)
        while end > 0:
            keep = np.ones(len(case.commands), bool)
            keep[max(0, end - piece) : end] = False
            candidate = case.with_commands(repaired(case.commands[keep]))
            if len(candidate.commands) < len(case.commands) and still(candidate):
                case = candidate
            end = min(end - piece, len(case.commands))
        piece //= 2
    return case


def _shrink_line(case: Case, rules: Release, still: Callable[[Case], bool]) -> Case:
    """Remove keys from the settings line."""
    for line in _shorter_lines(case.conf):
        try:
            parse_settings(line, rules)
        except PolicyError:
            continue
        candidate = replace(case, conf=line)
        if still(candidate):
            return _shrink_line(candidate, rules, still)
    return case


def _shorter_lines(line: str) -> Iterator[str]:
    """Yield the line without one of its keys; commas inside brackets separate nothing."""
    words, depth, start = [], 0, 0
    for i, sign in enumerate(line + ","):
        depth += (sign == "[") - (sign == "]")
        if sign == "," and not depth:
            words.append(line[start:i].strip())
            start = i + 1
    for k in range(len(words)):
        if words[k]:
            yield ",".join(words[:k] + words[k + 1 :])


def repaired(commands: np.ndarray) -> np.ndarray:
    """Return commands without those that make no sense without others that are gone.

    Frees of what was not allocated, ends of scopes that are not open, a second scope inside the
    first, releases of unknown pools, everything on pools after their release.
    """
    keep = np.zeros(len(commands), bool)
    live: set[int] = set()
    known: set[int] = set()
    released: set[int] = set()
    scope: tuple[int, int] | None = None  # (pool, whether a capture)
    for i, (code, id) in enumerate(
        zip(commands["code"].tolist(), commands["id"].tolist(), strict=True)
    ):
        if code == Code.MALLOC:
            live.add(id)
        elif code in (Code.FREE, Code.RECORD):
            if id not in live:
                continue
            if code == Code.FREE:
                live.remove(id)
        elif code in (Code.SCOPE_BEGIN, Code.CAPTURE_BEGIN):
            if scope is not None or id in released:
                continue
            scope = (id, code == Code.CAPTURE_BEGIN)
            known.add(id)
        elif code in (Code.SCOPE_END, Code.CAPTURE_END):
            if scope != (id, code == Code.CAPTURE_END):
                continue
            scope = None
        elif code == Code.RELEASE:
            if id not in known - released or (scope is not None and scope[0] == id):
                continue
            released.add(id)
        elif code == Code.EMPTY and id and id not in known:
            continue
        keep[i] = True
    return commands[keep]

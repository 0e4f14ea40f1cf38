"""Find out when a program switched expandable segments on or off.

No entry says so. But what is taken from the driver is mapped while they are on and a segment while
they are off, and where blocks are placed in between narrows it down further.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .event import Action
from .program import Op, Program, SettingsCall
from .settings_calls import with_settings_calls

MOST_SWITCHES = 64  # switches; who makes more does not look like a program that switches


@dataclass(frozen=True)
class Switch:
    """Expandable segments are switched.

    Attributes:
        entry: the recorded entry before which they are; the last one possible.
        after: an entry behind which they are; -1 = the start.
        on: whether they are on from then on.
    """

    entry: int
    after: int
    on: bool


def find_switches(program: Program, on_at_end: bool | None) -> tuple[bool | None, list[Switch]]:
    """Find out from the driver's calls whether expandable segments were on.

    Pools of custom allocators never use expandable memory, so a segment of a private pool says
    nothing.

    Args:
        program: as lifted.
        on_at_end: whether they are on in the settings recorded at the end; None = not recorded.

    Returns:
        Whether they were on at first, None if no call tells; and each switch, as late as the calls
        allow.
    """
    op = program.driver_op
    mapped = program.driver_action == Action.SEGMENT_MAP
    asks = np.isin(program.op[op], (Op.MALLOC, Op.TRY))
    request = program.arg[op[asks]]
    served = program.op[op[asks]] == Op.MALLOC
    request[served] = program.request[request[served]]
    is_private = np.zeros(len(op), bool)
    is_private[asks] = program.req_pool[request] > 0
    tells = asks & (mapped | ((program.driver_action == Action.SEGMENT_ALLOC) & ~is_private))
    entries, states = program.entry[op[tells]].tolist(), mapped[tells].tolist()
    first = states[0] if states else None
    if on_at_end is not None and states:
        entries.append(int(program.entry.max(initial=-1)) + 1)
        states.append(on_at_end)
    return first, [
        Switch(entries[k], entries[k - 1], states[k])
        for k in range(1, len(states))
        if states[k] != states[k - 1]
    ]


def narrow_switches(
    program: Program,
    switches: Sequence[Switch],
    line_of: Callable[[bool], str],
    differs_at: Callable[[Program], int | None],
    max_replays: int,
) -> list[Switch]:
    """Move switches forward as far as what was recorded tells.

    One step: where a replay first differs from the recording, a switch must have come before: at
    that entry, or at a request before it that the other state serves otherwise without a sign.

    Args:
        program: as lifted.
        switches: as found.
        line_of: the settings line with expandable segments on or off.
        differs_at: returns the entry at which a replay under the line that holds at first, with the
            recorded driver, first differs from the recording; None = nowhere.
        max_replays: give up after so many.
    """
    best = list(switches)
    asks = program.entry[program.op == Op.MALLOC]
    wrong = differs_at(switching(program, best, line_of))
    replays = 1
    while wrong is not None:
        before = [k for k, s in enumerate(best) if s.after < wrong]
        if not before:
            break
        late = [k for k in before if wrong < best[k].entry]
        k = late[0] if late else before[-1]
        low, high = best[k].after, min(wrong + 1, best[k].entry)
        for entry in asks[(asks > low) & (asks < high)][::-1].tolist():
            if replays >= max_replays:
                return best
            trial = [*best[:k], replace(best[k], entry=entry), *best[k + 1 :]]
            reached = differs_at(switching(program, trial, line_of))
            replays += 1
            if reached is None or reached > wrong:
                best, wrong = trial, reached
                break
        else:
            break
    return best


def switching(
    program: Program, switches: Sequence[Switch], line_of: Callable[[bool], str]
) -> Program:
    """Return the program with its switches as settings calls."""
    calls = [SettingsCall(s.entry, line_of(s.on)) for s in switches]
    return with_settings_calls(program, calls, ", as memory taken from the driver shows")

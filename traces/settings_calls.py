"""Settings calls: a program that sets other allocator settings while it runs.

An engine whose memory pools do not go with expandable segments switches them off and on, say. Such
a call is the program's own: it is made whatever line the process was started with. PyTorch's
history has no entry for it; what `tightfit record` notes of the calls stands in a recording's
settings, under SETTINGS_CALLS:

    {"first": line of the process, "calls": {"0": [[entry of device 0, line], ...]}}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .errors import TraceError
from .program import Op, Program, SettingsCall
from .recording import SETTINGS_CALLS, Finding

SWITCHES = "switches"  # the finding of calls that were inferred, see switches.py
MOST_CALLS = 10_000
_NAMED = 4


def with_settings_calls(
    program: Program, calls: Iterable[SettingsCall], because: str = ""
) -> Program:
    """Return a program that makes these settings calls and no others, and a finding that says so.

    A call stands just before the first op of its entry or of a later one, behind whatever was
    inferred to have happened before that op.

    Args:
        program: as lifted.
        calls: in any order; of several at one entry each is made, in the order given.
        because: what shows that they were made; "" = they are known.

    Raises:
        TraceError: they are too many.
    """
    program = without_settings_calls(program)
    calls = tuple(sorted(calls, key=lambda call: call.entry))
    if len(calls) > MOST_CALLS:
        raise TraceError(f"found {len(calls):,} settings calls, expected at most {MOST_CALLS:,}")
    reached = np.maximum.accumulate(program.entry)
    at = np.searchsorted(reached, [call.entry for call in calls])
    said = [f"{call.line or '(default)'} before entry {call.entry:,}" for call in calls]
    text = (
        f"the program itself sets {'; '.join(said[:_NAMED])}"
        f"{f'; ... {len(said):,} times in all' if len(said) > _NAMED else ''}"
        f"{because}, whatever the line it is started with"
    )
    others = [f for f in program.findings if f.kind != "mixed_segments"]
    kind = SWITCHES if because else SETTINGS_CALLS
    return replace(
        program,
        op=np.insert(program.op, at, int(Op.CHANGE)),
        arg=np.insert(program.arg, at, np.arange(1, len(calls) + 1)),
        entry=np.insert(program.entry, at, -1),
        driver_op=program.driver_op + np.searchsorted(at, program.driver_op, "right"),
        settings_calls=calls,
        complete=program.complete and not because,
        findings=[*others, Finding(kind, len(calls), text, program.device)],
    )


def without_settings_calls(program: Program) -> Program:
    """Return the program without its settings calls."""
    if not program.settings_calls:
        return program
    is_call = program.op == Op.CHANGE
    return replace(
        program,
        op=program.op[~is_call],
        arg=program.arg[~is_call],
        entry=program.entry[~is_call],
        driver_op=program.driver_op - np.cumsum(is_call)[program.driver_op],
        settings_calls=(),
        findings=[f for f in program.findings if f.kind not in (SETTINGS_CALLS, SWITCHES)],
    )


def noted_calls(settings: Mapping[str, Any], device: int) -> list[SettingsCall]:
    """Return the settings calls that a recording's settings name for a device.

    Raises:
        TraceError: what stands under SETTINGS_CALLS is something else.
    """
    noted = settings.get(SETTINGS_CALLS, {"first": "", "calls": {}})
    try:
        if not isinstance(noted["first"], str):
            raise TypeError
        calls = [SettingsCall(entry, line) for entry, line in noted["calls"].get(str(device), [])]
        if any(type(c.entry) is not int or not isinstance(c.line, str) for c in calls):
            raise TypeError
    except (TypeError, KeyError, ValueError, AttributeError):
        raise TraceError(
            f"{SETTINGS_CALLS}: found {str(noted)[:80]}, expected the line at first and, for each "
            "device, pairs of an entry and a line"
        ) from None
    return calls

"""`tightfit info`: what was recorded, before any question is asked of it."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from .options import READER_SECONDS, AsJson, TraceOrLong

if TYPE_CHECKING:
    from .summary import Summary


def info(trace: TraceOrLong, as_json: AsJson = False) -> None:
    """Say what was recorded: peaks, settings, what is missing."""
    from ..traces.load import check_there, load
    from ..traces.long_trace import is_long
    from .screen import announce_compiling, emit_json
    from .summary import summarize

    check_there(trace)
    announce_compiling(READER_SECONDS, loops=())
    # By the name the user knows it by: a stripped recording has none of its own.
    if is_long(trace):
        from .long_info import summarize_long
        from .subject import open_long_trace

        summary = summarize_long(open_long_trace(trace))
    else:
        summary = summarize(load(trace))
    found = replace(summary, name=trace.name)
    if as_json:
        emit_json({"verdict": found.verdict, **vars(found)})
    else:
        show(found, shlex.quote(str(trace)))


def show(found: Summary, path: str) -> None:
    """Print a summary.

    Args:
        found: the summary.
        path: the file as the user would type it.
    """
    from ..traces.units import exact_bytes
    from .owners import MAX_OWNERS
    from .screen import Column, note, say, suggest, table, verdict

    verdict(found.verdict)
    table(
        "",
        [
            "device",
            "allocations",
            "streams",
            "private pools",
            "segments",
            Column("peak requested", "bytes"),
            Column("peak reserved", "bytes"),
            Column("wasted", "%"),
            Column("at the end", "bytes"),
        ],
        [
            [
                "host" if d.device < 0 else str(d.device),
                d.allocations if d.entries else None,
                d.streams,
                d.private_pools,
                d.segments if d.shows_driver else None,
                d.peak_requested_bytes if d.entries else None,
                d.peak_reserved_bytes if d.entries and d.shows_driver else None,
                d.wasted_at_peak,
                d.end_reserved_bytes if d.shows_driver else None,
            ]
            for d in found.devices
        ],
    )
    for d in found.devices:
        name = "host" if d.device < 0 else f"device {d.device}"
        say(f"{name}: {d.completeness}")
        if d.entries:
            say(f"{name}: " + ", ".join(f"{n:,} {a}" for a, n in d.entries.items()))
        if d.out_of_memory is not None:
            say(f"{name}: {d.out_of_memory.words}")
    nothing_said = found.devices and not any(d.shows_driver for d in found.devices)
    say(f"settings: {found.conf or ('(not recorded)' if nothing_said else '(default)')}")
    for key, value in found.settings.items():
        say(f"  {key} = {value}")
    say(f"recorded by: {found.recorded_by.words}")
    owners = [[o.requested_bytes, o.blocks, o.where] for d in found.devices for o in d.owners]
    if owners:
        say()
        owners.sort(key=lambda row: -row[0])
        table(
            "held at the end",
            [Column("in use", "bytes"), "blocks", "allocated at"],
            owners[:MAX_OWNERS],
        )
    note(found.findings)
    if any(d.entries for d in found.devices):
        # Where nothing is known of the allocator's deeds there is nothing to check.
        then = "compare" if nothing_said else "check"
        ended = [d.out_of_memory for d in found.devices if d.device >= 0 and d.out_of_memory]
        least = min((o.capacity_bytes for o in ended if o), default=0)
        room = f" --capacity {exact_bytes(least)}" if least else ""
        why = [f"tightfit explain {path}"] if least else []
        suggest(f"tightfit {then} {path}", *why, f"tightfit tune {path}{room}")
    else:
        say("There is no history to replay: call torch.cuda.memory._record_memory_history() early.")

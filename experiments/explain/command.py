"""`tightfit explain`: exhaustion or fragmentation, who pins the memory, and what frees it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import (
    MAIN_PATH_SECONDS,
    UNITS,
    AsJson,
    Conf,
    Other,
    Then,
    Torch,
    TraceFile,
)

if TYPE_CHECKING:
    from ...sim.device import Device
    from ...traces.recording import Finding
    from ..screen import Cell, Column
    from .explanation import Explanation

_NO_HISTORY = (
    "There is no history to replay: call torch.cuda.memory._record_memory_history() early."
)
_NO_REQUEST = "The history holds no request, so there is nothing to replay: record a longer part."
PLACES_SHOWN, MAPS_SHOWN, PLACES_NAMED = 8, 6, 2


def explain(
    trace: TraceFile,
    conf: Conf = None,
    then: Then = None,
    torch: Torch = None,
    capacity: Annotated[
        str | None,
        typer.Option(
            "--capacity",
            metavar="SIZE",
            help=f"Memory of the simulated device, e.g. 24GiB; {UNITS} (default: what a recorded "
            "run could have that ran out of it; for any other it never runs out).",
            show_default=False,
        ),
    ] = None,
    other: Other = None,
    device: Annotated[
        int | None,
        typer.Option(
            "--device",
            metavar="N",
            help="Which device of the recording (default: the first that runs out of memory, else "
            "the one that reserves most).",
            show_default=False,
        ),
    ] = None,
    at: Annotated[
        int | None,
        typer.Option(
            "--at",
            metavar="ENTRY",
            help="Look at the memory after this recorded entry (default: where memory runs out; "
            "where it does not, what led to the peak of reserved memory).",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say why memory ran out: who pins it, and what frees it.

    Looks at the replay under the line and on the device asked about: without --conf the recorded
    line, without --capacity what a run that failed could have, else a GPU with room for it. Where
    memory does not run out: at what led to the peak.
    """
    from ...traces.load import check_there
    from ..asked_calls import make_calls, parse_then, then_words
    from ..asked_device import device_words, parse_device, torch_words
    from ..line_notes import notes_on
    from ..out_of_memory import advice_on_capacity
    from ..release_fit import find_release
    from ..screen import announce_compiling, progress, say
    from ..subject import load_recording, refuse_long, subjects_of
    from .asked import STEPS, ask, choose
    from .state import explain_state, is_state_only

    gpu = parse_device(capacity, other)
    calls = parse_then(then or [])
    check_there(trace)
    refuse_long(trace, "explain")
    announce_compiling(MAIN_PATH_SECONDS)
    recording = load_recording(trace)
    if is_state_only(recording) and conf is None and capacity is None and at is None and not calls:
        number, found = explain_state(recording, device)
        _tell(found, number, "", "", "", recording.findings, "", gpu, as_json)
        if not as_json:
            say(_NO_REQUEST if recording.devices[number].n_entries else _NO_HISTORY)
        return
    subjects = subjects_of(recording, trace, device)
    make_calls(subjects, calls)
    fit = find_release(subjects, torch)
    with progress(STEPS, "replaying changes") as advance:
        asked = choose(subjects, conf, fit.rules, gpu, at)
        found, under = ask(asked, conf, fit.rules, at, advance)
    line, program = under.settings.conf, asked.subject.program
    notes = [*notes_on(line, fit.rules, asked.gpu), *program.findings]
    if conf is None:
        notes = [*asked.subject.recorded_settings(fit.rules)[1], *notes]
    if asked.gpu.capacity_bytes is None:
        notes += advice_on_capacity([asked.subject])
    if asked.subject.is_warm:
        notes.append(asked.subject.about_start(conf, fit.rules, asked.gpu))
    next_one = f"tightfit tune {shlex.quote(str(trace))}{then_words(then or [])}"
    next_one += device_words(asked.gpu, device) + torch_words(torch)
    name = fit.rules.name
    _tell(found, program.device, line, name, fit.words, notes, next_one, asked.gpu, as_json)


def _tell(
    found: Explanation,
    device: int,
    conf: str,
    torch: str,
    rules: str,
    notes: list[Finding],
    next_one: str,
    gpu: Device,
    as_json: bool,
) -> None:
    """Print an explanation, for people or for programs, and the command to go on with."""
    from ..screen import emit_json, note, say, suggest

    if as_json:
        emit_json(
            {
                "simulated": found.moment != "end",
                "verdict": found.verdict,
                "device": device,
                "conf": conf,
                "torch": torch,
                "torch_found": rules,
                "capacity_bytes": gpu.capacity_bytes,
                "other_bytes": gpu.other_bytes,
                **{k: v for k, v in vars(found).items() if k != "segments"},
                "words": found.words,
                "findings": notes,
            }
        )
        return
    show(found, device)
    if rules:
        say(f"settings: {conf or '(default)'}")
        say(f"rules: {rules}")
    if found.note:
        say(f"note: {found.note}")
    note(notes)
    if next_one:
        suggest(next_one)


def show(found: Explanation, device: int) -> None:
    """Print an explanation's verdict and tables."""
    from ..screen import Column, say, table, verdict

    verdict((f"device {device}: " if device else "") + found.verdict)
    if found.want is not None:
        place = f"stream {found.want.lane.stream}"
        place += ", a private pool" if found.want.lane.pool else ""
        say(f"wanted at {found.want.where}, on {place}")
    table(
        "",
        *_told(
            [
                "where the memory is",
                Column("all", "bytes"),
                "pieces",
                Column("largest", "bytes"),
                Column("in whole segments", "bytes"),
            ],
            [[s.what, s.bytes, s.pieces, s.largest, s.whole] for s in found.shares],
        ),
    )
    if found.kind != "fragmentation":
        say()
        table(
            "who holds memory",
            *_told(
                ["allocated at", "blocks", Column("in use", "bytes"), "never freed"],
                [[h.where, h.blocks, h.bytes, h.never_freed] for h in found.holders[:PLACES_SHOWN]],
            ),
        )
        _others(len(found.holders) - PLACES_SHOWN, "place")
    if found.kind not in ("exhaustion", "limit"):
        _show_pins(found)
        _show_maps(found)
        _show_changes(found)
    for line in found.words:
        say(line)


def _others(n: int, what: str) -> None:
    """Say how many rows a table was cut short by."""
    from ..screen import say

    if n > 0:
        say(f"and {n:,} other {what}{'s' if n > 1 else ''}")


def _told(
    columns: list[str | Column], rows: list[list[Cell]]
) -> tuple[list[str | Column], list[list[Cell]]]:
    """A table without the columns of which nothing is known."""
    kept = [k for k in range(len(columns)) if any(row[k] is not None for row in rows)]
    return [columns[k] for k in kept], [[row[k] for k in kept] for row in rows]


def _show_pins(found: Explanation) -> None:
    from ..screen import Column, say, table

    pins = [p for p in found.pins if p.alone_bytes or p.shared_bytes]
    if pins:
        say()
        table(
            "who pins free memory: blocks in use beside it",
            *_told(
                [
                    "allocated at",
                    "blocks",
                    Column("in use", "bytes"),
                    Column("pins alone", "bytes"),
                    Column("pins with others", "bytes"),
                    "never freed",
                ],
                [
                    [p.where, p.blocks, p.bytes, p.alone_bytes, p.shared_bytes, p.never_freed]
                    for p in pins[:PLACES_SHOWN]
                ],
            ),
        )
        _others(len(pins) - PLACES_SHOWN, "place")


def _show_maps(found: Explanation) -> None:
    from ..screen import Column, say, table
    from .maps import drawn

    lane = found.want.lane if found.want else None
    pinned = [
        s
        for s in found.segments
        if s.free and len(s.blocks) > 1 and (lane is None or s.lane == lane)
    ]
    pinned.sort(key=lambda s: (-s.free, s.address))
    if not pinned:
        return
    say()
    table(
        "segments with most free memory",
        [Column("size", "bytes"), Column("free", "bytes"), "# in use, + partly, . free"],
        [[s.size, s.free, drawn(s)] for s in pinned[:MAPS_SHOWN]],
    )
    _others(len(pinned) - MAPS_SHOWN, "segment")


def _show_changes(found: Explanation) -> None:
    from ..screen import Column, say, table

    if not found.changes:
        if found.note:
            say()
            say("No change was tried: no replay fails here, so none shows what would have helped.")
        elif found.kind == "fragmentation":
            say()
            say("No change that was tried helps.")
        return
    say()
    table(
        "what would have helped; each was replayed",
        *_told(
            [
                "change",
                "blocks",
                Column("size", "bytes"),
                "then",
                Column("peak reserved", "bytes"),
            ],
            [
                ["nothing", None, None, _then(found), found.peak_reserved_bytes],
                *(
                    [
                        _words(c.kind, c.where, c.entry),
                        c.blocks,
                        c.bytes,
                        "it runs" if c.fits else f"out of memory\nat {c.ends_at:,}",
                        c.peak_reserved_bytes,
                    ]
                    for c in found.changes
                ),
            ],
        ),
    )


def _then(found: Explanation) -> str:
    """How it ends with nothing changed."""
    return "it runs" if found.moment != "failed" else f"out of memory\nat {found.entry or 0:,}"


def _words(kind: str, where: tuple[str, ...], entry: int | None) -> str:
    """A change in words, with its places below."""
    said = {
        "hole": "free these, for a hole there:",
        "release": "free these, to give memory back:",
        "own pool": "a MemPool of its own for:",
        "flush": f"empty_cache() once, at entry {entry or 0:,}, before:",
        "first block": "allocate one block and free it, first",
    }[kind]
    rest = len(where) - PLACES_NAMED
    more = [f"  and {rest:,} other place{'s' if rest > 1 else ''}"] if rest > 0 else []
    return "\n".join([said, *(f"  {w}" for w in where[:PLACES_NAMED]), *more])

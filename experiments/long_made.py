"""Long traces that `tightfit workloads` and `tightfit convert` write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sim.packing import pack
from ..traces.errors import ConfigError
from ..traces.history import lift
from ..traces.long_packer import LongPacker
from ..traces.long_program import LongProgram
from ..traces.long_trace import PIECE
from ..traces.long_write import LongWriter
from ..traces.made_up_recording import LACKS
from ..traces.pattern_recording import DESCRIPTIONS
from ..traces.program import Program
from ..traces.recording import Finding, Recording
from ..traces.serving import Workload
from ..traces.synthetic import PIECES, Piece
from ..traces.units import format_bytes
from ..traces.whole_file import replacing

if TYPE_CHECKING:
    from ..traces.requests import Requests

LEFT_OUT = (
    "what the driver did was recorded, but a long trace keeps only what the program asked for: "
    "there is nothing to check a replay against"
)


def write_pattern(
    path: Path,
    name: str,
    events: int,
    seed: int,
    advance: Callable[[int], object],
    piece: int = PIECE,
) -> list[Finding]:
    """Write a pattern of synthetic.py; returns what to say of it.

    Args:
        path: the file, there whole or not at all.
        name: one of PIECES.
        events: allocations and frees together.
        seed: another seed, another run.
        advance: called with a number of events whenever so many more were written.
        piece: as in LongWriter.
    """

    def findings(peak: int) -> list[Finding]:
        text = f"synthetic: {name} ({DESCRIPTIONS[name]}), seed {seed}; peak requested "
        return [Finding("synthetic", events, text + format_bytes(peak))]

    made_from = {"workload": name, "seed": seed, "events": events}
    return _write(path, PIECES[name](events, seed), made_from, events, findings, advance, piece)


def write_workload(
    path: Path,
    name: str,
    requests: Requests,
    events: int,
    seed: int,
    advance: Callable[[int], object],
    piece: int = PIECE,
) -> list[Finding]:
    """Write a workload of serving.py; otherwise as write_pattern."""
    made = Workload(name, requests, events, seed)
    return _write(path, made.pieces(), made.made_from, events, made.findings, advance, piece)


def _write(
    path: Path,
    pieces: Iterator[Piece],
    made_from: dict[str, Any],
    events: int,
    findings: Callable[[int], list[Finding]],
    advance: Callable[[int], object],
    piece: int,
) -> list[Finding]:
    packer = LongPacker()
    with replacing(path) as out:
        writer = LongWriter(out, piece)
        for rows in pieces:
            n = min(len(rows.alloc), events - writer.n)  # a pattern ends with a whole iteration
            made = int(rows.is_malloc[:n].sum())
            writer.add(packer.words(Piece(rows.is_malloc[:n], rows.alloc[:n], rows.size[:made])))
            advance(n)
        program = packer.program()
        said = findings(packer.peak_requested_bytes)
        program.findings = [Finding("no_driver", 1, LACKS), *said]
        name, seed = made_from["workload"], made_from["seed"]
        writer.finish(
            program,
            packer.n_slots,
            packer.max_live,
            settings={"synthetic": f"{name}, seed {seed}, {events:,} events"},
            extra={"synthetic": made_from},
        )
    return program.findings


def write_recording(
    path: Path, recording: Recording, device: int | None, piece: int = PIECE
) -> int:
    """Write one device's program as a long trace; returns the number of its events.

    Args:
        path: the file, there whole or not at all.
        recording: the whole recording.
        device: which device; None = the only one.
        piece: as in LongWriter.

    Raises:
        ConfigError: it has several devices and none was chosen, or not this one.
    """
    have = [d for d in sorted(recording.devices) if d >= 0 and recording.devices[d].n_entries]
    if device not in have and (device is not None or len(have) != 1):
        found = ", ".join(map(str, have)) or "none"
        raise ConfigError(
            f"{recording.name}: found histories of devices {found}; expected one, chosen with "
            "--device"
        )
    chosen = have[0] if device is None else device
    program = lift(recording, chosen)
    if program.settings_calls:
        raise ConfigError(
            f"{recording.name}: found {len(program.settings_calls):,} settings calls of the "
            "program, which a long trace has no place for; expected none"
        )
    shows_driver = recording.devices[chosen].shows_driver
    if shows_driver:
        said = [Finding("no_driver", 1, LEFT_OUT, chosen)]
    else:
        said = [f for f in recording.findings if f.device in (None, chosen)]
    program = replace(program, findings=[*said, *program.findings])
    write_program(path, program, shows_driver, recording.settings, recording.extra, piece)
    return program.n_ops


def write_program(
    path: Path,
    program: Program,
    starts_as_recorded: bool,
    settings: Mapping[str, Any],
    extra: Mapping[str, Any],
    piece: int = PIECE,
) -> None:
    """Write a program that is in memory as a long trace; arguments as in LongTrace."""
    packed = pack(program, keep_start=False)
    long = LongProgram(
        device=program.device,
        op=program.op[:0],
        arg=program.arg[:0],
        entry=program.entry[:0],
        request=program.request[: program.n_start],
        req_size=program.req_size,
        req_stream=program.req_stream,
        req_pool=program.req_pool,
        streams=program.streams,
        pools=program.pools,
        start=program.start,
        complete=program.complete,
        findings=program.findings,
    )
    with replacing(path) as out:
        writer = LongWriter(out, piece)
        writer.add(packed.events)
        writer.add_entries(program.entry)
        writer.finish(
            long, packed.n_slots, packed.max_live, packed.prefix, starts_as_recorded, settings,
            extra,
        )  # fmt: skip

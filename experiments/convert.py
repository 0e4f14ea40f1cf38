"""`tightfit convert` and `tightfit strip`: keep a recording small, or fit to be shown to others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import READER_SECONDS, AsJson, DeviceIndex, Force, NpzFile, TraceFile

if TYPE_CHECKING:
    from ..traces.recording import Recording


@dataclass(frozen=True)
class Written:
    """What became of a recording.

    Attributes:
        source, target: file names.
        entries: trace entries, all devices.
        source_bytes, target_bytes: sizes of the two files.
    """

    source: str
    target: str
    entries: int
    source_bytes: int
    target_bytes: int

    @property
    def bytes_per_entry(self) -> float | None:
        """Size of the new file per entry; None without entries."""
        return self.target_bytes / self.entries if self.entries else None


def convert(
    trace: TraceFile,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The file to write: OUT.npz, or OUT.events, a long trace of one device.",
            show_default=False,
        ),
    ],
    device: DeviceIndex = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a recording in our own small format, losing nothing.

    As OUT.events: what one device's program asked for, and nothing else, for replays that never
    hold it in memory as a whole.
    """
    from ..traces.long_trace import SUFFIX

    if out.suffix.lower() == SUFFIX:
        remark = ": what the program asked for, and nothing else"
        _report(_rewrite_long(trace, out, device, force), remark, as_json)
        return
    if device is not None:
        from ..traces.errors import ConfigError

        raise ConfigError("--device: OUT.npz keeps all devices; only OUT.events holds one")
    _report(rewrite(trace, out, force=force), "", as_json)


def _rewrite_long(trace: Path, out: Path, device: int | None, force: bool) -> Written:
    """Read a recording and write the program of one of its devices as a long trace."""
    from ..traces.long_trace import SUFFIX
    from .outfile import check_output
    from .screen import announce_compiling

    check_output(out, SUFFIX, force)

    from ..traces.load import check_there, load
    from .long_made import write_recording

    check_there(trace)
    announce_compiling(READER_SECONDS, loops=())
    n = write_recording(out, load(trace), device)
    return Written(trace.name, out.name, n, trace.stat().st_size, out.stat().st_size)


def strip(trace: TraceFile, out: NpzFile, force: Force = False, as_json: AsJson = False) -> None:
    """Write a recording without anything that tells of your code."""
    _report(
        rewrite(trace, out, force=force, without_names=True),
        "; sizes and times are still in it",
        as_json,
    )


def rewrite(trace: Path, out: Path, force: bool = False, without_names: bool = False) -> Written:
    """Read a recording and write it in our own format.

    Args:
        trace: any recording that can be read.
        out: the file to write; its name ends in .npz.
        force: whether an existing file may be replaced.
        without_names: whether to remove everything that tells of the user's code first.

    Raises:
        ConfigError: `out` is not acceptable.
        TraceError: `trace` cannot be read.
    """
    from .outfile import check_output
    from .screen import announce_compiling

    check_output(out, ".npz", force)

    from ..traces.load import check_there, load
    from ..traces.store import save

    check_there(trace)
    announce_compiling(READER_SECONDS, loops=())
    recording: Recording = load(trace)
    if without_names:
        from ..traces.strip import strip as without

        recording = without(recording)
    save(recording, out)
    return Written(
        source=trace.name,
        target=out.name,
        entries=sum(part.n_entries for part in recording.devices.values()),
        source_bytes=trace.stat().st_size,
        target_bytes=out.stat().st_size,
    )


def _report(done: Written, remark: str, as_json: bool) -> None:
    from ..traces.units import format_bytes
    from .screen import emit_json, verdict

    if as_json:
        emit_json(done)
        return
    each = done.bytes_per_entry
    verdict(
        f"{done.target}: {format_bytes(done.target_bytes)} instead of "
        f"{format_bytes(done.source_bytes)}"
        + (f", {done.entries:,} entries at {each:.1f} B" if each is not None else "")
        + remark
    )

"""The sheet of a check: every figure as JSON, and what a reader needs as Markdown."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__
from ...traces.units import format_bytes
from ...traces.whole_file import replacing
from .verdict import LineResult, overall


@dataclass(frozen=True)
class Sheet:
    """A check of one trace on one device.

    Attributes:
        trace, trace_sha256: the recording.
        program_notes: how the program that was replayed differs from the recorded one.
        steps: its steps.
        date: when the sheet was written.
        stand_in: the stand-in's profile; "" on a real GPU.
        facts: what the device and its PyTorch said of themselves.
        repeats: processes of V2.
        lines: the results.
        seeds: of everything random: nothing in V0 to V2b is.
    """

    trace: str
    trace_sha256: str
    program_notes: list[str]
    steps: int
    date: str
    stand_in: str
    facts: dict[str, Any]
    repeats: int
    lines: list[LineResult]
    seeds: dict[str, int] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The worst word of all lines."""
        return overall(self.lines)

    @property
    def headline(self) -> str:
        """The verdict in one line; a stand-in is named in it."""
        where = f"stand-in for {self.facts['gpu']}" if self.stand_in else self.facts["gpu"]
        return (
            f"{self.verdict.upper()} on {where}, torch {self.facts['torch']}: {self.trace}, "
            f"{len(self.lines)} lines"
        )

    def document(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "tightfit": __version__,
            "verdict": self.verdict,
            "headline": self.headline,
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)},
            "lines": [
                {"verdict": x.verdict, "reasons": x.reasons, "notes": x.notes}
                | dataclasses.asdict(x)
                for x in self.lines
            ],
        }

    def markdown(self) -> str:
        """What a reader needs."""
        f = self.facts
        out = [
            f"# {self.headline}",
            "",
            f"* trace: `{self.trace}`, sha256 `{self.trace_sha256}`, {self.steps:,} steps",
            f"* device: {'**stand-in**, no GPU: ' if self.stand_in else ''}{f['gpu']}, "
            f"{format_bytes(f['total'])}, {format_bytes(f['total'] - f['free'])} of them taken "
            "before the first allocation",
            f"* torch {f['torch']}, CUDA {f['cuda']}, driver {f['driver'] or 'none'}; {self.date}; "
            f"tightfit {__version__}; nothing random (no seeds)",
            *(f"* {note}" for note in self.program_notes),
            "",
            "| line | verdict | V1 events exact | V2 counters exact | peak reserved, predicted | "
            "measured | smallest limit, predicted | measured |",
            "|---|---|--:|--:|--:|--:|--:|--:|",
        ]
        out += [self._row(line) for line in self.lines]
        for line in self.lines:
            if line.reasons:
                out += ["", f"`{line.conf or '(default)'}` is {line.verdict} because:", ""]
                out += [f"* {reason}" for reason in line.reasons]
        if any(x.placement is not None and x.placement.by_address for x in self.lines):
            out += [
                "",
                f"torch {f['torch']} takes the lowest address of equal free blocks, which only the "
                "driver knows: V1 to V2b are held against the simulation that is told the "
                "addresses each process was given.",
                "",
            ]
            out += [f"* `{x.conf or '(default)'}`: {note}" for x in self.lines for note in x.notes]
        return "\n".join(out) + "\n"

    def _row(self, line: LineResult) -> str:
        p, c, b = line.placement, line.counters, line.budget
        cells = [
            f"`{line.conf or '(default)'}` ({line.role})",
            line.verdict,
            f"{p.events_exact:,} of {p.events:,}" if p else "–",
            f"{c.compared - len(c.wrong)} of {c.compared}, {c.repeats} times" if c else "–",
            format_bytes(line.predicted_peak_bytes),
            format_bytes(c.measured["reserved_bytes.all.peak"]) if c else "–",
            format_bytes(b.predicted) if b and b.predicted is not None else "–",
            format_bytes(b.measured) if b and b.measured is not None else "–",
        ]
        return "| " + " | ".join(cells) + " |"


def write_sheet(sheet: Sheet, folder: Path, stem: str) -> list[Path]:
    """Write STEM.sheet.json and STEM.sheet.md."""
    written = []
    for suffix, text in (
        (".sheet.json", json.dumps(sheet.document(), indent=1) + "\n"),
        (".sheet.md", sheet.markdown()),
    ):
        path = folder / (stem + suffix)
        with replacing(path) as out:
            out.write(text.encode(errors="backslashreplace"))  # a name need not be UTF-8
        written.append(path)
    return written

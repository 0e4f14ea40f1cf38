"""What is measured: the synthetic patterns, and the shipped recordings made long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...sim.release import KNOWN, release
from ...sim.settings import Settings
from ...sim.settings_line import parse_settings
from ...traces.history import lift
from ...traces.load import load
from ...traces.synthetic import PATTERNS
from ...traces.units import KiB
from .tiling import tile
from .timing import Case, make_case

RULES = release(KNOWN[-1])
SETTINGS = {"": Settings(), "_expandable": Settings(expandable_segments=True)}
SHORT = 16 * KiB
LEAST_TIMES = 24  # a recording is repeated so often, however long it is
RECORDINGS = Path(__file__).resolve().parents[2] / "traces" / "data"


def synthetic(n_ops: int) -> Iterator[Case]:
    """Every pattern, with expandable segments off and on."""
    for name, make in PATTERNS.items():
        program = make(n_ops)
        for suffix, settings in SETTINGS.items():
            yield make_case(name + suffix, program, settings, RULES)


def recordings(quick: bool = False) -> list[Path]:
    """The shipped recordings; with `quick` only the short ones."""
    paths = sorted(RECORDINGS.glob("*.npz"))
    return [p for p in paths if not quick or p.stat().st_size < SHORT]


def recorded(n_ops: int, quick: bool = False) -> Iterator[Case]:
    """Shipped recordings under the line each was recorded with, tiled to n_ops ops or more."""
    for path in recordings(quick):
        recording = load(path)
        settings = parse_settings(recording.conf, RULES)
        for device in sorted(recording.devices):
            if recording.devices[device].n_entries:
                once = lift(recording, device)
                program = tile(once, max(n_ops, LEAST_TIMES * once.n_ops))
                yield make_case(path.stem, program, settings, RULES)


def n_cases(quick: bool = False) -> int:
    """Number of cases of both kinds, if each recording has one device."""
    return len(PATTERNS) * len(SETTINGS) + len(recordings(quick))

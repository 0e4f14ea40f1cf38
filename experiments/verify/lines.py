"""Which lines are put to the device, and how they were chosen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...traces.errors import ConfigError
from ...traces.whole_file import replacing
from ..kept import read_back

EXPANDABLE = "expandable_segments:True"


@dataclass(frozen=True)
class Line:
    """A settings line and its part in the check: "default", "expandable", "best", "best without"
    (expandable segments) or "asked"."""

    role: str
    conf: str


def check_line(conf: str, where: str) -> None:
    """See that a line can be put into a process's environment, as text.

    Raises:
        ConfigError: it cannot.
    """
    try:
        conf.encode()
    except UnicodeEncodeError:
        is_text = False
    else:
        is_text = "\0" not in conf
    if not is_text:
        raise ConfigError(
            f"{where}: found {conf[:60]!r}, expected a settings line in UTF-8, e.g. {EXPANDABLE}"
        )


def sha256_of(path: Path) -> str:
    """Return the digest by which a sheet names its trace."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plan_lines(trace: Path, torch: str | None, trials: int = 0) -> list[Line]:
    """Return the default, expandable segments, and the line that tune names; needs optuna.

    Where that is expandable segments alone, the best line without them takes its place.

    Args:
        trace: the recording.
        torch: release whose rules are followed; it should be the one that is to be verified.
        trials: lines proposed beyond the enumerated ones.
    """
    from ...sim.device import Device
    from ..subject import load_subjects
    from ..tuning import find_line

    subjects = load_subjects(trace)
    lines = [Line("default", ""), Line("expandable", EXPANDABLE)]
    for role, without in (("best", ()), ("best without", ("expandable_segments",))):
        found = find_line(subjects, Device(), torch, without, trials)
        if found.interrupted:  # its answer so far is for a person; what follows takes minutes
            raise KeyboardInterrupt
        best = found.best.conf
        if best not in ("", EXPANDABLE):
            return [*lines, Line(role, best)]
    return lines


def write_plan(path: Path, trace: Path, lines: Sequence[Line]) -> None:
    """Write the lines of one trace for a machine that cannot search for them."""
    document = {"trace_sha256": sha256_of(trace), "lines": [asdict(line) for line in lines]}
    with replacing(path) as out:
        out.write((json.dumps(document, indent=1) + "\n").encode())


def read_plan(path: Path, trace: Path) -> list[Line]:
    """Read what write_plan wrote.

    Raises:
        ConfigError: it is no plan, or one for another trace.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        lines = [read_back(Line, row) for row in document["lines"]]
        planned = document["trace_sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        lines, planned = [], ""
    if not lines:
        raise ConfigError(f"{path}: not a plan of tightfit verify --plan; make it anew")
    for line in lines:
        check_line(line.conf, f"{path}: conf")
    if planned != sha256_of(trace):
        raise ConfigError(f"{path}: was made for another trace than {trace.name}; make it anew")
    return lines

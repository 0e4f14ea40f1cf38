"""Settings lines kept as a file, with what each release's compiled parser made of them.

Written with the other golden files, by `golden.py`.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from ...sim.release import release
from .build import build_program
from .parser import Values, ask_parser, left_open
from .wheels import RELEASES, find_wheel
from .wild_lines import wild_line

NAME = "parser_lines.json"
LINES = 400


def write_lines(folder: Path) -> Path:
    """Write the file: the default values of each release, and what each line changes.

    Raises:
        VerificationError: a release cannot be had, built or run.
    """
    rng = random.Random("golden lines")
    lines = ["", *(wild_line(rng, release(rng.choice(RELEASES))) for _ in range(LINES))]
    answers = {
        version: ask_parser(build_program(find_wheel(version), "settings.cpp"), lines)
        for version in RELEASES
    }
    defaults = {version: answers[version][0] or {} for version in RELEASES}
    rows = []
    for k, line in enumerate(lines):
        groups: dict[str, list[str]] = {}
        for version in RELEASES:
            if not left_open(line, release(version)):
                said = json.dumps(_changed(answers[version][k], defaults[version]))
                groups.setdefault(said, []).append(version)
        rows.append([line, [[" ".join(v), json.loads(said)] for said, v in groups.items()]])
    path = folder / NAME
    text = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    head = json.dumps(defaults, separators=(",", ":"))
    path.write_text(f'{{"defaults":{head},"lines":[\n{text}\n]}}\n')
    return path


def read_lines(path: Path) -> list[tuple[str, str, Values | None]]:
    """Return (release, line, values) of each answer; None = refused."""
    kept = json.loads(path.read_text())
    out: list[tuple[str, str, Values | None]] = []
    for line, groups in kept["lines"]:
        for versions, changed in groups:
            for version in versions.split():
                values = None if changed is None else kept["defaults"][version] | changed
                if values is not None:
                    table = values["roundup_power2_divisions"]
                    values = values | {"roundup_power2_divisions": tuple(table)}
                out.append((version, line, values))
    return out


def _changed(values: Values | None, default: Values) -> Values | None:
    if values is None:
        return None
    return {name: value for name, value in values.items() if value != default.get(name)}

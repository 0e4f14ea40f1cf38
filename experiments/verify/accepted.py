"""V0: does the release's own parser accept the lines? Needs no device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...sim.release import NEWEST, release
from ...sim.settings_line import parse_settings
from ...traces.errors import PolicyError, VerificationError
from .lines import Line


@dataclass(frozen=True)
class Accepted:
    """V0 of some lines.

    Attributes:
        torch: the release.
        parser: whose answer it is, in words.
        refused: line -> why; lines that are not in it were accepted.
    """

    torch: str
    parser: str
    refused: dict[str, str]


def accept_lines(lines: Sequence[Line], torch: str) -> Accepted:
    """Put lines to the compiled parser of a release, if its libraries are at hand; else to ours.

    Args:
        lines: what is asked.
        torch: the release, e.g. "2.11" or "2.15.0".
    """
    from ..oracle.build import build_program
    from ..oracle.parser import ask_parser
    from ..oracle.wheels import RELEASES, find_wheel

    rules = release(torch)
    ours = {line.conf: _our_refusal(line.conf, torch) for line in lines}
    minor = f"{rules.name}."
    full = torch if torch.count(".") > 1 else next(
        (known for known in RELEASES if known.startswith(minor)), torch
    )  # fmt: skip
    try:
        program = build_program(find_wheel(full, download=False), "settings.cpp")
        answers = ask_parser(program, [line.conf for line in lines])
    except VerificationError:
        refused = {conf: why for conf, why in ours.items() if why}
        return Accepted(rules.name, f"our reading of torch {rules.name}'s rules", refused)
    refused = {
        line.conf: ours[line.conf] or "PyTorch refuses it, the simulator does not"
        for line, answer in zip(lines, answers, strict=True)
        if answer is None
    }
    return Accepted(full, f"torch {full}'s own parser", refused)


def release_of(trace: Path, torch: str | None) -> str:
    """Return the release asked for, else the recorded one, else the newest."""
    from ...traces.load import load

    told = str(load(trace).extra.get("recorded", {}).get("torch", "")).split("+")[0]
    return torch or told or NEWEST


def _our_refusal(conf: str, torch: str) -> str:
    try:
        parse_settings(conf, release(torch))
    except PolicyError as error:
        return str(error)
    return ""

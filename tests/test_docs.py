"""What the documents show is what the program prints."""

from __future__ import annotations

from pathlib import Path

from tightfit.experiments.cli import COMMANDS
from tightfit.experiments.readme import BLOCK, regenerate_in_copy

ROOT = Path(__file__).resolve().parents[1]


def test_the_readme_shows_real_output() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    fresh = regenerate_in_copy(text, ROOT)
    for shown, real in zip(BLOCK.findall(text), BLOCK.findall(fresh), strict=True):
        assert shown[2] == real[2], f"{shown[1]}rewrite: python -m tightfit.experiments.readme"


# What they print depends on the machine or on half a gigabyte of download; named, not shown.
NAMED_ONLY = {"prove", "bench", "verify"}


def test_the_readme_shows_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {match[1].split()[2] for match in BLOCK.findall(text)}
    for command in {c.__name__ for c in COMMANDS} - shown:
        assert command in NAMED_ONLY and f"`tightfit {command}`" in text, command

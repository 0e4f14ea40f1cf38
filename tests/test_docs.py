"""What the documents show is what the program prints."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from tightfit.experiments.cli import COMMANDS
from tightfit.experiments.readme import BLOCK, regenerate_in_copy
from tightfit.sim.mechanism import CALLS
from tightfit.sim.policy import HOOKS

ROOT = Path(__file__).resolve().parents[1]


def test_the_readme_shows_real_output() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    fresh = regenerate_in_copy(text, ROOT)
    for shown, real in zip(BLOCK.findall(text), BLOCK.findall(fresh), strict=True):
        assert shown[2] == real[2], f"{shown[1]}rewrite: python -m tightfit.experiments.readme"


# What they print depends on the machine or on half a gigabyte of download; named, not shown.
NAMED_ONLY = {"prove", "bench", "record", "verify", "live"}


def test_the_readme_shows_every_command() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = {match[1].split()[2] for match in BLOCK.findall(text)}
    for command in {c.__name__ for c in COMMANDS} - shown:
        assert command in NAMED_ONLY and f"`tightfit {command}`" in text, command


def test_the_names_that_a_policy_may_use_exist() -> None:
    """docs/policies.md lists them by file; a function that is renamed is renamed there."""
    text = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+/\w+\.py)` \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) >= 4
    for file, words in rows:
        module = importlib.import_module("tightfit." + file[:-3].replace("/", "."))
        for name in re.findall(r"`(\w+)`", words):
            assert hasattr(module, name), f"{file}: {name}"
    for file in re.findall(r"`((?:sim|policies|traces)/\w+\.\w+)`", text):
        assert (ROOT / file).is_file(), file


def test_the_hooks_that_are_documented_are_those_that_there_are() -> None:
    text = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    for hook, arguments in (HOOKS | CALLS).items():
        assert f"| `{hook}` | {', '.join(arguments)} |" in text, hook

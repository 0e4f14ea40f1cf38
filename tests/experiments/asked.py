"""A small experiment, and how tests run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments.cli import main

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
STREAMS, MLP = DATA / "streams.default.npz", DATA / "mlp_train.npz"
OWN = Path(__file__).resolve().parents[2] / "docs" / "examples" / "two_regions.py"
MORE = f"""[[trace]]
file = "{MLP}"
"""
TEXT = f"""
question = "Which?"
torch = "2.15"
packing_seconds = 0.2
[[trace]]
file = "{STREAMS}"
[[trace]]
file = "{MLP}"
[[policy]]
name = "best_fit"
quantum = [512, 4096]
[[policy]]
name = "planned"
"""


def run(file: Path, capsys: pytest.CaptureFixture, *more: str, code: int = 0) -> dict[str, Any]:
    """Run an experiment file; the answer as a program reads it."""
    capsys.readouterr()
    assert main(["run", str(file), "--json", *more]) == code
    return json.loads(capsys.readouterr().out)

"""The packing bar: known capacities are reached, and one that cannot be is the answer no."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tightfit.experiments.packing_bar import bar, solve
from tightfit.traces.errors import ConfigError

app = typer.Typer()
app.command()(bar)
TETRIS = "id,lower,upper,size\n0,0,4,3\n1,0,2,2\n2,2,4,2\n3,1,3,1\n"


def instance(folder: Path, capacity: int) -> str:
    file = folder / f"T.{capacity}.csv"
    file.write_text(TETRIS)
    return str(file)


def test_reached_and_not_reached(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [instance(tmp_path, 6), "--json", "--seconds", "0.5"])
    (row,) = json.loads(done.stdout)["instances"]
    assert done.exit_code == 0 and row["height_bytes"] == row["bound_bytes"] == 6
    done = CliRunner().invoke(app, [instance(tmp_path, 5), "--seconds", "0.5"])
    assert done.exit_code == 1 and done.stdout.startswith("0 of 1 instances reach")
    assert "20.0" in done.stdout  # the gap


def test_a_name_without_a_capacity_is_refused(tmp_path: Path) -> None:
    (tmp_path / "T.csv").write_text(TETRIS)
    with pytest.raises(ConfigError, match="capacity in it"):
        solve(tmp_path / "T.csv", 0.1)
    for name in ("T.csv", "none.6.csv"):
        done = CliRunner().invoke(app, [str(tmp_path / name)])
        assert done.exit_code == 2 and len(done.stderr.splitlines()) == 1
        assert name in done.stderr


def test_the_known_instances_reach_their_capacity(shared: Path) -> None:
    files = sorted((shared / "packing").glob("[A-D].1048576.csv"))
    assert len(files) == 4
    assert all(solve(file, 30.0).is_reached for file in files)

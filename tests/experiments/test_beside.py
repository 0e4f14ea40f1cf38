"""The second process that compiles beside the first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments import beside
from tightfit.sim.apart import FIRST, NAMES
from tightfit.traces import jit


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of the processes that would have been started."""
    commands: list[list[str]] = []

    def start(command: list[str], **_: Any) -> Any:
        commands.append(command)
        raise OSError("not in a test")

    monkeypatch.setattr(subprocess, "Popen", start)
    return commands


def test_it_is_started_where_there_is_a_second_core_and_a_folder(
    started: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    beside.compile_beside()  # that it cannot be started is no trouble
    assert started == [[sys.executable, "-c", beside._WORK]]


@pytest.mark.parametrize(("cores", "has_folder"), [(1, True), (2, False), (None, True)])
def test_it_is_not_started_elsewhere(
    started: list[list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    cores: int | None,
    has_folder: bool,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path if has_folder else None)
    beside.compile_beside()
    assert started == []


def test_what_is_needed_first_is_part_of_the_whole() -> None:
    assert len(set(FIRST)) == len(FIRST)
    assert set(FIRST) < set(NAMES)


@pytest.mark.skipif(not jit.JIT, reason="nothing is compiled here")
def test_the_first_process_finds_what_the_second_compiled(tmp_path: Path) -> None:
    work = beside._WORK.replace("compile_all()", "sim.apart._function('log')")
    work = work.replace("from tightfit.sim.apart import compile_all", "import tightfit.sim as sim")
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", work], check=True, env=env)
    found = {path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}
    assert found == {"driver.log_apart"}

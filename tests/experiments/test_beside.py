"""The second process that compiles beside the first."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments import beside
from tightfit.experiments.screen import BESIDE_PLAIN
from tightfit.sim import assumed
from tightfit.sim.apart import FIRST, NAMES, TRACKING
from tightfit.sim.assumed import Assumed
from tightfit.traces import jit

LOOPS = ("NOTHING",)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands of the processes that would have been started."""
    commands: list[list[str]] = []
    monkeypatch.setattr(beside, "_started", [])  # whatever an earlier test had to compile

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
    beside.compile_beside(LOOPS)  # that it cannot be started is no trouble
    assert started == [[sys.executable, "-c", beside._WORK.format(loops=LOOPS)]]


def test_nothing_is_started_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(beside, "_started", [])
    monkeypatch.setattr(atexit, "register", lambda *_: None)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: object())
    assert [beside.start_beside(LOOPS) for _ in range(2)] == [True, False]
    monkeypatch.setattr(beside, "_started", [])  # another command, later
    assert not beside.start_beside(LOOPS)
    assert beside.start_beside((*LOOPS, "NOTHING"))


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
    beside.compile_beside(LOOPS)
    assert started == []


def test_what_is_needed_first_is_part_of_the_whole() -> None:
    first = FIRST + TRACKING
    assert len(set(first)) == len(first)
    assert set(first) < set(NAMES)


IN_A_NEW_PROCESS = """
import os, subprocess, sys
from pathlib import Path
from types import SimpleNamespace
from tightfit.experiments import beside
from tightfit.traces import jit

subprocess.Popen = lambda *_, **__: SimpleNamespace(kill=int, wait=int)
os.cpu_count = lambda: 2
jit.cache_folder = Path
jit.c_function = lambda signature: lambda function: print(function.__name__)
beside.compile_beside(("NOTHING",))
"""


@pytest.mark.skipif(not jit.JIT, reason="nothing is compiled here")
def test_a_first_command_that_has_loaded_nothing_else_compiles_what_is_needed_first(
    tmp_path: Path,
) -> None:
    words = [sys.executable, "-c", IN_A_NEW_PROCESS]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == [f"{name}_apart" for name in FIRST]


@pytest.mark.parametrize("loops", [("NOTHING",), BESIDE_PLAIN])
def test_the_loops_are_assumptions(loops: tuple[str, ...]) -> None:
    assert all(isinstance(getattr(assumed, loop), Assumed) for loop in loops)


@pytest.mark.skipif(not jit.JIT, reason="nothing is compiled here")
def test_the_first_process_finds_what_the_second_compiled(tmp_path: Path) -> None:
    work = beside._WORK.format(loops=("PLAIN",)).replace("apart.compile_all()", "")
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", work], check=True, env=env)
    found = {path.name.split("-")[0] for path in tmp_path.rglob("*.nbi")}
    assert {"engine.play", "stats.track_malloc_apart"} <= found
    replayed = (
        "from tightfit.policies.native import replay_native\n"
        "from tightfit.sim import engine\n"
        "from tightfit.sim.packing import pack\n"
        "from tightfit.sim.release import release\n"
        "from tightfit.sim.settings import Settings\n"
        "from tightfit.traces.synthetic import train\n"
        "replay_native(pack(train(1)), Settings(), release('2.15'))\n"
        "print(sum(engine.play.stats.cache_hits.values()),"
        " sum(engine.play.stats.cache_misses.values()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", replayed], check=True, env=env, capture_output=True, text=True
    )
    assert out.stdout.split() == ["1", "0"]

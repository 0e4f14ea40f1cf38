"""Doors: what is behind one is compiled when it is first called, and nothing gets lost at it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tightfit.sim.on_call import TABLE_AT, door, uninterrupted
from tightfit.sim.state import HUGE, SPARES_NEEDED, STATE, TABLE_SIZE
from tightfit.traces.jit import JIT

KIND = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 3)
PLACE = 5


def state() -> np.ndarray:
    dimensions = {length for _, _, length in STATE.fields if isinstance(length, str)}
    return STATE.new(**{name: 1 for name in dimensions | {"blocks"}})


def opened(compiled: Callable[[], Any]) -> tuple[Callable[[int], int], np.ndarray, np.ndarray]:
    """A call through a new door, the calling state, and the table of later ones."""
    caller, table = state(), np.zeros(TABLE_SIZE, np.int64)
    address, kept = door("double", PLACE, 3, compiled, table)
    entry = KIND(address)

    def call(x: int) -> int:
        assert kept is not None
        return entry(caller.ctypes.data, 0, x)

    return call, caller, table


def test_a_call_through_a_door_is_compiled_once_and_then_direct() -> None:
    times: list[int] = []
    double = KIND(lambda _state, _plan, x: 2 * x)
    real = ctypes.cast(double, ctypes.c_void_p).value

    def compiled() -> Any:
        times.append(1)
        return SimpleNamespace(address=real)

    call, caller, table = opened(compiled)
    with uninterrupted():
        assert call(21) == 42
    assert table[PLACE] == real
    assert STATE.views(caller)["table"][PLACE] == real
    assert caller[TABLE_AT // 8 + PLACE] == real
    assert len(times) == 1


def test_an_error_of_the_compiler_ends_the_run_and_is_raised_behind_it() -> None:
    def compiled() -> Any:
        raise ValueError("no room for machine code")

    call, caller, _ = opened(compiled)
    with pytest.raises(ValueError, match="no room"), uninterrupted():
        assert call(1) == 0
    assert STATE.views(caller)["g"][SPARES_NEEDED] == HUGE


def test_ctrl_c_waits_until_compiled_code_has_returned() -> None:
    reached = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        opened(lambda: None)  # a door is closed somewhere, or Ctrl-C would not be held back
        with pytest.raises(KeyboardInterrupt):
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGINT)
                reached.append(True)
            reached.append(False)
        assert reached[0]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


REPLAY_WITHOUT_A_COMPILER = """
from tightfit.policies.native import replay_native
from tightfit.sim import apart
from tightfit.sim.packing import pack
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.synthetic import serve

def broken(name):
    raise RuntimeError(f"cannot compile {name}")

apart._function = broken
replay_native(pack(serve(100)), Settings(), release("2.15"))
"""


@pytest.mark.skipif(not JIT, reason="nothing is compiled here")
def test_a_replay_raises_what_a_door_could_not() -> None:
    command = [sys.executable, "-c", REPLAY_WITHOUT_A_COMPILER]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: cannot compile obtain")

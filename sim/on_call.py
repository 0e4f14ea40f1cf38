"""Doors: functions compiled apart are compiled, or loaded, when something first calls them.

Most programs never meet half of the cold functions, and a first answer should not wait for them.
A table of addresses begins with doors: Python functions behind C addresses. A door has its
function compiled, puts the real address into the state that called and into the table for later
states, and passes the call on.

A Python exception cannot leave a door, as compiled code is on the other side. So whoever calls
compiled code with doors in it wraps the call in `uninterrupted()`: Ctrl-C waits for its end, and
an error of the compiler is raised there.
"""

from __future__ import annotations

import _thread
import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .state import HUGE, SPARES_NEEDED, STATE

_NAMES = [field[0] for field in STATE.fields]
_AT = dict(zip(_NAMES, STATE.fixed_offsets(), strict=False))
TABLE_AT, COUNTERS_AT = _AT["table"], _AT["g"]  # bytes from the beginning of a state

_closed: set[str] = set()  # functions that may still be behind a door
_lock = threading.Lock()
_failed: list[BaseException] = []


def door(
    name: str, place: int, n: int, compiled: Callable[[], Any], table: np.ndarray
) -> tuple[int, Any]:
    """Make the door to a function.

    Args:
        name: the function's.
        place: its place in the table of addresses.
        n: number of its arguments, all int64; the first is the address of the calling state.
        compiled: compiles it; what that returns has an `address`.
        table: of later states; receives the address.

    Returns:
        The door's address, and what must be kept as long as that is used.
    """
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * n)

    def open_and_call(state_at: int, *rest: int) -> int:
        try:
            with _lock:  # several threads may come to one door
                address = compiled().address
                table[place] = address
                _closed.discard(name)
        except BaseException as error:  # to be raised behind the compiled code
            _failed.append(error)
            # The run ends before its next event.
            ctypes.c_int64.from_address(state_at + COUNTERS_AT + 8 * SPARES_NEEDED).value = HUGE
            return 0
        ctypes.c_int64.from_address(state_at + TABLE_AT + 8 * place).value = address
        return kind(address)(state_at, *rest)

    _closed.add(name)
    entry = kind(open_and_call)
    address = ctypes.cast(entry, ctypes.c_void_p).value
    assert address is not None
    return address, entry


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back while compiled code runs that may come to a door.

    Raises:
        KeyboardInterrupt: it was pressed meanwhile.
        Exception: what compiling a function behind a door raised.
    """
    if not _closed or threading.current_thread() is not threading.main_thread():
        yield
        _raise_failure()
        return
    pressed: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is None:  # not Python's own: it cannot be put back
        yield
        _raise_failure()
        return
    signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    _raise_failure()
    if pressed:
        _thread.interrupt_main()


def _raise_failure() -> None:
    if _failed:
        first = _failed[0]  # the others followed from it
        _failed.clear()
        raise first

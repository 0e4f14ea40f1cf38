"""The C++ simulator on std::set<Block*>: compiled here, given the same packed events."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ...sim.device import Device
from ...sim.packing import Packed
from ...sim.requests import Requests
from ...sim.state import (
    CAPTURE_EMPTIES_POOLS,
    EXPANDABLE,
    GC_BYTES,
    HUGE,
    LIMIT,
    MAX_SPLIT,
    REFUSES_SMALL_RESERVE,
    SINGLE_POOL_EMPTY,
    THROW_LIMIT,
    TIE_BREAK,
)
from ...traces.errors import ConfigError

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = ("-O2", "-std=c++17", "-shared", "-fPIC")
COUNTERS = {
    "allocated_bytes.all.current": 0,
    "allocated_bytes.all.peak": 1,
    "active_bytes.all.current": 2,
    "active_bytes.all.peak": 3,
    "requested_bytes.all.current": 4,
    "requested_bytes.all.peak": 5,
    "reserved_bytes.all.current": 6,
    "reserved_bytes.all.peak": 7,
    "num_device_alloc": 8,
    "num_device_free": 9,
    "num_alloc_retries": 10,
    "num_ooms": 11,
    "num_sync_all_streams": 12,
}


class CompilerMissing(ConfigError):
    """There is no g++ on this machine."""


@dataclass(frozen=True)
class SetRun:
    """What the C++ simulator did.

    Attributes:
        nanoseconds: processor time of the events alone.
        n_events: events carried out.
        addresses: shape (n,) int64; address each event dealt with, 0 = none; empty if not kept.
        stats: as `Run.stats` names them.
    """

    nanoseconds: int
    n_events: int
    addresses: np.ndarray
    stats: dict[str, int]


@cache
def library() -> ctypes.CDLL:
    """Compile and load the simulator, once per process.

    Raises:
        CompilerMissing: there is no g++.
        ConfigError: g++ does not compile it.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise CompilerMissing("g++: found no such program, expected it on the PATH to compare with")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "set_simulator.so"
        command = [compiler, *FLAGS, "-o", str(target), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ConfigError(f"g++ did not compile {SOURCE.name}: {done.stderr.strip()[-400:]}")
        loaded = ctypes.CDLL(str(target))
    loaded.simulate.restype = ctypes.c_int64
    loaded.simulate.argtypes = [
        ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    return loaded


def simulate(
    packed: Packed,
    requests: Requests,
    device: Device = Device(),  # noqa: B008 (frozen)
    *,
    stop_at_oom: bool = True,
    addresses: bool = False,
) -> SetRun:
    """Replay a packed program that starts empty, under default options or expandable segments.

    Raises:
        CompilerMissing: there is no g++.
        ConfigError: the program starts with memory in use, or an option is set that the simulator
            does not know.
    """
    _check(packed, requests)
    program, options = packed.program, requests.options
    classes = np.zeros((len(requests.need) + 1, 9), np.int64)
    classes[1:] = np.stack(
        [
            requests.need,
            program.req_size,
            requests.segment,
            requests.least_rest,
            2 * program.req_pool.astype(np.int64) + ~requests.is_small,
            program.req_stream,
            requests.expands,
            np.where(requests.is_small, requests.small_page, requests.large_page),
            requests.captured,
        ],
        axis=1,
    )
    capacity = HUGE
    if device.capacity_bytes is not None:
        capacity = max(0, device.capacity_bytes - device.other_bytes)
    given = np.array(
        [
            capacity,
            device.granularity,
            requests.reserve_bytes,
            options[TIE_BREAK],
            stop_at_oom,
            options[CAPTURE_EMPTIES_POOLS],
            options[SINGLE_POOL_EMPTY],
            options[REFUSES_SMALL_RESERVE],
            options[EXPANDABLE],
        ],
        np.int64,
    )
    n = len(packed.events)
    out = np.zeros(n if addresses else 0, np.int64)
    counters, carried_out = np.zeros(len(COUNTERS), np.int64), np.zeros(1, np.int64)
    spent = library().simulate(
        packed.events.ctypes.data, n, classes.ctypes.data, packed.n_slots, len(program.pools),
        given.ctypes.data, out.ctypes.data if addresses else None, counters.ctypes.data,
        carried_out.ctypes.data,
    )  # fmt: skip
    stats = {name: int(counters[k]) for name, k in COUNTERS.items()}
    return SetRun(int(spent), int(carried_out[0]), out, stats)


def _check(packed: Packed, requests: Requests) -> None:
    """Refuse what the C++ simulator does not model."""
    off = {MAX_SPLIT: HUGE, LIMIT: HUGE, THROW_LIMIT: HUGE, GC_BYTES: 0}
    if any(requests.options[k] != value for k, value in off.items()):
        raise ConfigError("set simulator: found a limit, max_split_size or garbage collection set")
    if packed.keeps_start and len(packed.program.start.segments["size"]):
        raise ConfigError("set simulator: found a start layout, expected an empty device")

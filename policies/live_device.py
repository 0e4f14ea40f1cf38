"""A device's memory under a live policy, and the C functions that the process has for all of them.

The policy is the compiled one that is simulated, and every address it gives out is the simulated
one, moved by a constant. A policy that keeps streams apart has a lane for each; under any other a
block may go to another stream, and then waits until the device has done what may still use it.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..sim.apart import compile_apart
from ..sim.blame import blaming
from ..sim.costs import work_of
from ..sim.device import Device
from ..sim.ground import GROUND, ground_at, new_ground
from ..sim.live import c_functions
from ..sim.live_state import (
    ALLOCATE,
    FIRST_DEVICE,
    FREE,
    GROUND_AT,
    HANDLE,
    KEEPS_STREAMS,
    LIVE,
    LIVE_BLOCKS,
    MAPPED,
    MOST_BLOCKS,
    MOST_DEVICES,
    N_STREAMS,
    PAGE,
    PEAK_MAPPED,
    POOLS,
    REFUSED_PAGES,
    REFUSED_ROWS,
    REFUSED_SPACE,
    REFUSED_STREAMS,
    ROOT_WORDS,
    TRIM,
    UNKNOWN_FREES,
    WAITS,
    WAKE,
    YIELD,
    new_live,
    publish_root,
)
from ..sim.mechanism import Mechanism
from ..sim.mechanism_replay import open_ground, stats_of
from ..sim.state import PEAK_ACTIVE, PEAK_ALLOCATED, PEAK_REQUESTED, PEAK_RESERVED
from ..traces.errors import ConfigError
from .live_region import Region, StandInRegion, address_of_function
from .runs_live import checked_live

MOST_LANES = 256  # streams of a device under a policy that keeps them apart
COUNTERS = {
    "live_blocks": LIVE_BLOCKS,
    "streams": N_STREAMS,
    "stream_waits": WAITS,
    "unknown_frees": UNKNOWN_FREES,
    "refused_blocks": REFUSED_ROWS,
    "refused_streams": REFUSED_STREAMS,
    "refused_addresses": REFUSED_SPACE,
    "refused_pages": REFUSED_PAGES,
    "refused_pools": POOLS,
}
_WAKE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


class _Root:
    """What the process's C functions share; made once, never given back.

    PyTorch frees tensors until the very end of the process, when Python's objects are gone. So
    everything that the C functions reach is kept from being freed with the interpreter.
    """

    def __init__(self) -> None:
        self.words = np.zeros(ROOT_WORDS, np.int64)
        publish_root(self.words)
        self.makers: dict[int, Callable[[], Live]] = {}
        self.lock = threading.Lock()
        self.failures: list[str] = []
        libc = ctypes.CDLL(None)
        self.wake = _WAKE(self._wake)
        self.words[WAKE] = ctypes.cast(self.wake, ctypes.c_void_p).value or 0
        self.words[YIELD] = address_of_function(libc, "sched_yield")
        self.functions = {name: f.address for name, f in c_functions().items()}
        keep_for_ever(self.words, self.wake, self, c_functions())

    def _wake(self, device: int) -> int:
        """A device is asked for memory for the first time: its state's address, 0 = none."""
        with self.lock:
            at = int(self.words[FIRST_DEVICE + device]) if 0 <= device < MOST_DEVICES else 0
            if at == 0 and device in self.makers:
                try:
                    at = self.makers[device]().at
                except Exception as error:  # it cannot pass through the C code that called
                    self.failures.append(str(error))
                    print(f"tightfit: device {device}: {error}", file=sys.stderr, flush=True)
                    del self.makers[device]
                    return 0
                self.words[FIRST_DEVICE + device] = at
            return at


_root: _Root | None = None


def the_root() -> _Root:
    """The process's root, made at the first call; compiles or loads the C functions."""
    global _root
    if _root is None:
        _root = _Root()
    return _root


def keep_for_ever(*objects: Any) -> None:
    """Keep objects from being freed even when the interpreter ends."""
    for one in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


_calls: dict[str, dict[str, Any]] = {}


def calls_of(policy: Mechanism) -> dict[str, Any]:
    """The policy's calls as C functions of a ground's address, compiled or found on disk.

    Raises:
        PolicyError: they cannot be compiled.
    """
    if policy.key not in _calls:
        tag = "_live_" + policy.key.rpartition("-")[2]
        with blaming(policy):
            _calls[policy.key] = {
                name: compile_apart(hook, tag, "a", ground_at)
                for name, hook in policy.hooks.items()
            }
        keep_for_ever(_calls[policy.key])
    return _calls[policy.key]


@dataclass(frozen=True)
class Setting:
    """What runs, and on how much.

    Attributes:
        policy: whose calls serve the requests.
        values: its parameters by name; missing ones have their defaults.
        capacity_bytes: what it may hold of the device; None = without end.
    """

    policy: Mechanism
    values: Mapping[str, int]
    capacity_bytes: int | None


class Live:
    """One device's memory under a policy; `alloc` and `free` of the_root() serve from it.

    Args:
        setting: the policy, its parameters, its capacity.
        device: number of the device it is for.
        region: where memory comes from; None = a stand-in of host memory.

    Raises:
        PolicyError: the policy cannot run live, or a value is out of its range.
    """

    def __init__(self, setting: Setting, device: int, region: Region | None = None) -> None:
        policy = checked_live(setting.policy)
        values = policy.checked(setting.values)
        chosen = dict(zip(policy.defaults, values, strict=True))
        lanes = MOST_LANES if policy.honours.streams else 1
        calls = calls_of(policy)
        self.setting, self.device, self.region = setting, device, region or StandInRegion()
        self.ground = new_ground(MOST_BLOCKS, 1, 1, max(1, policy.own(chosen, lanes)))
        open_ground(
            GROUND.views(self.ground), values,
            Device(setting.capacity_bytes, granularity=PAGE), lanes,
        )  # fmt: skip
        self.buffer = new_live()
        self.fields = LIVE.views(self.buffer)
        self.result = np.zeros(2, np.int64)
        word = self.fields["word"]
        word[GROUND_AT], word[HANDLE] = self.ground.ctypes.data, self.result.ctypes.data
        word[KEEPS_STREAMS] = policy.honours.streams
        word[ALLOCATE], word[FREE], word[TRIM] = (
            calls[name].address for name in ("allocate", "free", "trim")
        )
        self.region.describe(self.fields)
        self.counters = GROUND.views(self.ground)["g"]

    @property
    def at(self) -> int:
        """Address of its state."""
        return self.buffer.ctypes.data

    def stats(self) -> dict[str, int]:
        """Its statistics now, under the simulator's names and in its units, and its own.

        Beside those of `Run.stats`: `mapped_bytes.current` and `.peak`, memory really taken of the
        device; `stream_waits`, times that memory went from one stream to another and had to wait;
        `unknown_frees`; and `refused_*`, requests failed because blocks, streams, addresses, the
        device's memory or private pools were not to be had. Driver calls are in `work()`.
        """
        word = self.fields["word"]
        stats = stats_of(self.counters)
        stats["mapped_bytes.current"] = int(word[MAPPED]) * PAGE
        stats["mapped_bytes.peak"] = int(word[PEAK_MAPPED]) * PAGE
        return stats | {name: int(word[k]) for name, k in COUNTERS.items()}

    def work(self) -> dict[str, int]:
        """Calls of the driver and their bytes, as in Run.work."""
        return work_of(self.counters)

    def reset_peaks(self) -> None:
        """Let every peak begin again at what is held now."""
        now = stats_of(self.counters)
        for k, name in (
            (PEAK_ALLOCATED, "allocated"),
            (PEAK_ACTIVE, "active"),
            (PEAK_REQUESTED, "requested"),
            (PEAK_RESERVED, "reserved"),
        ):
            self.counters[k] = now[f"{name}_bytes.all.current"]


class CalledLive:
    """A policy that serves one device number of this process, through ctypes, on stand-in memory.

    A context manager; what is in use at its end is lost.

    Attributes:
        live: its state.
        alloc, free: addresses of the two C functions.
    """

    def __init__(self, setting: Setting, device: int = MOST_DEVICES - 1) -> None:
        root = the_root()
        if root.words[FIRST_DEVICE + device]:
            raise ConfigError(f"live: device {device} has a policy already")
        self.live = Live(setting, device)
        self.alloc, self.free = root.functions["alloc"], root.functions["free"]
        self.empty_cache = root.functions["empty_cache"]

    def __enter__(self) -> CalledLive:
        the_root().words[FIRST_DEVICE + self.live.device] = self.live.at
        return self

    def __exit__(self, *exc: object) -> None:
        the_root().words[FIRST_DEVICE + self.live.device] = 0
        self.live.region.close()

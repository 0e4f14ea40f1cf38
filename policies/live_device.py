"""A device's memory under a live policy, and the C functions that the process has for all of them.

The policy is the compiled one that is simulated, and every address it gives out is the simulated
one, moved by a constant. A policy that keeps streams apart has a lane for each; under any other a
block may go to another stream, and then waits until the device has done what may still use it.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable

import numpy as np

from ..sim.live import c_functions
from ..sim.live_state import (
    FIRST_DEVICE,
    HANDLE,
    LIVE,
    LIVE_BLOCKS,
    MAPPED,
    MOST_DEVICES,
    N_STREAMS,
    PAGE,
    PEAK_MAPPED,
    POOLS,
    REFUSED_PAGES,
    REFUSED_ROWS,
    REFUSED_SIZES,
    REFUSED_SPACE,
    REFUSED_STREAMS,
    ROOT_WORDS,
    UNKNOWN_FREES,
    WAITS,
    WAKE,
    YIELD,
    new_live,
    publish_root,
)
from ..sim.mechanism import Mechanism
from ..traces.errors import ConfigError
from .live_mechanism import LiveMechanism, calls_of
from .live_region import Region, StandInRegion, address_of_function
from .live_setting import Setting, keep_for_ever
from .live_variant import LiveVariant, prepared
from .playing import AnyPolicy
from .runs_live import checked_live

COUNTERS = {
    "live_blocks": LIVE_BLOCKS,
    "streams": N_STREAMS,
    "stream_waits": WAITS,
    "unknown_frees": UNKNOWN_FREES,
    "refused_blocks": REFUSED_ROWS,
    "refused_streams": REFUSED_STREAMS,
    "refused_addresses": REFUSED_SPACE,
    "refused_pages": REFUSED_PAGES,
    "refused_sizes": REFUSED_SIZES,
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


def compile_live(policy: AnyPolicy) -> None:
    """Compile what runs of a policy, or load it.

    Raises:
        PolicyError: it cannot be compiled.
    """
    if isinstance(policy, Mechanism):
        calls_of(policy)
    else:
        prepared(policy)


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
        self.setting, self.device, self.region = setting, device, region or StandInRegion()
        self.core = (
            LiveMechanism(policy, setting)
            if isinstance(policy, Mechanism)
            else LiveVariant(policy, setting)
        )
        self.buffer = new_live()
        self.fields = LIVE.views(self.buffer)
        self.result = np.zeros(2, np.int64)
        self.fields["word"][HANDLE] = self.result.ctypes.data
        self.core.describe(self.fields["word"], self.at)
        self.region.describe(self.fields)

    @property
    def counters(self) -> np.ndarray:
        """The policy's counters, by their index in sim/state.py."""
        return self.core.counters

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
        stats = self.core.stats()
        stats["mapped_bytes.current"] = int(word[MAPPED]) * PAGE
        stats["mapped_bytes.peak"] = int(word[PEAK_MAPPED]) * PAGE
        return stats | {name: int(word[k]) for name, k in COUNTERS.items()}

    def work(self) -> dict[str, int]:
        """Calls of the driver and their bytes, as in Run.work."""
        return self.core.work()

    def reset_peaks(self) -> None:
        """Let every peak begin again at what is held now."""
        self.core.reset_peaks()


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

"""A mechanism as the allocator of one device: its ground, its calls, and its statistics."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..sim.apart import compile_apart
from ..sim.blame import blaming
from ..sim.costs import work_of
from ..sim.device import Device
from ..sim.ground import GROUND, ground_at, new_ground
from ..sim.live_mechanism import mechanism_functions
from ..sim.live_state import (
    ALLOCATE,
    FREE,
    GIVE_BACK,
    KEEP,
    KEEPS_STREAMS,
    MOST_BLOCKS,
    MOST_LANES,
    PAGE,
    SERVE,
    STATE_AT,
    TAKE_BACK,
    TRIM,
)
from ..sim.mechanism import Mechanism
from ..sim.mechanism_replay import open_ground, stats_of
from ..sim.state import PEAK_ACTIVE, PEAK_ALLOCATED, PEAK_REQUESTED, PEAK_RESERVED
from .live_setting import Setting, keep_for_ever

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


class LiveMechanism:
    """A mechanism on one device.

    Args:
        policy: its calls.
        setting: its parameters and capacity.

    Attributes:
        counters: those of its ground.

    Raises:
        PolicyError: a value is out of its range, or the policy's own file is at fault.
    """

    def __init__(self, policy: Mechanism, setting: Setting) -> None:
        values = policy.checked(setting.values)
        chosen = dict(zip(policy.defaults, values, strict=True))
        lanes = MOST_LANES if policy.honours.streams else 1
        self.policy, self.calls, self.functions = policy, calls_of(policy), mechanism_functions()
        self.ground = new_ground(MOST_BLOCKS, 1, 1, max(1, policy.own(chosen, lanes)))
        f = GROUND.views(self.ground)
        open_ground(f, values, Device(setting.capacity_bytes, granularity=PAGE), lanes)
        self.counters = f["g"]

    def describe(self, word: np.ndarray, at: int) -> None:
        """Write into a LIVE buffer's words, which lies at an address, what serves and where."""
        for place, name in (
            (SERVE, "serve"), (TAKE_BACK, "take_back"), (GIVE_BACK, "give_back"),
            (KEEP, "keep_blocks"),
        ):  # fmt: skip
            word[place] = self.functions[name].address
        for place, name in ((ALLOCATE, "allocate"), (FREE, "free"), (TRIM, "trim")):
            word[place] = self.calls[name].address
        word[STATE_AT] = self.ground.ctypes.data
        word[KEEPS_STREAMS] = self.policy.honours.streams

    def stats(self) -> dict[str, int]:
        """Its statistics now, as in Run.stats."""
        return stats_of(self.counters)

    def work(self) -> dict[str, int]:
        """Calls of the driver and their bytes, as in Run.work."""
        return work_of(self.counters.tolist())

    def reset_peaks(self) -> None:
        """Let every peak begin again at what is held now."""
        now = self.stats()
        for k, name in (
            (PEAK_ALLOCATED, "allocated"),
            (PEAK_ACTIVE, "active"),
            (PEAK_REQUESTED, "requested"),
            (PEAK_RESERVED, "reserved"),
        ):
            self.counters[k] = now[f"{name}_bytes.all.current"]

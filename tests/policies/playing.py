"""Worked examples: a program in words, and where a policy puts its allocations."""

from __future__ import annotations

from tightfit.policies.catalogue import MECHANISMS
from tightfit.sim.device import FIRST_ADDRESS, Device
from tightfit.sim.mechanism_replay import replay_mechanism
from tightfit.sim.packing import pack
from tightfit.sim.run import Run

from ..strategies import Script

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30


def run_of(name: str, script: Script, device: Device = Device(), **values: int) -> Run:  # noqa: B008
    """Replay a script through a policy of the catalogue."""
    return replay_mechanism(pack(script.program()), MECHANISMS[name], values, device,
                            addresses=True)  # fmt: skip


def places(run: Run) -> list[int]:
    """Addresses of the allocations, counted from the first address there is."""
    return [int(a) - FIRST_ADDRESS for a in run.addr]


def peak(run: Run) -> int:
    """Most bytes reserved."""
    return run.stats["reserved_bytes.all.peak"]

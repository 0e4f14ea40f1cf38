"""What the simulator says a replayable program does on the device at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...policies.native import replay_native
from ...sim.device import Device
from ...sim.packing import Packed, pack
from ...sim.release import Release
from ...sim.run import Run
from ...sim.settings_line import parse_settings
from ...traces.event import Action
from ...traces.program import Program
from ...traces.units import MiB, round_up

GIVING = (int(Action.SEGMENT_ALLOC), int(Action.SEGMENT_MAP))
STEP = 2 * MiB  # budgets are compared in steps of what the driver gives out


@dataclass(frozen=True)
class Driver:
    """What a real driver answered, as columns of Program."""

    op: np.ndarray
    action: np.ndarray
    addr: np.ndarray
    size: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """A program under one line on one device; simulated.

    Attributes:
        program: what is replayed on both sides.
        line: the settings line.
        rules: the release of the PyTorch at hand.
        device: its memory, and what others hold of it.
    """

    program: Program
    line: str
    rules: Release
    device: Device

    @cached_property
    def packed(self) -> Packed:
        return pack(self.program, keep_start=False)

    @cached_property
    def run(self) -> Run:
        """The run with everything on, addresses as the simulator gives them."""
        return self._replay(self.packed, events=True, layout=True)

    @property
    def needs_addresses(self) -> bool:
        """Whether the release takes the lowest address of equal blocks: only the driver knows it.

        Then what is measured is held against the run that is told the driver's addresses.
        """
        return self.rules.tie_break == "address"

    def run_with(self, driver: Driver, limit: int | None = None) -> Run:
        """The run in which the driver answers as the real one did, maybe within a limit.

        Where only addresses are in question, a driver that should never be out of memory is not
        believed when it was: what it refused and got back is left out, so that it grants all.
        """
        if self.needs_addresses and not self.runs_out:
            gives = np.isin(driver.action, GIVING)
            driver = Driver(
                driver.op[gives], driver.action[gives], driver.addr[gives], driver.size[gives]
            )
        told = replace(
            self.program, driver_op=driver.op, driver_action=driver.action,
            driver_addr=driver.addr, driver_size=driver.size,
        )  # fmt: skip
        return self._replay(
            pack(told, keep_start=False), limit, events=True, layout=True, recorded_driver=True
        )

    @property
    def runs_out(self) -> bool:
        """Whether the device itself is predicted to be too small at some point."""
        return self.run.stats["num_alloc_retries"] > 0 or self.run.first_oom_op >= 0

    def run_within(self, limit: int) -> Run:
        """The run of a process that may reserve so many bytes."""
        return self._replay(self.packed, limit=limit)

    @cached_property
    def peak_op(self) -> int:
        """The op during which reserved memory reached its peak; -1 = none was reserved."""
        rows = self.run.events
        signs = np.zeros(256, np.int64)
        signs[[Action.SEGMENT_ALLOC, Action.SEGMENT_MAP]] = 1
        signs[[Action.SEGMENT_FREE, Action.SEGMENT_UNMAP]] = -1
        change = signs[rows["action"]] * rows["size"]
        if not len(rows) or not change.any():
            return -1
        return int(rows["op"][int(np.cumsum(change).argmax())])

    @cached_property
    def smallest_limit(self) -> int | None:
        """Fewest bytes the process must be allowed, in steps of 2 MiB; None = it never fits."""
        peak = round_up(self.run.stats["reserved_bytes.all.peak"], STEP)
        if self.run.first_oom_op >= 0:
            return None
        low = self.run.stats["requested_bytes.all.peak"] // STEP * STEP - STEP
        high = peak
        while not self.completes_within(high):
            high += STEP
            if high > self.device.total_bytes:
                return None
        while high - low > STEP:
            middle = (low + high) // 2 // STEP * STEP
            if middle > 0 and self.completes_within(middle):
                high = middle
            else:
                low = middle
        return high

    def completes_within(self, limit: int) -> bool:
        return self.run_within(limit).n_ops == self.program.n_ops

    def _replay(self, packed: Packed, limit: int | None = None, **options: Any) -> Run:
        settings = parse_settings(self.line, self.rules)
        fraction = None if limit is None else limit / self.device.total_bytes
        return replay_native(
            packed, settings, self.rules, self.device, limit_fraction=fraction, track=True,
            **options,
        )  # fmt: skip

"""What a replay with a recorded driver knows: where reservations lie, what is left of memory."""

from __future__ import annotations

import numpy as np

from tightfit.sim.device import Device
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.event import Action
from tightfit.traces.units import MiB

from ..strategies import Script
from .agreement import both, differences


def test_the_first_page_that_is_mapped_tells() -> None:
    # The failed request reserves addresses and maps nothing: its reservation is the one that the
    # next request maps pages in, at an address no replay can know before.
    script = Script()
    script.attempt(300 * MiB)
    first = script.malloc(5 * MiB)
    second = script.malloc(30 * MiB)
    program = script.program()
    base = 0x7E00_0020_0000
    program.driver_op = np.array([1, 2], np.int64)
    program.driver_action = np.array([Action.SEGMENT_MAP] * 2, np.uint8)
    program.driver_addr = np.array([base, base + 20 * MiB], np.uint64)
    program.driver_size = np.array([20 * MiB, 20 * MiB], np.int64)
    kernel, reference = both(
        program,
        Settings(expandable_segments=True),
        release("2.15"),
        Device(200 * MiB),
        stop_at_oom=False,
        recorded_driver=True,
    )
    assert differences(kernel, reference) == []
    assert kernel.addr[[first, second]].tolist() == [base, base + 5 * MiB]


def test_what_the_recording_granted_counts_as_used() -> None:
    # PyTorch's out-of-memory entry says how much the device had left.
    script = Script()
    script.malloc(30 * MiB)
    script.attempt(300 * MiB)
    program = script.program()
    program.driver_op = np.array([0], np.int64)
    program.driver_action = np.array([Action.SEGMENT_ALLOC], np.uint8)
    program.driver_addr = np.array([0x7E00_0000_0000], np.uint64)
    program.driver_size = np.array([30 * MiB], np.int64)
    kernel, reference = both(
        program,
        Settings(),
        release("2.15"),
        Device(200 * MiB),
        stop_at_oom=False,
        recorded_driver=True,
    )
    assert differences(kernel, reference) == []
    oom = kernel.events[-1]
    assert (oom["action"], oom["addr"]) == (Action.OOM, 170 * MiB)

"""What it means that two replays agree: everything they say, down to the last counter."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from tightfit.policies.native import replay_native
from tightfit.sim.conditions import Conditions
from tightfit.sim.device import Device
from tightfit.sim.packing import pack
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import Release
from tightfit.sim.run import Run
from tightfit.sim.settings import Settings
from tightfit.traces.program import Layout, Program

# requested_size of an inactive block is stale garbage even in PyTorch; it decides nothing.
SEGMENT_COLUMNS = ("address", "size", "stream", "pool", "is_small", "is_expandable", "reservation")
BLOCK_COLUMNS = ("address", "size", "state", "alloc")


def both(
    program: Program,
    settings: Settings,
    rules: Release,
    device: Device,
    *,
    limit_fraction: float | None = None,
    later: Sequence[Conditions] = (),
    keep_start: bool = True,
    stop_at_oom: bool = True,
    recorded_driver: bool = False,
) -> tuple[Run, Run]:
    """Replay through the kernel and through the reference.

    A replay that is asked for nothing special runs code compiled under assumptions (assumed.py):
    it is held against the one that is asked for everything.
    """
    packed = pack(program, keep_start)
    asked = partial(
        replay_native,
        packed,
        settings,
        rules,
        device,
        limit_fraction=limit_fraction,
        later=later,
        stop_at_oom=stop_at_oom,
        recorded_driver=recorded_driver,
        layout=True,
    )
    kernel, lean = asked(track=True, events=True), asked()
    assert lean.stats.items() <= kernel.stats.items()
    assert (lean.n_ops, lean.first_oom_op) == (kernel.n_ops, kernel.first_oom_op)
    assert lean.layout is not None and kernel.layout is not None
    assert layout_differences(lean.layout, kernel.layout) == []
    reference = replay_reference(
        program,
        settings,
        rules,
        device,
        limit_fraction=limit_fraction,
        later=later,
        stop_at_oom=stop_at_oom,
        keep_start=keep_start,
        recorded_driver=recorded_driver,
    )
    return kernel, reference


def differences(kernel: Run, reference: Run) -> list[str]:
    """Say in words where two runs differ; empty if they agree."""
    out = []
    for name in ("n_ops", "first_oom_op", "first_oom_bytes"):
        a, b = getattr(kernel, name), getattr(reference, name)
        if a != b:
            out.append(f"{name}: kernel {a}, reference {b}")
    n = min(len(kernel.events), len(reference.events))
    wrong = np.flatnonzero(kernel.events[:n] != reference.events[:n])
    if len(wrong):
        i = wrong[0]
        out.append(f"event {i}: kernel {kernel.events[i]}, reference {reference.events[i]}")
    elif len(kernel.events) != len(reference.events):
        out.append(f"events: kernel {len(kernel.events)}, reference {len(reference.events)}")
    if not np.array_equal(kernel.addr, reference.addr):
        out.append(f"addr: first at {np.flatnonzero(kernel.addr != reference.addr)[:1]}")
    for name, value in reference.stats.items():
        if kernel.stats.get(name) != value:
            out.append(f"{name}: kernel {kernel.stats.get(name)}, reference {value}")
    assert kernel.layout is not None and reference.layout is not None
    out += layout_differences(kernel.layout, reference.layout)
    return out


def layout_differences(kernel: Layout, reference: Layout) -> list[str]:
    """Compare two layouts segment by segment in address order."""
    out = []
    for what, columns in (("segments", SEGMENT_COLUMNS), ("blocks", BLOCK_COLUMNS)):
        a, b = getattr(kernel, what), getattr(reference, what)
        order_a, order_b = np.argsort(a["address"]), np.argsort(b["address"])
        for name in columns:
            x, y = a[name][order_a], b[name][order_b]
            if not np.array_equal(x, y):
                out.append(f"{what}.{name}: kernel {x[:8]}, reference {y[:8]}")
    return out

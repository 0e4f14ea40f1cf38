"""The cost table of sim/costs.py, from measured calls of a driver."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...sim.costs import CALLS, WAIT
from ...traces.units import MiB
from ...traces.whole_file import replacing
from .machine import Machine, ask_once
from .pieces import Clock

LEAST = 2 * MiB  # PyTorch asks the driver for no less; smaller calls cost another price


def measure_costs(machine: Machine, folder: Path, clock: Clock) -> dict[str, Any]:
    """Have the driver's calls timed, once; see driver_calls.py for the answer.

    Raises:
        VerificationError: they could not be.
    """
    return ask_once("costs", machine, folder, clock)


def line_through(points: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Fit microseconds per call and per MiB to (bytes, ns), neither below 0, by relative error.

    A plain fit would leave a small call to the noise of a large one, so that each point counts by
    the inverse of its own size.
    """
    best = (0.0, 0.0, float("inf"))
    rows = [(size / MiB, ns / 1000) for size, ns in points]
    weights = [1 / max(us, 1e-3) ** 2 for _, us in rows]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, rows, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, rows, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, rows, strict=True))
    both = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, rows, strict=True))
    slope = both / spread if spread else 0.0
    through_zero = sum(w * x * y for w, (x, y) in zip(weights, rows, strict=True)) / sum(
        w * x * x for w, (x, _) in zip(weights, rows, strict=True)
    )
    for call, mib in ((mean_y - slope * mean_x, slope), (mean_y, 0.0), (0.0, through_zero)):
        if call < 0 or mib < 0:
            continue
        error = sum(w * (call + mib * x - y) ** 2 for w, (x, y) in zip(weights, rows, strict=True))
        if error < best[2]:
            best = (call, mib, error)
    return round(best[0], 3), round(best[1], 4)


def cost_table(answer: dict[str, Any], date: str, stand_in: str) -> dict[str, dict[str, Any]]:
    """Return the table that sim.costs.read_costs reads.

    Args:
        answer: the worker's.
        date: when it was measured.
        stand_in: the stand-in's profile; its times mean nothing and the table says so.
    """
    costs = answer["costs"]
    where = f"{answer['gpu']}, driver {answer['driver'] or 'none'}, torch {answer['torch']}, {date}"
    if stand_in:
        where = f"STAND-IN, times mean nothing: {where}"
    behind, kernel = costs["behind_kernel"], costs["kernel"] / 1000
    table: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        asked = [point for point in costs[call] if point[0] >= LEAST]
        call_us, mib_us = line_through(asked)
        sizes = ", ".join(str(size // MiB) for size, _ in asked)
        idle, loaded = under_load(costs, call)
        source = (
            f"{where}; medians at {sizes} MiB, fitted by relative error; {behind[call][0] // MiB} "
            f"MiB behind a kernel of {kernel:.0f} us take {loaded:.1f} us, idle {idle:.1f}"
        )
        table[call] = {"call_us": call_us, "mib_us": mib_us, "kind": "measured", "source": source}
    idle, loaded = under_load(costs, "cudaFree")
    table[WAIT] = {
        "call_us": round(max(0.0, loaded - idle), 3), "mib_us": 0.0, "kind": "measured",
        "source": f"{where}; cudaFree of {behind['cudaFree'][0] // MiB} MiB behind a kernel of "
        f"{kernel:.0f} us, less without",
    }  # fmt: skip
    return table


def under_load(costs: dict[str, Any], call: str) -> tuple[float, float]:
    """Return microseconds that a call takes idle and behind a kernel, for the same size."""
    size, loaded = costs["behind_kernel"][call]
    return next(ns for s, ns in costs[call] if s == size) / 1000, loaded / 1000


def write_table(table: dict[str, dict[str, Any]], path: Path) -> None:
    """Write a table of costs."""
    with replacing(path) as out:
        out.write((json.dumps(table, indent=2) + "\n").encode())

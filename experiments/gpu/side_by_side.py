"""Two recordings of one program, allocation by allocation: what differs, by name and size."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...traces.event import Action
from ...traces.load import load
from ...traces.recording import DeviceRecording, Recording
from ...traces.units import format_bytes
from ..corpus.fidelity import align, kernel_of


@dataclass(frozen=True)
class Difference:
    """Requests that one side has and the other lacks: who made them, their size, how many."""

    name: str
    size: int
    count: int


@dataclass(frozen=True)
class Pair:
    """A program recorded twice.

    Attributes:
        name: the file both have.
        torch: releases of both.
        gpus: names of the devices.
        modes: "gpu" or "stand-in" for each.
        allocations: how many each has.
        in_order: how many are met in the same order, with the same size.
        peak_requested, peak_reserved: bytes of each; reserved as PyTorch itself counted.
        outside: bytes of the device that were gone at the end, but not held by the allocator: the
            context, what libraries keep, other processes; None = not recorded.
        only_first, only_second: what the other lacks, most bytes first.
    """

    name: str
    torch: tuple[str, str]
    gpus: tuple[str, str]
    modes: tuple[str, str]
    allocations: tuple[int, int]
    in_order: int
    peak_requested: tuple[int, int]
    peak_reserved: tuple[int, int]
    outside: tuple[int | None, int | None]
    only_first: list[Difference]
    only_second: list[Difference]


def compare_recordings(name: str, first: Recording, second: Recording) -> Pair:
    """Walk along the allocations of both."""
    sides = (first, second)
    devices = [_device_of(side) for side in sides]
    at = [np.flatnonzero(d.entries["action"] == Action.ALLOC) for d in devices]
    sizes = [d.entries["size"][k].tolist() for d, k in zip(devices, at, strict=True)]
    met, left = align(sizes[0], sizes[1])
    _, left_of_second = align(sizes[1], sizes[0])
    told = [side.extra.get("recorded", {}) for side in sides]
    known = [next(iter(t.get("devices", {}).values()), {}) for t in told]
    return Pair(
        name,
        (str(told[0].get("torch", "")), str(told[1].get("torch", ""))),
        (known[0].get("name", ""), known[1].get("name", "")),
        (told[0].get("mode", ""), told[1].get("mode", "")),
        (len(sizes[0]), len(sizes[1])),
        met,
        (_peak(devices[0]), _peak(devices[1])),
        (_reserved(known[0]), _reserved(known[1])),
        (_outside(known[0]), _outside(known[1])),
        _differences(first, devices[0], at[0][left]),
        _differences(second, devices[1], at[1][left_of_second]),
    )


def compare_folders(first: Path, second: Path) -> list[Pair]:
    """Compare every recording that both folders have."""
    names = sorted({p.name for p in first.glob("*.npz")} & {p.name for p in second.glob("*.npz")})
    return [compare_recordings(n, load(first / n), load(second / n)) for n in names]


def _differences(
    recording: Recording, device: DeviceRecording, rows: np.ndarray
) -> list[Difference]:
    stacks, sizes = device.entries["stack"], device.entries["size"]
    found = Counter((kernel_of(recording, int(stacks[k])), int(sizes[k])) for k in rows)
    ranked = sorted(found.items(), key=lambda item: (-item[0][1] * item[1], item[0]))
    return [Difference(name, size, count) for (name, size), count in ranked]


def _device_of(recording: Recording) -> DeviceRecording:
    return max(recording.devices.values(), key=lambda d: d.n_entries)


def _peak(device: DeviceRecording) -> int:
    action, size = device.entries["action"], device.entries["size"]
    change = np.where(action == Action.ALLOC, size, 0)
    change = change - np.where(action == Action.FREE_COMPLETED, size, 0)
    return int(np.cumsum(change).max(initial=0))


def _reserved(known: dict[str, Any]) -> int:
    return int(known.get("stats", {}).get("reserved_bytes.all.peak", 0))


def _outside(known: dict[str, Any]) -> int | None:
    if "free_bytes" not in known:
        return None
    held = known.get("stats", {}).get("reserved_bytes.all.current", 0)
    return int(known["total_bytes"] - known["free_bytes"] - held)


def describe_pair(pair: Pair, most: int = 6) -> list[str]:
    """Return what one comparison found, in a few lines."""
    first, second = pair.gpus
    out = [
        f"{pair.name}: {pair.in_order:,} allocations in the same order, of {pair.allocations[0]:,} "
        f"({first}, torch {pair.torch[0]}) and {pair.allocations[1]:,} ({second}, torch "
        f"{pair.torch[1]}); peak requested {format_bytes(pair.peak_requested[0])} and "
        f"{format_bytes(pair.peak_requested[1])}, reserved {format_bytes(pair.peak_reserved[0])} "
        f"and {format_bytes(pair.peak_reserved[1])}"
    ]
    if None not in pair.outside:
        first, second = (format_bytes(size or 0) for size in pair.outside)
        out.append(f"  outside the allocator at the end: {first} and {second}")
    for which, rows in (("first", pair.only_first), ("second", pair.only_second)):
        out += [f"  only the {which}: {d.count:,} of {format_bytes(d.size)} by {d.name}"
                for d in rows[:most]]  # fmt: skip
        if len(rows) > most:
            out.append(f"  only the {which}: {len(rows) - most} more kinds")
    return out

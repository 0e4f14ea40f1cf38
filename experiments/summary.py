"""The summary of a recording: peaks, what is missing, who holds memory at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..traces.errors import TraceError
from ..traces.event import ACTION_NAMES, Action, BlockState
from ..traces.history import lift
from ..traces.program import Op, Program
from ..traces.recording import SETTINGS_CALLS, DeviceRecording, Finding, Recording
from ..traces.units import format_bytes
from .out_of_memory import OutOfMemory, first_out_of_memory
from .owners import Owner, owners_of
from .recorded_by import RecordedBy, recorded_by

# What `info` tells by itself: the line, and the lines that the program sets.
TOLD_APART = ("PYTORCH_CUDA_ALLOC_CONF", SETTINGS_CALLS)
# What `allocator_settings` says when nobody has set anything; keys not listed are always shown.
# Source: torch/csrc/cuda/Module.cpp, THCPModule_memorySnapshot (2.15); the first key is the line.
DEFAULT_SETTINGS: dict[str, Any] = {
    "PYTORCH_CUDA_ALLOC_CONF": "",
    "max_split_size": -1,
    "garbage_collection_threshold": 0.0,
    "expandable_segments": False,
    "pinned_num_register_threads": 1,
    "release_lock_on_cudamalloc": False,
    "pinned_use_cuda_host_register": False,
    "graph_capture_record_stream_reuse": False,
    "max_round_threshold": -1,
    "max_cached_size": -1,
}


@dataclass(frozen=True)
class DeviceInfo:
    """What was recorded of one device. Device -1 is pinned host memory.

    Attributes:
        device: index.
        entries: entries by action name; only actions that occur.
        allocations: number of `alloc` entries.
        streams: distinct streams in entries and segments.
        private_pools: distinct pools other than the default ones in entries and segments.
        segments: segments at the end (for expandable memory: mapped runs).
        start_reserved_bytes, start_requested_bytes: what the device held before the first entry.
        peak_reserved_bytes: the most that segments held at once.
        peak_requested_bytes: the most that active blocks were asked for at once; no settings line
            can need less.
        end_reserved_bytes, end_requested_bytes: the same at the end.
        wasted_at_peak: 1 - peak_requested / peak_reserved; None if it cannot be known.
        is_exact: whether a replay needs no guess about what the program did.
        shows_driver: whether anything was recorded of segments; if not, nothing is known of
            reserved memory, and its figures are 0.
        owners: largest first, at most eight; empty if no stacks were recorded.
        out_of_memory: the first allocation that failed for good; None if none did.
    """

    device: int
    entries: dict[str, int]
    allocations: int
    streams: int
    private_pools: int
    segments: int
    start_reserved_bytes: int
    start_requested_bytes: int
    peak_reserved_bytes: int
    peak_requested_bytes: int
    end_reserved_bytes: int
    end_requested_bytes: int
    wasted_at_peak: float | None
    is_exact: bool
    shows_driver: bool
    owners: list[Owner]
    out_of_memory: OutOfMemory | None

    @property
    def completeness(self) -> str:
        """What part of the story the entries tell, in words."""
        if not self.entries:
            return "the final state only, no history"
        if not self.shows_driver:
            words = "only requests and frees were recorded, beginning with "
            words += f"{format_bytes(self.start_requested_bytes)} in use"
            return words + ("" if self.is_exact else "; some of it had to be guessed")
        words = "the history begins with an empty allocator"
        if self.start_reserved_bytes or self.start_requested_bytes:
            words = (
                f"the history begins with {format_bytes(self.start_reserved_bytes)} reserved, "
                f"{format_bytes(self.start_requested_bytes)} of it asked for"
            )
        if self.device < 0:
            return words
        return words + (
            ", nothing is missing" if self.is_exact else ", some of it had to be guessed"
        )


@dataclass(frozen=True)
class Summary:
    """What a file says about itself.

    Attributes:
        name: file name.
        devices: one per device with entries or segments.
        conf: the settings line in force at the end.
        settings: what differs from PyTorch's defaults, as found, without the line.
        recorded_by: which PyTorch releases write such a file.
        findings: what the reader and this summary noticed.
    """

    name: str
    devices: list[DeviceInfo]
    conf: str
    settings: dict[str, Any]
    recorded_by: RecordedBy
    findings: list[Finding]

    @property
    def verdict(self) -> str:
        """The summary in one line."""
        if not self.devices:
            return f"{self.name}: nothing was recorded"
        entries = sum(sum(d.entries.values()) for d in self.devices)
        # The host's pinned memory has an allocator of its own; the question is about the devices.
        main = max(self.devices, key=lambda d: (d.device >= 0, d.peak_reserved_bytes))
        where = f"device {main.device}" if main.device >= 0 else "pinned host memory"
        noun = "entry" if entries == 1 else "entries"
        line = f"{self.name}: {entries:,} {noun}; {where}: "
        if not main.entries:
            return (
                f"{line}final state only, {format_bytes(main.end_reserved_bytes)} reserved, "
                f"{format_bytes(main.end_requested_bytes)} of it asked for"
            )
        if not main.shows_driver:
            return f"{line}peak requested {format_bytes(main.peak_requested_bytes)}"
        line += (
            f"peak reserved {format_bytes(main.peak_reserved_bytes)}, "
            f"peak requested {format_bytes(main.peak_requested_bytes)}"
        )
        if main.wasted_at_peak is not None:
            line += f" ({100 * main.wasted_at_peak:.1f}% wasted)"
        return line


def summarize(recording: Recording) -> Summary:
    """Return what a recording says about itself."""
    devices, findings = [], list(recording.findings)
    for device, part in sorted(recording.devices.items()):
        if not part.n_entries and not len(part.segments["address"]):
            continue
        summary, more = _summarize_device(device, part, recording)
        devices.append(summary)
        findings += more
    return Summary(
        name=recording.name,
        devices=devices,
        conf=recording.first_conf,
        settings=_unusual(recording.settings),
        recorded_by=recorded_by(recording),
        findings=findings,
    )


def _summarize_device(
    device: int, part: DeviceRecording, recording: Recording
) -> tuple[DeviceInfo, list[Finding]]:
    action, size = part.entries["action"], part.entries["size"]
    blocks, segments = part.blocks, part.segments
    is_active = blocks["state"] != BlockState.INACTIVE
    requested = np.where(blocks["requested_size"] >= 0, blocks["requested_size"], blocks["size"])
    end_requested = int(requested[is_active].sum())
    end_reserved = int(segments["total_size"].sum())
    start_reserved, peak_reserved = _start_and_peak(
        end_reserved,
        action,
        size,
        [Action.SEGMENT_ALLOC, Action.SEGMENT_MAP],
        [Action.SEGMENT_FREE, Action.SEGMENT_UNMAP],
    )
    start_requested, peak_requested = _start_and_peak(
        end_requested, action, size, [Action.ALLOC], [Action.FREE_COMPLETED]
    )
    program, findings = _program(recording, device, part)
    if program is not None:  # knows of frees that were not recorded
        start_requested, peak_requested = _requested_by(program)
    shows_driver = part.shows_driver
    if not shows_driver and program is not None:
        end_requested = _requested_at_end(program)
    has_history = bool(part.n_entries and peak_reserved)
    wasted = 1 - peak_requested / peak_reserved if has_history else None
    unbalanced = min(start_requested, start_reserved) < 0 or peak_requested > peak_reserved
    if unbalanced and shows_driver:
        wasted = None
        text = (
            "entries and final state contradict each other: some entries are missing, and the "
            "peaks are uncertain"
        )
        findings.append(Finding("unbalanced", 1, text, device))
    counts = np.bincount(action, minlength=len(Action))
    names = {int(a): name for name, a in ACTION_NAMES.items()} | {int(Action.OTHER): "unknown"}
    is_alloc = action == Action.ALLOC
    pools = {recording.pools[k] for k in np.unique(part.entries["pool"])}
    pools |= {recording.pools[k] for k in np.unique(segments["pool"])}
    return DeviceInfo(
        device=device,
        entries={names[k]: int(n) for k, n in enumerate(counts) if n},
        allocations=int(is_alloc.sum()),
        streams=len(np.union1d(part.entries["stream"][is_alloc], segments["stream"])),
        private_pools=len(pools - {(0, 0), (-1, -1)}),
        segments=len(segments["address"]),
        start_reserved_bytes=max(start_reserved, 0),
        start_requested_bytes=max(start_requested, 0),
        peak_reserved_bytes=peak_reserved,
        peak_requested_bytes=peak_requested,
        end_reserved_bytes=end_reserved,
        end_requested_bytes=end_requested,
        wasted_at_peak=wasted,
        is_exact=program is not None and program.complete,
        shows_driver=shows_driver,
        owners=owners_of(blocks["stack"][is_active], requested[is_active], recording.stacks),
        out_of_memory=first_out_of_memory(part, recording.stacks),
    ), findings


def _program(
    recording: Recording, device: int, part: DeviceRecording
) -> tuple[Program | None, list[Finding]]:
    """Lift a device's program, if there is one; and what had to be guessed."""
    if device < 0 or not part.n_entries:
        return None, []
    try:
        program = lift(recording, device)
    except TraceError as error:
        return None, [Finding("no_program", 1, f"this history cannot be replayed: {error}", device)]
    return program, list(program.findings)


def _requested_by(program: Program) -> tuple[int, int]:
    """Return the requested bytes of active blocks at the start, and their peak."""
    change = _change(program)
    start = _requested_at_start(program)
    return start, start + int(np.cumsum(change).max(initial=0))


def _requested_at_start(program: Program) -> int:
    return int(program.req_size[program.request[: program.n_start]].sum())


def _requested_at_end(program: Program) -> int:
    return _requested_at_start(program) + int(_change(program).sum())


def _change(program: Program) -> np.ndarray:
    """Return by how many requested bytes each op changes what is in use."""
    size = program.req_size[program.request]
    is_alloc = program.op == Op.MALLOC
    is_free = np.isin(program.op, [Op.FREE, Op.COMPLETE])
    change = np.zeros(program.n_ops, np.int64)
    change[is_alloc] = size[program.arg[is_alloc]]
    change[is_free] = -size[program.arg[is_free]]
    return change


def _start_and_peak(
    end: int, action: np.ndarray, size: np.ndarray, plus: list[int], minus: list[int]
) -> tuple[int, int]:
    """Return what a running sum of sizes began with, and its highest value.

    The end is known and the beginning is not: a ring buffer may have lost the first entries.
    """
    change = np.where(np.isin(action, plus), size, 0) - np.where(np.isin(action, minus), size, 0)
    start = end - int(change.sum())
    highest = int(np.cumsum(change).max(initial=0))
    return start, start + highest


def _unusual(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the recorded settings that differ from PyTorch's defaults, without the line."""
    unusual = {}
    for key, value in settings.items():
        if key == "roundup_power2_divisions" and isinstance(value, dict):
            value = {size: n for size, n in value.items() if n}
            if value:
                unusual[key] = value
        elif key not in TOLD_APART and value != DEFAULT_SETTINGS.get(key, ...):
            unusual[key] = value
    return unusual

"""Recording: everything a snapshot file says, as columns; nothing interpreted yet."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .event import BLOCK_COLUMNS, ENTRY_COLUMNS, SEGMENT_COLUMNS, Action, empty_columns

SETTINGS_CALLS = "settings_calls"  # the key of `Recording.settings` that settings_calls.py reads


@dataclass(frozen=True)
class Finding:
    """Something a reader or an analysis noticed and a user should know.

    Attributes:
        kind: short fixed identifier, e.g. "lost_free", "truncated", "unknown_key".
        count: how often.
        text: one plain sentence with numbers, ready to print.
        device: device index, or None for the whole file.
    """

    kind: str
    count: int
    text: str
    device: int | None = None


@dataclass
class Stacks:
    """Interned call stacks. Stack 0 is "none recorded".

    Attributes:
        strings: distinct file and function names.
        frames: shape (n_frames, 3) int64: index of filename, line (-1 = none), index of function
            name.
        offsets: shape (n_stacks + 1,) int64; stack k is frame_ids[offsets[k]:offsets[k + 1]].
        frame_ids: rows of `frames`, innermost frame first.
    """

    strings: list[str] = field(default_factory=list)
    frames: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    frame_ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, stack: int) -> list[tuple[str, int, str]]:
        """Return stack number `stack` as (filename, line, function), innermost first."""
        ids = self.frame_ids[self.offsets[stack] : self.offsets[stack + 1]]
        return [
            (self.strings[f], int(line), self.strings[name]) for f, line, name in self.frames[ids]
        ]


@dataclass
class DeviceRecording:
    """One device: its history and its final state.

    Attributes:
        entries: ENTRY_COLUMNS, oldest first (the ring buffer already unrolled by PyTorch).
        segments: SEGMENT_COLUMNS, the final state.
        blocks: BLOCK_COLUMNS, grouped by segment, ascending address within one.
    """

    entries: dict[str, np.ndarray] = field(default_factory=lambda: empty_columns(ENTRY_COLUMNS))
    segments: dict[str, np.ndarray] = field(default_factory=lambda: empty_columns(SEGMENT_COLUMNS))
    blocks: dict[str, np.ndarray] = field(default_factory=lambda: empty_columns(BLOCK_COLUMNS))

    @property
    def n_entries(self) -> int:
        return len(self.entries["action"])

    @property
    def shows_driver(self) -> bool:
        """Whether anything tells what memory the driver gave: a segment, or an entry about one."""
        action = self.entries["action"]
        told = (action >= Action.SEGMENT_ALLOC) & (action <= Action.SEGMENT_UNMAP)
        return bool(len(self.segments["address"]) or told.any())


@dataclass
class Recording:
    """A whole file, lossless for everything an allocator simulation or a report can use.

    Attributes:
        name: file name without folders (never a full path: recordings are shared).
        devices: device index -> DeviceRecording; host (pinned) memory is device -1.
        streams: raw stream handles (int64); entries and segments hold indices into it.
        pools: private pool ids (a, b); index 0 is (-1, -1), "not recorded"; (0, 0) = default.
        stacks: interned call stacks.
        notes: distinct JSON objects of an entry's rarer keys (compile_context, user_metadata,
            internal_metadata, forward_frames, unknown ones); note 0 is "{}".
        settings: `allocator_settings` as found ({} when the release has none).
        annotations: `external_annotations` as found.
        extra: other top-level keys with JSON-able values, as found.
        findings: what the reader noticed.
    """

    name: str
    devices: dict[int, DeviceRecording] = field(default_factory=dict)
    streams: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pools: list[tuple[int, int]] = field(default_factory=lambda: [(-1, -1)])
    stacks: Stacks = field(default_factory=Stacks)
    notes: list[str] = field(default_factory=lambda: ["{}"])
    settings: dict[str, Any] = field(default_factory=dict)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def conf(self) -> str:
        """The settings line in force when the snapshot was taken ("" if none or unknown)."""
        return str(self.settings.get("PYTORCH_CUDA_ALLOC_CONF", "") or "")

    @property
    def first_conf(self) -> str:
        """The settings line of the process at first; `conf` is another where a program sets one."""
        noted = self.settings.get(SETTINGS_CALLS)
        return str(noted.get("first", "")) if isinstance(noted, dict) else self.conf

"""A recording that has a state and no history: where memory is, who holds and who pins it."""

from __future__ import annotations

import numpy as np

from ...sim.release import NEWEST, release
from ...sim.settings import Settings
from ...sim.settings_line import parse_settings
from ...traces.errors import ConfigError, PolicyError, TraceError
from ...traces.event import Action, BlockState, empty_columns
from ...traces.program import LAYOUT_BLOCK_COLUMNS, LAYOUT_SEGMENT_COLUMNS, Layout
from ...traces.recording import DeviceRecording, Recording
from ..owners import user_frame
from .explanation import Explanation
from .pins import holders_of, pins_of
from .places import NOT_RECORDED
from .standing import segments_of, shares_of, units_of


def is_state_only(recording: Recording) -> bool:
    """Whether nothing tells how the allocator came to the state that was recorded."""
    return not any(
        (found.entries["action"] == Action.ALLOC).any()
        for device, found in recording.devices.items()
        if device >= 0
    )


def explain_state(recording: Recording, device: int | None = None) -> tuple[int, Explanation]:
    """Explain the state in which a recording ends.

    Args:
        recording: one without a history.
        device: which; None = the one that reserves most.

    Returns:
        (the device, its explanation). Nothing is replayed, so that no changes are tried.

    Raises:
        TraceError: the recording shows no memory.
        ConfigError: nothing was recorded of that device.
    """
    have = {
        d: int(found.segments["total_size"].sum())
        for d, found in recording.devices.items()
        if d >= 0 and len(found.segments["address"])
    }
    if not have:
        raise TraceError(f"{recording.name}: found neither a history nor segments")
    if device is not None and device not in have:
        raise ConfigError(
            f"{recording.name}: found nothing of device {device}, expected one of "
            + ", ".join(map(str, sorted(have)))
        )
    chosen = max(sorted(have), key=have.__getitem__) if device is None else device
    found = recording.devices[chosen]
    stack = found.blocks["stack"].tolist()
    words: dict[int, str] = {0: NOT_RECORDED}

    def where(block: int) -> str:
        number = stack[block]
        if number not in words:
            words[number] = user_frame(recording.stacks[number])
        return words[number]

    segments = segments_of(_layout_of(found), _page_of(recording))
    units = units_of(segments)
    return chosen, Explanation(
        kind="waste",
        moment="end",
        entry=None,
        want=None,
        room_bytes=None,
        met_limit=False,
        reserved_bytes=have[chosen],
        reached_bytes=have[chosen],
        peak_reserved_bytes=have[chosen],
        asked_bytes=sum(b.asked for s in segments for b in s.blocks if not b.is_free),
        bound_bytes=None,
        smallest=None,
        device_bytes=None,
        shares=shares_of(segments, None, None),
        holders=holders_of(segments, where, None),
        pins=pins_of(units, where, None),
        changes=[],
        segments=segments,
        note="",
    )


def _page_of(recording: Recording) -> int:
    """Bytes that large expandable memory is mapped in, by the recorded line."""
    try:
        return parse_settings(recording.conf, release(NEWEST)).large_segment_size
    except PolicyError:  # a line of an older release
        return Settings().large_segment_size


def _layout_of(found: DeviceRecording) -> Layout:
    """The final state as a layout; a block in use is its own allocation."""
    s, b = found.segments, found.blocks
    segments = empty_columns(LAYOUT_SEGMENT_COLUMNS, len(s["address"]))
    for name in set(segments) & set(s):
        segments[name][:] = s[name]
    segments["size"][:] = s["total_size"]
    blocks = empty_columns(LAYOUT_BLOCK_COLUMNS, len(b["address"]))
    for name in set(blocks) & set(b):
        blocks[name][:] = b[name]
    unknown = blocks["requested_size"] < 0  # releases that do not record what was asked for
    blocks["requested_size"][unknown] = blocks["size"][unknown]
    used = blocks["state"] != BlockState.INACTIVE
    blocks["alloc"][:] = np.where(used, np.arange(len(used)), -1)
    return Layout(segments, blocks)

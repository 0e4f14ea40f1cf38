"""A small recording with a value in every place, and how to compare two recordings."""

from __future__ import annotations

import numpy as np

from tightfit.traces.event import BLOCK_COLUMNS, ENTRY_COLUMNS, SEGMENT_COLUMNS, empty_columns
from tightfit.traces.recording import DeviceRecording, Finding, Recording, Stacks


def columns(kinds, **values):
    n = len(next(iter(values.values())))
    out = empty_columns(kinds, n)
    for name, column in values.items():
        out[name][:] = column
    return out


def small_recording():
    """Two devices; allocations, frees with and without one, an OOM, a value in every column."""
    stacks = Stacks(
        strings=["train.py", "forward", "naïve.py"],
        frames=np.array([[0, 12, 1], [2, 7, 1]], np.int64),
        offsets=np.array([0, 0, 2, 3], np.int64),
        frame_ids=np.array([0, 1, 0], np.uint32),
    )
    entries = columns(
        ENTRY_COLUMNS,
        action=[3, 0, 1, 2, 1, 2, 8, 0, 10],
        addr=[4096, 4096, 4096, 4096, 9216, 9216, 1 << 40, 4096, (1 << 64) - 1],
        size=[2 << 20, 700, 700, 700, 5, 5, -1, 900, 1 << 62],
        stream=[0, 0, 0, 0, 1, 1, 0, 0, 1],
        time_us=[1700000000000000, 1, 2, 3, 4, 5, 6, -(1 << 63), (1 << 63) - 1],
        stack=[1, 2, 1, 1, 0, 0, 2, 1, 0],
        pool=[0, 1, 1, 1, 1, 1, 1, 0, 2],
        note=[0, 1, 0, 0, 0, 0, 0, 0, 1],
    )
    segments = columns(
        SEGMENT_COLUMNS,
        address=[4096], total_size=[2 << 20], allocated_size=[1024], active_size=[-1],
        requested_size=[900], stream=[0], pool=[1], is_small=[1], is_expandable=[0], stack=[2],
        first_block=[0], n_blocks=[2],
    )  # fmt: skip
    blocks = columns(
        BLOCK_COLUMNS,
        address=[4096, 5120], size=[1024, (2 << 20) - 1024], requested_size=[900, -1],
        state=[1, 0], stack=[1, 0],
    )  # fmt: skip
    return Recording(
        name="small.pickle",
        devices={0: DeviceRecording(entries, segments, blocks), -1: DeviceRecording()},
        streams=np.array([0, -7], np.int64),
        pools=[(-1, -1), (0, 0), (0, 3)],
        stacks=stacks,
        notes=["{}", '{"user_metadata":"α\\ud800"}'],
        settings={"PYTORCH_CUDA_ALLOC_CONF": "", "roundup_power2_divisions": {"1": 0}, "x": None},
        annotations=[{"name": "step", "stage": "START", "time_us": 1 << 70}],
        extra={"tool": [1, 2.5, True]},
        findings=[Finding("truncated", 2, "Two were lost.", 0), Finding("odd", 1, "Odd.")],
    )


def assert_same(a, b):
    assert a.name == b.name
    assert list(a.devices) == list(b.devices)
    for number, device in a.devices.items():
        for table in ("entries", "segments", "blocks"):
            ours, theirs = getattr(device, table), getattr(b.devices[number], table)
            assert list(ours) == list(theirs)
            for name, column in ours.items():
                assert column.dtype == theirs[name].dtype, (table, name)
                assert np.array_equal(column, theirs[name]), (table, name)
    for part in ("frames", "offsets", "frame_ids"):
        ours, theirs = getattr(a.stacks, part), getattr(b.stacks, part)
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), part
    assert np.array_equal(a.streams, b.streams)
    for part in ("pools", "notes", "settings", "annotations", "extra", "findings"):
        assert getattr(a, part) == getattr(b, part), part
    assert a.stacks.strings == b.stacks.strings

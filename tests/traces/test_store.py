"""The stored form of recordings: lossless and small."""

import gzip
import io
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightfit.traces.byte_planes import differences, from_planes, references, running_sum, to_planes
from tightfit.traces.event import (
    ACTION_NAMES,
    BLOCK_COLUMNS,
    ENTRY_COLUMNS,
    SEGMENT_COLUMNS,
    Action,
    empty_columns,
)
from tightfit.traces.recording import DeviceRecording, Finding, Recording, Stacks
from tightfit.traces.store import read_store, save

from .small import assert_same, small_recording


def test_a_recording_comes_back_whole(tmp_path):
    save(small_recording(), tmp_path / "a.npz")
    assert_same(small_recording(), read_store(tmp_path / "a.npz"))


def test_an_empty_recording_comes_back_whole(tmp_path):
    save(Recording("empty"), tmp_path / "a.npz")
    assert_same(Recording("empty"), read_store(tmp_path / "a.npz"))


def test_equal_recordings_give_equal_files(tmp_path):
    save(small_recording(), tmp_path / "a.npz")
    save(small_recording(), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_numpy_opens_the_file_without_pickle(tmp_path):
    save(small_recording(), tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["0.entries.action"].tolist() == [[3, 0, 1, 2, 1, 2, 8, 0, 10]]
        assert file["0.entries.alloc_distance"].tolist() == [[1, 2, 0, 0]]
        assert json.loads(file["header.json"])["format"] == "tightfit-recording"
        assert len(file.files) > 20 and all(file[name] is not None for name in file.files)


# Hypothesis-made recordings.

u64 = st.integers(0, (1 << 64) - 1)
i64 = st.integers(-(1 << 63), (1 << 63) - 1)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@st.composite
def tables(draw, kinds, limits, few):
    n = draw(st.integers(0, 12))
    out = empty_columns(kinds, n)
    for name, kind in kinds.items():
        if name in limits:
            values = st.integers(0, limits[name] - 1)
        elif name in few:
            values = st.sampled_from(few[name]) | (u64 if kind.kind == "u" else i64)
        else:
            info = np.iinfo(kind)
            values = st.integers(int(info.min), int(info.max))
        out[name][:] = draw(st.lists(values, min_size=n, max_size=n))
    return out


@st.composite
def recordings(draw):
    strings = draw(st.lists(st.text(max_size=6), min_size=1, max_size=4))
    index = st.integers(0, len(strings) - 1)
    frames = draw(st.lists(st.tuples(index, i64, index), min_size=1, max_size=4))
    frame_ids = st.lists(st.integers(0, len(frames) - 1), max_size=4)
    stacks = [[], *draw(st.lists(frame_ids, max_size=3))]
    streams = draw(st.lists(i64, min_size=1, max_size=3))
    pools = [(-1, -1), *draw(st.lists(st.tuples(st.integers(), st.integers()), max_size=3))]
    notes = ["{}", *draw(st.lists(st.text(max_size=8), max_size=3))]
    limits = {
        "action": len(Action), "state": 3, "stream": len(streams), "stack": len(stacks),
        "pool": len(pools), "note": len(notes),
    }  # fmt: skip
    few = {"addr": [0, 512, 1 << 40, (1 << 64) - 1], "size": [0, 1, 512, -1, 1 << 62]}
    devices = {}
    for number in draw(st.sets(st.integers(-1, 3), max_size=2)):
        blocks = draw(tables(BLOCK_COLUMNS, limits, few))
        n_blocks = len(blocks["address"])
        bounds = {**limits, "first_block": 1, "n_blocks": 1}
        segments = draw(tables(SEGMENT_COLUMNS, bounds, few))
        n = len(segments["address"])
        blocks = blocks if n else {name: column[:0] for name, column in blocks.items()}
        if n:  # together the segments have all blocks
            cuts = st.lists(st.integers(0, n_blocks), min_size=n - 1, max_size=n - 1)
            ends = [*sorted(draw(cuts)), n_blocks]
            segments["n_blocks"][:] = np.diff(ends, prepend=0)
            segments["first_block"][:] = ends - segments["n_blocks"]
        devices[number] = DeviceRecording(
            draw(tables(ENTRY_COLUMNS, limits, few)), segments, blocks
        )
    return Recording(
        name=draw(st.text(max_size=8)),
        devices=devices,
        streams=np.array(streams, np.int64),
        pools=pools,
        stacks=Stacks(
            strings,
            np.array(frames, np.int64).reshape(-1, 3),
            np.cumsum([0, *map(len, stacks)]).astype(np.int64),
            np.array([i for ids in stacks for i in ids], np.uint32),
        ),
        notes=notes,
        settings=draw(st.dictionaries(st.text(max_size=4), any_json, max_size=3)),
        annotations=draw(st.lists(st.dictionaries(st.text(max_size=4), any_json), max_size=2)),
        extra=draw(st.dictionaries(st.text(max_size=4), any_json, max_size=2)),
        findings=draw(
            st.lists(
                st.builds(
                    Finding,
                    st.text(max_size=5),
                    st.integers(),
                    st.text(max_size=5),
                    st.none() | st.integers(-1, 8),
                ),
                max_size=2,
            )
        ),
    )


@settings(max_examples=120, deadline=None)
@given(recording=recordings())
def test_any_recording_comes_back_whole(recording, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "a.npz"
    save(recording, path)
    assert_same(recording, read_store(path))


@given(st.lists(u64 | st.integers(0, 300)))
def test_unsigned_planes_come_back(values):
    column = np.array(values, np.uint64)
    assert np.array_equal(from_planes(to_planes(column), column.dtype, ""), column)


@given(st.lists(i64 | st.integers(-3, 3)), i64)
def test_signed_planes_and_differences_come_back(values, first):
    column = np.array(values, np.int64)
    assert np.array_equal(from_planes(to_planes(column), column.dtype, ""), column)
    assert np.array_equal(running_sum(differences(column, first), first), column)


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.integers(0, 3)), max_size=30))
def test_references_are_those_of_a_plain_search(entries):
    action = np.array([a for a, _ in entries], np.uint8)
    addr = np.array([p for _, p in entries], np.uint64)
    expected, latest = [], {}
    for i, (a, p) in enumerate(entries):
        if a == Action.ALLOC:
            latest[p] = i
        elif a in (Action.FREE_REQUESTED, Action.FREE_COMPLETED):
            expected.append(i - latest.get(p, i))
    assert references(action, addr).tolist() == expected


# Recordings of real programs.


class _Refusing(pickle.Unpickler):
    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"{module}.{name}")


def plain_columns(path):
    """The entries of a snapshot as a Recording, without stacks: enough to measure with."""
    raw = path.read_bytes()
    snapshot = _Refusing(io.BytesIO(gzip.decompress(raw) if path.suffix == ".gz" else raw)).load()
    streams, devices = {}, {}
    for number, trace in enumerate(snapshot["device_traces"]):
        entries = empty_columns(ENTRY_COLUMNS, len(trace))
        for i, entry in enumerate(trace):
            entries["action"][i] = ACTION_NAMES.get(entry["action"], Action.OTHER)
            entries["addr"][i] = entry.get("addr", entry.get("device_free", 0))
            entries["size"][i] = entry["size"]
            entries["time_us"][i] = entry.get("time_us", 0)
            entries["stream"][i] = streams.setdefault(entry["stream"], len(streams))
        devices[number] = DeviceRecording(entries)
    return Recording(path.name, devices, np.array(list(streams), np.int64))


@pytest.mark.parametrize(
    "name, most",  # bytes per entry
    [
        ("traces/medium_train_256_warm.pickle", 2.0),
        ("traces/opt_zeroth_order.pickle", 1.2),
        ("recorded/gpt_bf16_varlen.default.pickle.gz", 1.2),
    ],
)
def test_real_recordings_take_few_bytes_per_entry(shared, tmp_path, name, most):
    recording = plain_columns(shared / name)
    save(recording, tmp_path / "a.npz")
    assert_same(recording, read_store(tmp_path / "a.npz"))
    n = sum(device.n_entries for device in recording.devices.values())
    assert (tmp_path / "a.npz").stat().st_size <= most * n


def test_a_long_recording_takes_a_fraction_of_a_byte_per_entry(shared, tmp_path):
    recording = plain_columns(shared / "traces/medium_train_256_warm.pickle")
    number = max(recording.devices, key=lambda d: recording.devices[d].n_entries)
    once = recording.devices[number].entries
    repeats = -(-2_000_000 // len(once["action"]))
    entries = {name: np.tile(column, repeats) for name, column in once.items()}
    span = int(once["time_us"][-1] - once["time_us"][0]) + 20
    entries["time_us"] += np.repeat(np.arange(repeats) * span, len(once["action"]))
    recording.devices = {number: DeviceRecording(entries)}
    save(recording, tmp_path / "a.npz")
    assert_same(recording, read_store(tmp_path / "a.npz"))
    assert (tmp_path / "a.npz").stat().st_size <= 0.2 * len(entries["action"])

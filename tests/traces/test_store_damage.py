"""Stored recordings that are damaged or made to harm: each is refused with a TraceError."""

import io
import json
import zipfile

import numpy as np
import pytest

from tightfit.traces import store
from tightfit.traces.errors import TraceError
from tightfit.traces.recording import Recording
from tightfit.traces.store import read_store, save
from tightfit.traces.store_header import check

from .small import assert_same, small_recording


@pytest.fixture
def stored(tmp_path):
    save(small_recording(), tmp_path / "a.npz")
    return tmp_path / "a.npz"


def rewritten(path, changes, drop=()):
    """The file with some members replaced, added or left out; checksums right again."""
    with zipfile.ZipFile(path) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    members.update(changes)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if name not in drop:
                archive.writestr(name, content)
    return path


def npy(values, dtype: type = np.uint8):
    out = io.BytesIO()
    np.save(out, np.array(values, dtype))
    return out.getvalue()


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(TraceError, match="no such file"):
        read_store(tmp_path / "none.npz")


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04.", b"x" * 5000])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(TraceError, match=r"a\.npz: damaged, or not a tightfit recording"):
        read_store(tmp_path / "a.npz")


def test_another_npz_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    with pytest.raises(TraceError, match="found no 'header.json'"):
        read_store(tmp_path / "a.npz")


def test_every_truncation_is_refused(stored):
    content = stored.read_bytes()
    for end in range(0, len(content), 61):
        stored.write_bytes(content[:end])
        with pytest.raises(TraceError):
            read_store(stored)


def test_a_flipped_byte_is_refused_or_harmless(stored):
    content = stored.read_bytes()
    refused = 0
    for at in range(0, len(content), 13):
        stored.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            found = read_store(stored)
        except TraceError:
            refused += 1
        else:  # a date or a comment field of the zip
            assert_same(small_recording(), found)
    assert refused > len(content) / 13 / 2


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("0.entries.action", npy([[0] * 8]), r"expected uint8 of shape \(1 to 8, 9\)"),
        ("0.entries.action", npy([0] * 9), "expected uint8"),
        ("0.entries.action", npy([[0] * 9] * 9), "expected uint8"),
        ("0.entries.action", npy([[0] * 9], np.int8), "expected uint8"),
        ("0.entries.action", npy([[0] * 9])[:-1], "expected uint8"),
        ("0.entries.action", npy([[0] * 9]) + b"\0", "expected uint8"),
        ("0.entries.action", npy([[11] + [0] * 8]), "found number 11, there are 11|expected uint8"),
        ("0.entries.action", b"\x93NUMPY\x03\x00" + bytes(200), "npy version"),
        ("0.entries.action", b"", "damaged"),
        ("0.entries.stream", npy([[2] + [0] * 8]), "stream in entries: found number 2"),
        ("0.entries.stream", npy([[0] * 9, [0] * 9, [1] * 9]), "does not fit uint16"),
        ("0.entries.stack", npy([[3] + [0] * 8]), "found number 3, there are 3"),
        ("0.entries.pool", npy([[3] + [0] * 8]), "found number 3, there are 3"),
        ("0.entries.note", npy([[2] + [0] * 8]), "found number 2, there are 2"),
        ("0.entries.alloc_distance", npy([[3, 2, 0, 0]]), "refers to before the first entry"),
        ("0.entries.alloc_distance", npy([[2, 2, 0, 0]]), "refers to no allocation"),
        ("0.entries.alloc_distance", npy([[0, 2, 0, 0]]), "expected uint8"),
        ("0.entries.address_index", npy([[9] * 7]), "found row 9 of"),
        ("0.entries.size_index", npy([[200] * 7]), "found row 200 of"),
        ("0.entries.size", npy([[0] * 8]), "expected uint8"),
        ("0.blocks.state", npy([[3, 0]]), "found number 3, there are 3"),
        ("0.segments.n_blocks", npy([[6]]), "claims blocks that do not exist"),
        ("0.segments.first_block", npy([[1]]), "claims blocks that do not exist"),
        ("0.segments.n_blocks", npy([[2]]), "found 2 blocks, its segments claim 1"),
        ("stacks.frame", npy([[0, 1, 2]]), "frame of a stack: found number 2, there are 2"),
        ("stacks.length", npy([[0, 4, 4]]), "the stacks end at frame 4"),
        ("stacks.length", npy([[0, 3, 4]]), "do not ascend|end at frame"),
        ("stacks.file", npy([[0, 12]]), "file name of a frame"),
    ],
)  # fmt: skip
def test_a_wrong_column_is_refused(stored, name, content, words):
    with pytest.raises(TraceError, match=words):
        read_store(rewritten(stored, {name + ".npy": content}))


def test_segments_that_share_blocks_are_refused():
    recording = small_recording()
    device = recording.devices[0]
    device.segments = {k: np.repeat(v, 2) for k, v in device.segments.items()}
    check(device_with(recording, [0, 1], [1, 1]), "a.npz")
    for first, n, words in (
        ([0, 0], [2, 2], "found 2 blocks, its segments claim 4"),
        ([0, 0], [1, 1], "segment 1 begins at block 0, expected 1"),
        ([1, 0], [1, 1], "segment 0 begins at block 1, expected 0"),
    ):
        with pytest.raises(TraceError, match=words):
            check(device_with(recording, first, n), "a.npz")


def device_with(recording, first, n):
    recording.devices[0].segments.update(first_block=np.array(first), n_blocks=np.array(n))
    return recording


def with_header(path, change):
    with zipfile.ZipFile(path) as archive:
        header = json.loads(archive.read("header.json"))
    change(header)
    return rewritten(path, {"header.json": json.dumps(header)})


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda h: h.update(version=2), "found version 2 .*this reader knows version 1"),
        (lambda h: h.update(format="other"), "does not say 'tightfit-recording'"),
        (lambda h: h.pop("pools"), "'pools' is NoneType, expected list"),
        (lambda h: h.update(pools=[[1, 2, 3]]), "a pool that is not two integers"),
        (lambda h: h.update(streams=[1 << 63, 0]), "does not fit 64 bits"),
        (lambda h: h.update(streams=["0"]), "not a list of int"),
        (lambda h: h.update(notes=[]), "note in entries: found number 1, there are 0"),
        (lambda h: h["devices"].update({"x": h["devices"].pop("0")}), "found device 'x'"),
        (lambda h: h["devices"]["0"].update(entries=-1), "out of range"),
        (lambda h: h["devices"]["0"].update(entries=1 << 39), "expected uint8 of shape"),
        (lambda h: h["devices"].pop("0"), "unexpected member"),
        (lambda h: h["counts"].update(frames=1 << 39), "expected uint8 of shape"),
        (lambda h: h["findings"].append({"kind": 1}), "'kind' is int, expected str"),
        (lambda h: h.update(settings=[]), "'settings' is list, expected dict"),
    ],
)
def test_a_wrong_header_is_refused(stored, change, words):
    with pytest.raises(TraceError, match=words):
        read_store(with_header(stored, change))


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b"\xff", b"3"])
def test_a_header_that_is_no_object_is_refused(stored, text):
    with pytest.raises(TraceError, match="header.json"):
        read_store(rewritten(stored, {"header.json": text}))


def test_missing_and_additional_members_are_refused(stored):
    content = stored.read_bytes()
    with pytest.raises(TraceError, match=r"found no '0.entries.note.npy'"):
        read_store(rewritten(stored, {}, drop=["0.entries.note.npy"]))
    stored.write_bytes(content)
    with pytest.raises(TraceError, match="unexpected member 'evil.py'"):
        read_store(rewritten(stored, {"evil.py": b"import os"}))
    stored.write_bytes(content)
    with pytest.warns(UserWarning), zipfile.ZipFile(stored, "a") as archive:
        archive.writestr("header.json", b"{}")
    with pytest.raises(TraceError, match="two members named 'header.json'"):
        read_store(stored)


def test_a_zip_bomb_is_refused_before_it_is_unpacked(stored):
    n = 1 << 24  # 16 MiB of zeros in 16 kB
    bomb = {
        f"0.entries.{name}.npy": npy(np.zeros((1, n), np.uint8))
        for name in ("action", "stream", "stack", "pool", "note")
    }
    rewritten(stored, bomb)
    with_header(stored, lambda h: h["devices"]["0"].update(entries=n))
    assert stored.stat().st_size < 200_000
    with pytest.raises(TraceError, match="needs more than 64.0 MiB of memory; max_bytes raises"):
        read_store(stored, max_bytes=64 << 20)


def test_a_header_too_large_is_refused(stored, monkeypatch):
    monkeypatch.setattr(store, "MAX_HEADER_BYTES", 100)
    with pytest.raises(TraceError, match="expected at most 100 B"):
        read_store(stored)
    with pytest.raises(TraceError, match="strip the recording"):
        save(small_recording(), stored)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda r: r.devices[0].entries["stream"].fill(9), "found number 9, there are 2"),
        (lambda r: r.devices[0].entries.pop("pool"), "too many or too few: pool"),
        (lambda r: r.devices[0].entries.update(pool=np.zeros(9, "u4")), "is uint32, expected"),
        (lambda r: r.devices[0].entries.update(pool=np.zeros(8, "u2")), "different shapes"),
        (lambda r: r.extra.update(x={1, 2}), "cannot be written as JSON"),
        (lambda r: r.extra.update(x=b"bytes"), "cannot be written as JSON"),
    ],
)
def test_a_recording_that_could_not_be_read_again_is_not_written(tmp_path, change, words):
    recording = small_recording()
    change(recording)
    with pytest.raises(TraceError, match=words):
        save(recording, tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(stored, monkeypatch):
    before = stored.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_write_column", fail)
    with pytest.raises(TraceError, match="No space left"):
        save(Recording("other"), stored)
    assert stored.read_bytes() == before
    assert [p.name for p in stored.parent.iterdir()] == ["a.npz"]

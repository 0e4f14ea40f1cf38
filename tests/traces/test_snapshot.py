"""The snapshot reader against a plain unpickler: real files, every release, every pickler."""

import gzip
import io
import json
import os
import pickle
import pickletools
import zipfile

import numpy as np
import pytest

from tightfit.traces.errors import TraceError
from tightfit.traces.event import Action
from tightfit.traces.load import load
from tightfit.traces.restricted import restricted_loads
from tightfit.traces.snapshot import read_snapshot

from .make_pickles import assert_same, pickled, snapshot, torchscript_pickled

RELEASES = [(1, 13), (2, 0), (2, 1), (2, 4), (2, 5), (2, 8), (2, 10), (2, 12), (2, 14), (2, 15)]
PICKLERS = [(p, pure) for p in (2, 3, 4, 5) for pure in (False, True)]


def read(value, protocol=4):
    return read_snapshot(pickle.dumps(value, protocol), "test.pickle")


def refusal(value):
    """Return the message with which the reader refuses a value."""
    with pytest.raises(TraceError) as error:
        read(value)
    return str(error.value)


def kinds(rec):
    return {f.kind: f.count for f in rec.findings}


def content(path):
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


def real_files(shared):
    return sorted(
        [*(shared / "traces").glob("*.pickle"), *(shared / "recorded").rglob("*.pickle*")]
    )


@pytest.mark.slow
def test_agrees_with_the_unpickler_on_every_real_file(shared):
    files = [f for f in real_files(shared) if "serve_growing_kv" not in f.name]
    assert len(files) > 30
    for path in files:
        data = content(path)
        rec = read_snapshot(data, path.name)
        assert_same(rec, restricted_loads(data), sample=2_000)
        assert rec.findings == [], path.name


@pytest.mark.slow
def test_agrees_with_the_unpickler_on_a_million_entries(shared):
    path = shared / "recorded" / "serve_growing_kv.expandable.pickle.gz"
    assert_same(load(path), restricted_loads(content(path)), sample=20_000)


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: f"{r[0]}.{r[1]}")
def test_reads_every_release(release):
    for seed in range(5):
        value = snapshot(release, seed=seed)
        rec = read(value)
        assert_same(rec, value)
        assert rec.findings == []


@pytest.mark.parametrize(("protocol", "pure"), PICKLERS)
def test_reads_every_pickler(protocol, pure):
    value = snapshot(n=2500)  # more than a batch of 1000, which picklers write apart
    data = pickled(value, protocol, pure)
    assert_same(read_snapshot(data, "x"), restricted_loads(data))
    data = pickletools.optimize(data)
    assert_same(read_snapshot(data, "x"), restricted_loads(data))


def test_reads_torchscripts_pickler():
    value = snapshot(n=3000)
    data = torchscript_pickled(value)
    assert restricted_loads(data) == value
    assert_same(read_snapshot(data, "x"), value)


def test_reads_without_a_memo():
    value = snapshot(n=20)
    out = io.BytesIO()
    pickler = pickle.Pickler(out, 4)
    pickler.fast = True
    pickler.dump(value)
    assert_same(read_snapshot(out.getvalue(), "x"), value)


def test_reads_any_buffer():
    data = pickle.dumps(snapshot())
    for form in (bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        assert_same(read_snapshot(form, "x"), snapshot())


def test_reads_a_list_of_segments():
    value = snapshot()["segments"]
    assert_same(read(value), value)


def test_integers_of_every_width_survive():
    value = snapshot(n=0)
    sizes = [0, 1, 255, 256, 65535, 65536, *(2**k + d for k in range(17, 63) for d in (-1, 0, 1))]
    sizes.append(2**63 - 1)
    value["device_traces"][0] = [
        {"action": "alloc", "addr": s, "size": s, "stream": -s, "time_us": -s} for s in sizes
    ]
    for protocol in (2, 4):
        rec = read(value, protocol)
        assert rec.devices[0].entries["size"].tolist() == sizes
        assert rec.devices[0].entries["addr"].tolist() == sizes
        assert_same(rec, value)


def test_unknown_keys_are_kept_and_reported():
    value = snapshot(n=6)
    value["device_traces"][0][2]["flavour"] = {"a": [1, 2.5, None, True], "b": (3, "x")}
    value["segments"][1]["numa"] = 4
    value["segments"][0]["blocks"][0]["tag"] = "weights"
    value["vendor"] = {"version": [1, 2]}
    rec = read(value)
    note = json.loads(rec.notes[rec.devices[0].entries["note"][2]])
    assert note["flavour"] == {"a": [1, 2.5, None, True], "b": [3, "x"]}
    assert rec.extra == {
        "segments.numa": [[1, 4]],
        "segments.blocks.tag": [[0, "weights"]],
        "vendor": {"version": [1, 2]},
    }
    assert sum(f.count for f in rec.findings if f.kind == "unknown_key") == 4
    assert any("flavour" in f.text for f in rec.findings)


def test_unknown_actions_keep_their_name():
    value = snapshot(n=3)
    value["device_traces"][0][1]["action"] = "workspace_snapshot"
    rec = read(value)
    assert rec.devices[0].entries["action"][1] == Action.OTHER
    assert "workspace_snapshot" in rec.notes[rec.devices[0].entries["note"][1]]
    assert kinds(rec) == {"unknown_action": 1}
    assert_same(rec, value)


def test_values_that_json_cannot_hold_are_dropped_and_reported():
    value = snapshot(n=3)
    value["raw"] = b"abc"
    value["device_traces"][0][0]["blob"] = b"x"
    rec = read(value)
    assert "raw" not in rec.extra
    assert kinds(rec)["dropped_key"] == 1 and len(rec.findings) == 3


def test_annotations_may_use_any_key():
    value = snapshot(n=2)
    value["external_annotations"] = [{"name": "n", "state": "x", "line": 3, "action": "go"}]
    assert read(value).annotations == value["external_annotations"]


def test_undecodable_names_can_be_printed():
    value = snapshot(n=1)
    value["device_traces"][0][0]["frames"] = [{"filename": "caf\udce9.py", "line": 1, "name": "f"}]
    rec = read(value)
    name = rec.stacks[rec.devices[0].entries["stack"][0]][0][0]
    assert name.encode() == rb"caf\udce9.py"


def test_sums_that_do_not_match_are_reported_not_refused():
    value = snapshot(n=1)
    value["segments"][0]["total_size"] += 512
    value["segments"][2]["active_size"] += 1
    assert [f.text for f in read(value).findings if f.kind == "sum_mismatch"] != []
    assert kinds(read(value)) == {"sum_mismatch": 1}


def test_bytes_after_the_end_are_reported():
    rec = read_snapshot(pickle.dumps(snapshot()) + b"more", "x")
    assert kinds(rec) == {"trailing_bytes": 4}


def test_a_shared_list_of_entries_gives_both_devices_the_same():
    value = snapshot(n=5)
    value["device_traces"][1] = value["device_traces"][0]
    value["device_traces"].append([value["device_traces"][0][k] for k in (4, 0, 2)])
    assert_same(read(value), value)


def changed(path, new, release=(2, 15)):
    """Return a snapshot with the value at a path replaced; `...` removes it."""
    value = snapshot(release, n=5)
    at = value
    for step in path[:-1]:
        at = at[step]
    if new is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = new
    return value


@pytest.mark.parametrize(
    ("path", "new", "expected"),
    [
        (("device_traces", 1, 1, "size"), -5,
         "device_traces[1][1]: size: found the integer -5, expected an integer from 0"),
        (("device_traces", 0, 3, "size"), "big", "size: found the string 'big'"),
        (("device_traces", 0, 3, "size"), 2**63, "size: found the integer 9223372036854775808"),
        (("device_traces", 0, 3, "size"), 2**700, "size: found an enormous integer"),
        (("device_traces", 0, 3, "size"), 1.5, "size: found the number 1.5"),
        (("device_traces", 0, 3, "size"), ..., "device_traces[0][3]: found no key 'size'"),
        (("device_traces", 0, 3, "action"), 7, "action: found the integer 7, expected a string"),
        (("device_traces", 0, 3, "stream"), None, "stream: found None"),
        (("device_traces", 0, 3, "pool_id"), (1, 2, 3), "pool_id: found a tuple, expected a pair"),
        (("device_traces", 0, 3, "pool_id"), (1, "a"), "pool_id: found a tuple, expected a pair"),
        (("device_traces", 0, 3, "frames"), "main", "frames: found the string 'main'"),
        (("device_traces", 0, 3, "frames"), ["main"], "frames: found a list, expected a list of"),
        (("device_traces", 0, 3, "frames"), [{"filename": 3, "line": 1, "name": "f"}], "frames:"),
        (("device_traces", 0, 3), 5, "device_traces[0][3]: found the integer 5, expected a trace"),
        (("device_traces", 0, 3), {}, "device_traces[0][3]: found no key 'action'"),
        (("device_traces", 0), {}, "device_traces[0]: found a dict, expected a list"),
        (("device_traces",), None, "device_traces: found None, expected a list"),
        (("segments",), (), "segments: found a tuple, expected a list"),
        (("segments", 2), "x", "segments[2]: found the string 'x', expected a segment"),
        (("segments", 2, "device"), ..., "segments[2]: found no key 'device'"),
        (("segments", 2, "device"), -3, "segments[2]: device: found the integer -3"),
        (("segments", 2, "address"), -1, "segments[2]: address: found the integer -1"),
        (("segments", 2, "total_size"), 2**62 + 1, "segments[2]: total_size: found the integer"),
        (("segments", 2, "address"), 2**63 - 9, "segments[2]: found the end of the segment beyond"),
        (("segments", 2, "segment_type"), "larg", "found the string 'larg', expected 'large' or "
         "'small'; did you mean 'large'?"),
        (("segments", 2, "segment_pool_id"), 4, "segment_pool_id: found the integer 4, expected a"),
        (("segments", 2, "is_expandable"), 1, "is_expandable: found the integer 1, expected True"),
        (("segments", 2, "frames"), [1], "segments[2]: frames: found something else"),
        (("segments", 2, "blocks"), 3, "segments[2]: blocks: found the integer 3, expected a list"),
        (("segments", 2, "blocks", 0), [], "blocks[0]: found a list, expected a block"),
        (("segments", 2, "blocks", 0, "size"), ..., "blocks[0]: found no key 'size'"),
        (("segments", 2, "blocks", 0, "size"), -1, "[2].blocks[0]: size: found the integer"),
        (("segments", 2, "blocks", 0, "state"), "activ_allocated", "did you mean 'active_alloc"),
        (("segments", 2, "blocks", 0, "size"), 2**40, "segments[2].blocks[0]: found bytes 0x"),
        (("segments", 2, "blocks", 0, "address"), 512, "segments[2].blocks[0]: found bytes 0x200"),
        (("segments", 1, "address"), 0x7F0000000000, "found bytes"),
        (("allocator_settings",), [], "allocator_settings: found a list, expected a dict"),
        (("external_annotations",), 1, "external_annotations: found the integer 1, exp"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_with_their_place(path, new, expected):
    message = refusal(changed(path, new))
    assert message.startswith("test.pickle: ")
    assert expected in message, message


def test_blocks_on_top_of_each_other_are_refused():
    value = snapshot(seed=3, n=1)
    segment = next(s for s in value["segments"] if len(s["blocks"]) > 2)
    segment["blocks"][2]["address"] -= 512
    assert "the end of the block before" in refusal(value)


def test_segments_on_top_of_each_other_are_refused():
    value = snapshot(n=1)
    value["segments"].append(value["segments"][0])
    assert "found blocks that other segments also list" in refusal(value)
    value = snapshot(n=1)
    value["segments"].append({**value["segments"][0], "blocks": []})
    assert "expected segments that do not overlap" in refusal(value)


def test_histories_of_old_releases_are_checked():
    value = changed(("segments", 0, "blocks", 0, "history"), [], (1, 13))
    read(value)
    for bad in (5, [7], [{"addr": 1}], ["a"]):
        value["segments"][0]["blocks"][0]["history"] = bad
        assert "history" in refusal(value)


@pytest.mark.parametrize("value", [1, "text", [], {}, {"a": 1}, [1, 2], None, {"segment": []}, ()])
def test_other_pickles_are_refused(value):
    assert "not a PyTorch memory snapshot" in refusal(value)


def test_loads_by_content_whatever_the_name(tmp_path):
    data = pickle.dumps(snapshot())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("folder/a.pickle", data)
    forms = {
        "a.npz": data, "b.txt": gzip.compress(data), "c": archive.getvalue(),
        "d.gz": gzip.compress(data[:999]) + gzip.compress(data[999:]) + b"\0\0",
    }  # fmt: skip
    for name, form in forms.items():
        (tmp_path / name).write_bytes(form)
        rec = load(tmp_path / name)
        assert rec.name == name
        assert_same(rec, snapshot())


def test_loads_the_store(tmp_path):
    store = pytest.importorskip("tightfit.traces.store")
    store.save(read(snapshot()), tmp_path / "a.pickle")
    assert_same(load(tmp_path / "a.pickle"), snapshot())


def test_files_that_hold_no_recording_get_one_clear_message(tmp_path):
    data = pickle.dumps(snapshot())
    packed = gzip.compress(data)
    two = io.BytesIO()
    with zipfile.ZipFile(two, "w") as z:
        z.writestr("a", data)
        z.writestr("b", data)
    cases = {
        b"": "empty file", b'{"traceEvents": []}': "JSON", b"hello\n": "text file",
        b"<!DOCTYPE html>": "HTML", b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
        b"\x00\x01\x02": "starts with 00 01 02", data[:-1]: "cut short", data[:50]: "cut short",
        packed[:-9]: "cut short", packed[:30] + b"\xff" * 40 + packed[70:]: "damaged",
        gzip.compress(b""): "nothing inside", gzip.compress(b"{}"): "JSON",
        gzip.compress(bytes(1 << 26)): "starts with 00", two.getvalue(): "archive of 2 files",
        two.getvalue()[:-40]: "cut short", pickle.dumps({"segments": []}, 0): "protocol 0 or 1",
        b"\x80\x09.": "protocol 9",
    }  # fmt: skip
    for raw, expected in cases.items():
        path = tmp_path / "file"
        path.write_bytes(raw)
        with pytest.raises(TraceError) as error:
            load(path)
        assert expected in str(error.value)
    with pytest.raises(TraceError, match="folder"):
        load(tmp_path)
    with pytest.raises(TraceError, match="no such file"):
        load(tmp_path / "missing.pickle")


def test_a_gzip_file_of_countless_empty_members_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(gzip.compress(b"") * 100_002)
    with pytest.raises(TraceError, match="100,000 gzip members"):
        load(tmp_path / "a")


def test_unpacking_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("tightfit.traces.load.MAX_UNPACKED", 1 << 20)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"\x80" + os.urandom(8) * 300_000))
    with pytest.raises(TraceError, match="expected at most"):
        load(path)

"""Profiler traces: what is read, what is said to be missing, and how broken files end."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from tightfit.traces.errors import TraceError
from tightfit.traces.event import Action
from tightfit.traces.history import lift
from tightfit.traces.json_scan import objects_with
from tightfit.traces.kineto import read_kineto
from tightfit.traces.load import load
from tightfit.traces.program import Op
from tightfit.traces.validator import problems

BASE = 0x7F0000000000


def memory(addr, size, total, ts, device=0, kind=1, name="[memory]"):
    return {
        "ph": "i", "cat": "cpu_instant_event", "s": "t", "name": name, "pid": 1, "tid": 1,
        "ts": ts,
        "args": {"Device Type": kind, "Device Id": device, "Addr": addr, "Bytes": size,
                 "Total Allocated": total, "Total Reserved": 1 << 21},
    }  # fmt: skip


OP = {"ph": "X", "cat": "cpu_op", "name": 'a "quoted" [memory]', "ts": 1, "args": {"x": [{}]}}
# In the file thread by thread; in time: 512 allocated, 1,024 allocated, 512 freed.
EVENTS = [
    OP,
    memory(BASE + 512, 1024, 9728, 20),
    memory(BASE, 512, 8704, 10),
    memory(BASE, -512, 9216, 30),
    memory(4096, 64, 64, 15, device=-1, kind=0),
]


def document(events, **more):
    return json.dumps({"schemaVersion": 1, **more, "traceEvents": events}).encode()


def read(data, piece=1 << 20):
    chunks = [data[i : i + piece] for i in range(0, len(data), piece)]
    return read_kineto(chunks, "trace.json")


def kinds(recording):
    return {f.kind: f.count for f in recording.findings}


def test_events_are_put_in_order_of_time_and_other_devices_left_out():
    recording = read(document(EVENTS))
    (entries,) = (d.entries for d in recording.devices.values())
    assert entries["action"].tolist() == [Action.ALLOC, Action.ALLOC, 1, 2]
    assert (entries["addr"] - BASE).tolist() == [0, 512, 0, 0]
    assert entries["size"].tolist() == [512, 1024, 512, 512]
    assert entries["time_us"].tolist() == [10, 20, 30, 30]
    found = kinds(recording)
    assert found["other_devices"] == 1 and found["held_before"] == 8192
    assert found["no_driver"] == 1 and "events_missing" not in found
    # Without a final state, what is live at the end looks lost to a check of snapshots.
    assert [f.kind for f in problems(recording)] == ["lost_free"]


@pytest.mark.parametrize("piece", [1, 7, 100, 1000])
def test_pieces_of_any_size_read_the_same(piece, monkeypatch):
    monkeypatch.setattr("tightfit.traces.json_scan.PIECE", 1)
    data = document(EVENTS, deviceProperties=[{"name": "x" * 50}])
    whole, cut = read(data), read(data, piece)
    for column, values in whole.devices[0].entries.items():
        assert np.array_equal(cut.devices[0].entries[column], values), column
    assert cut.findings == whole.findings


def test_a_bare_list_and_times_with_decimals_are_read():
    events = [memory(BASE, 512, 512, 5.25), memory(BASE, -512, 0, 5.5)]
    data = json.dumps(events).encode()
    assert read(data).devices[0].entries["time_us"].tolist() == [5, 5, 5]


def test_missing_events_show_in_the_totals():
    events = [memory(BASE, 512, 512, 1), memory(BASE + 4096, 512, 99_328, 2)]
    assert kinds(read(document(events)))["events_missing"] == 1


def test_memory_freed_but_never_allocated_is_live_at_the_start():
    events = [memory(BASE, 512, 2560, 1), memory(BASE + 8192, -2048, 512, 2)]
    recording = read(document(events))
    program = lift(recording, 0)
    assert kinds(program) == {"unseen_allocs": 1} and not program.complete
    assert program.n_start == 1 and program.req_size[program.request[0]] == 2048
    assert program.op.tolist() == [Op.MALLOC, Op.FREE] and "held_before" not in kinds(recording)


def test_addresses_of_the_allocators_own_records_only_name_blocks():
    """Two records 64 bytes apart, of blocks of 1 MiB, live at once; no totals, as of old."""
    names = [0x55D0, 0x55D0 + 64]
    events = [memory(a, size, 0, ts) for ts, (a, size) in enumerate(
        [(names[0], 1 << 20), (names[1], 1 << 20), (names[0], -(1 << 20)), (names[0], 512)]
    )]  # fmt: skip
    events = [without(without(e, "Total Allocated"), "Total Reserved") for e in events]
    recording = read(document(events))
    assert kinds(recording)["made_up_addresses"] == 2 and "held_before" not in kinds(recording)
    program = lift(recording, 0)
    assert program.complete and program.op.tolist() == [Op.MALLOC, Op.MALLOC, Op.FREE, Op.MALLOC]
    assert program.arg.tolist() == [0, 1, 0, 2]


def test_a_failed_request_is_a_try():
    events = [memory(BASE, 512, 512, 1), memory(0, 1 << 30, 512, 2, name="[OutOfMemory]")]
    program = lift(read(document(events)), 0)
    assert program.op.tolist() == [Op.MALLOC, Op.TRY]
    assert program.req_size[program.arg[1]] == 1 << 30


def without(event, key):
    return event | {"args": {k: v for k, v in event["args"].items() if k != key}}


def with_value(key, value):
    event = memory(BASE, 512, 512, 1)
    return event | {"args": event["args"] | {key: value}}


GOOD = document(EVENTS)
BROKEN = {
    "cut in an event": (GOOD[: GOOD.index(b"Bytes")], "cut short"),
    "cut behind an event": (GOOD[:-2], "cut short"),
    "wrong bracket": (GOOD[:-2] + b"}]", "closes nothing or the wrong kind"),
    "more behind": (GOOD + b"{}", "more data behind"),
    "too deep": (b"[" * 5000, "deep"),
    "no memory events": (document([OP]), "no memory events"),
    "only the CPU": (document([EVENTS[-1]]), "none of a CUDA device"),
    "raw line break": (GOOD.replace(b"quoted", b"quo\nted"), "control character"),
    "no JSON inside": (GOOD.replace(b'"Bytes": 1024', b'"Bytes": 1024,,'), "not JSON"),
    "digits": (GOOD.replace(b": 1024", b": " + b"9" * 5000), "not JSON"),
    "no size": (document([without(memory(BASE, 512, 1, 1), "Bytes")]), "nothing as 'Bytes'"),
    "size as text": (document([with_value("Bytes", "512")]), "'512' as 'Bytes'"),
    "size as fraction": (document([with_value("Bytes", 1.5)]), "'1.5' as 'Bytes'"),
    "true as size": (document([with_value("Bytes", True)]), "true or false as 'Bytes'"),
    "huge size": (document([with_value("Bytes", 1 << 60)]), "as 'Bytes', expected"),
    "huge address": (document([with_value("Addr", 1 << 63)]), "as 'Addr', expected"),
    "negative address": (document([with_value("Addr", -4)]), "found -4 as 'Addr'"),
    "endless device": (document([with_value("Device Id", 10**40)]), "many digits as 'Device Id'"),
    "no time": (document([memory(BASE, 512, 1, None)]), "nothing as 'ts'"),
    "time before all": (document([memory(BASE, 512, 1, -5)]), "the time '-5'"),
    "huge time": (document([memory(BASE, 512, 1, 1e300)]), "the time '1e+300'"),
    "args as list": (document([{"name": "[memory]", "ts": 1, "args": []}]), "a list as args"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_ends_in_one_error_that_says_where(case, tmp_path: Path):
    data, message = BROKEN[case]
    (tmp_path / "x.json").write_bytes(data)
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(data))
    for name in ("x.json", "x.json.gz"):
        with pytest.raises(TraceError) as error:
            load(tmp_path / name)
        text = str(error.value)
        assert text.startswith(f"{name}: ") and message in text and len(text) < 400
        assert "byte " in text or "memory events" in text


def test_a_snapshot_saved_as_json_is_told_apart(tmp_path: Path):
    for document in ('{"segments": [], "device_traces": [[]]}', ' {"device_traces": []}'):
        (tmp_path / "x.json").write_text(document)
        with pytest.raises(
            TraceError, match="found a memory snapshot as JSON, expected the pickle"
        ):
            load(tmp_path / "x.json")


def test_an_endless_event_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr("tightfit.traces.json_scan.LONGEST_OBJECT", 1000)
    endless = [b'[{"name": "'] + [b"x" * 5_000_000] * 3
    with pytest.raises(TraceError, match="an object of more than"):
        list(objects_with(endless, ("[memory]",)))


def test_an_object_too_long_for_an_event_is_never_parsed(tmp_path: Path):
    """Parsed, its lists would take twenty times their text."""
    events = [memory(BASE, 512, 512, 1), memory(BASE, -512, 0, 2)]
    data = document(events)
    long = b'{"name":"[memory]","args":[' + b"[],[]," * 400_000 + b"tru]},"  # and is no JSON
    (tmp_path / "x.json").write_bytes(data.replace(b"[{", b"[" + long + b"{", 1))
    recording = load(tmp_path / "x.json")
    assert kinds(recording)["long_objects"] == 1
    (tmp_path / "y.json").write_bytes(data)
    alone = load(tmp_path / "y.json")
    assert kinds(alone).keys() == kinds(recording).keys() - {"long_objects"}
    assert alone.devices[0].n_entries == recording.devices[0].n_entries


def test_the_real_trace(shared: Path):
    """Two V100 were used; the trace is of rank 1, and its memory events are all of device 1."""
    recording = load(shared / "kineto" / "two_v100_memory_events.json.gz")
    assert list(recording.devices) == [1]
    entries = recording.devices[1].entries
    counts = np.bincount(entries["action"]).tolist()
    assert counts == [13_385, 13_385, 13_385]
    found = kinds(recording)
    assert found["other_devices"] == 1_240 and found["held_before"] == 4_096_614_400
    assert "events_missing" not in found
    program = lift(recording, 1)
    assert program.complete and program.n_start == 0 and program.n_ops == 26_770
    size = program.req_size[program.request[program.arg]]
    live = np.cumsum(np.where(program.op == Op.MALLOC, size, -size))
    # "Total Allocated" reaches 6,629,508,096.
    assert live.max() + 4_096_614_400 == 6_629_508_096 and live[-1] == 0
    assert (size % 512 == 0).all()

"""Stacks in snapshots: frames are interned by value, and what one can say of its line."""

import json
import pickle

import pytest

from tightfit.traces.errors import TraceError
from tightfit.traces.snapshot import read_snapshot

from .make_pickles import assert_same, pickled, snapshot

PICKLERS = [(p, pure) for p in (2, 3, 4, 5) for pure in (False, True)]


def read(value):
    return read_snapshot(pickle.dumps(value, 4), "test.pickle")


def test_a_stack_of_more_than_a_thousand_frames_is_one_stack():
    value = snapshot(n=4)
    deep = [{"filename": "r.py", "line": k % 7, "name": "recurse"} for k in range(2500)]
    for entry in value["device_traces"][0]:
        entry["frames"] = list(deep)
    rec = read(value)
    assert_same(rec, value)
    assert len(set(rec.devices[0].entries["stack"].tolist())) == 1


def test_frames_equal_in_value_are_one_frame():
    value = snapshot(n=10)
    for trace in value["device_traces"]:
        for entry in trace:
            entry["frames"] = [{"filename": "a.py", "line": 3, "name": "f"}]
    rec = read(json.loads(json.dumps(value["device_traces"])) and value)
    assert len(set(rec.devices[0].entries["stack"].tolist())) == 1
    assert_same(rec, value)


@pytest.mark.parametrize("written", [2**64 - 1, -1])
@pytest.mark.parametrize(("protocol", "pure"), PICKLERS)
def test_a_frame_without_a_line_has_the_line_minus_one(protocol, pure, written):
    # Python 3.12 and newer: what leaves an `except` belongs to no line, and PyTorch writes an
    # unsigned number.
    value = snapshot(n=4)
    frame = {"filename": "a.py", "line": written, "name": "f"}
    value["device_traces"][0][2]["frames"] = [frame, {**frame, "line": 7}]
    rec = read_snapshot(pickled(value, protocol, pure), "x")
    stack = rec.devices[0].entries["stack"][2]
    assert rec.stacks[stack] == [("a.py", -1, "f"), ("a.py", 7, "f")]


@pytest.mark.parametrize("line", [2**64, 2**63, -(2**63) - 1, 2**71, "7", None, 1.5])
def test_a_frame_whose_line_is_no_number_of_64_bits_is_refused(line):
    value = snapshot(n=4)
    value["device_traces"][0][2]["frames"] = [{"filename": "a.py", "line": line, "name": "f"}]
    with pytest.raises(TraceError, match=r"device_traces\[0\]\[2\]: frames"):
        read(value)


def test_extra_keys_of_frames_are_reported():
    value = snapshot(n=3)
    value["device_traces"][0][0]["frames"] = [
        {"filename": "a", "line": 1, "name": "f", "fx_node_name": "add_1"}
    ]
    assert {f.kind: f.count for f in read(value).findings} == {"dropped_key": 1}

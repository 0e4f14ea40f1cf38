"""Simulated runs as snapshots: what PyTorch's own tools read out of them is what the run says."""

import gzip
import pickle
import pickletools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from tightfit.sim.device import Device
from tightfit.sim.export import snapshot_of, write_snapshot
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import release
from tightfit.sim.settings_line import parse_settings
from tightfit.traces.errors import ConfigError, PolicyError, TraceError
from tightfit.traces.history import lift
from tightfit.traces.snapshot import read_snapshot
from tightfit.traces.units import MiB
from tightfit.traces.validator import problems

from .. import strategies
from ..strategies import Script, as_start

EXPANDABLE = "expandable_segments:True"


def a_bit_of_everything(start=None):
    """Two streams, a private pool, a pending free, a freed and reused block, an emptied cache."""
    script = Script(streams=2, pools=1, start=start)
    first = script.mallocs(3 * MiB, 700, 16 * MiB, 40 * MiB)
    script.free(first[2])
    script.malloc(12 * MiB)
    script.mallocs(5 * MiB, 100, stream=1)
    pending = script.malloc(2 * MiB, stream=1)
    script.free_later(pending)
    inside = script.mallocs(30 * MiB, 600_000, pool=1)
    script.free(inside[0], first[3])
    script.empty_cache()
    script.complete(pending)
    script.free_later(script.malloc(64 * MiB))
    return script.program()


def run_of(program, conf="", torch="2.15", **kwargs):
    rules = release(torch)
    return replay_reference(program, parse_settings(conf, rules), rules, **kwargs)


def rolled_back(snapshot, device=0):
    """Replay the history backwards as the viewer does, from the final state to the first event.

    Returns the segments and blocks before the first event. Fails where the viewer would stop or
    draw a block outside every segment.
    """
    mine = [s for s in snapshot["segments"] if s["device"] == device]
    ends = {s["address"]: s["address"] + s["total_size"] for s in mine}
    mapped = {s["address"] for s in mine if s["is_expandable"]}
    states = {
        b["address"]: b["state"] for s in mine for b in s["blocks"] if b["state"] != "inactive"
    }
    for event in reversed(snapshot["device_traces"][device]):
        action, addr = event["action"], event.get("addr", 0)
        end = addr + event["size"]
        if action == "free_completed":
            assert addr not in states
            states[addr] = "active_pending_free"
        elif action == "free_requested":
            assert states[addr] == "active_pending_free"
            states[addr] = "active_allocated"
        elif action == "alloc":
            assert states.pop(addr) == "active_allocated"
        elif action in ("segment_free", "segment_unmap"):
            assert not any(a < end and addr < b for a, b in ends.items())
            if action == "segment_unmap":
                end = ends.pop(end, end) if end in mapped else end
                before = next((a for a in mapped if ends.get(a) == addr), addr)
                addr = before
                mapped.add(addr)
            ends[addr] = end
        elif action == "segment_alloc":
            assert ends.pop(addr) == end
        elif action == "segment_map":
            (outer,) = [a for a in mapped if a in ends and a <= addr and end <= ends[a]]
            outer_end = ends.pop(outer)
            ends |= {a: b for a, b in ((outer, addr), (end, outer_end)) if a < b}
            mapped |= {outer, end}
        else:
            assert action == "oom" and event["device_free"] >= 0
        if action.startswith("segment"):
            for block in states:
                assert any(a <= block < b for a, b in ends.items())
    return ends, states


CASES = [
    ("", "2.15", {}),
    (EXPANDABLE, "2.15", {}),
    ("max_split_size_mb:32,roundup_power2_divisions:4", "2.9", {}),
    (EXPANDABLE, "2.12", {"device": Device(capacity_bytes=100 * MiB)}),
    ("", "2.4", {"device": Device(capacity_bytes=90 * MiB), "stop_at_oom": False}),
]


@pytest.fixture(params=CASES, ids=lambda c: f"{c[1]}-{c[0] or 'default'}-{len(c[2])}")
def case(request):
    conf, torch, kwargs = request.param
    program = a_bit_of_everything()
    run = run_of(program, conf, torch, **kwargs)
    return program, run, snapshot_of(program, run, conf=conf, release=torch)


def test_totals_are_those_of_the_run(case):
    _, run, snapshot = case
    for key, stat in (
        ("total_size", "reserved_bytes"),
        ("allocated_size", "allocated_bytes"),
        ("active_size", "active_bytes"),
        ("requested_size", "requested_bytes"),
    ):
        total = sum(s[key] for s in snapshot["segments"])
        assert total == run.stats[f"{stat}.all.current"], key
    for segment in snapshot["segments"]:
        end = segment["address"]
        for block in segment["blocks"]:
            assert block["address"] == end
            end += block["size"]
        assert end == segment["address"] + segment["total_size"]


def test_the_history_ends_in_the_segments_and_begins_with_nothing(case):
    _, run, snapshot = case
    assert len(snapshot["device_traces"][0]) == len(run.events) > 15
    assert rolled_back(snapshot) == ({}, {})


def test_a_warm_start_rolls_back_to_what_it_started_with():
    for conf in ("", EXPANDABLE):
        layout = run_of(a_bit_of_everything(), conf).layout
        assert layout is not None
        program = a_bit_of_everything(start=as_start(layout))
        snapshot = snapshot_of(program, run_of(program, conf), conf=conf, release="2.15")
        runs, states = rolled_back(snapshot)
        rows = layout.segments
        assert runs == {
            int(a): int(a + np.uint64(s))
            for a, s in zip(rows["address"], rows["size"], strict=True)
        }
        used = layout.blocks["state"] > 0
        assert sorted(states) == sorted(layout.blocks["address"][used].tolist())


@effort(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_run_rolls_back_to_its_start_and_reads_back_sound(data):
    rules = data.draw(strategies.releases())
    settings = data.draw(strategies.settings(rules))
    program = data.draw(strategies.programs())
    device = data.draw(strategies.devices())
    run = replay_reference(program, settings, rules, device, stop_at_oom=False)
    # Some of these settings are made by calls that no line expresses.
    snapshot = snapshot_of(program, run, conf="", release=rules.name)
    ends, states = rolled_back(snapshot)
    start = program.start.segments
    assert sum(end - address for address, end in ends.items()) == start["size"].sum()
    assert len(states) == program.n_start
    assert problems(read_snapshot(pickle.dumps(snapshot, protocol=4), "run.pickle")) == []


def test_the_project_reads_its_own_export_back(case):
    program, run, snapshot = case
    recording = read_snapshot(pickle.dumps(snapshot, protocol=4), "run.pickle")
    assert problems(recording) == []
    device = recording.devices[0]
    assert np.array_equal(device.entries["action"], run.events["action"])
    assert np.array_equal(device.entries["addr"], run.events["addr"])
    assert np.array_equal(device.entries["size"], run.events["size"])
    assert recording.conf == snapshot["tightfit"]["conf"]
    assert recording.extra["tightfit"]["simulated"] is True


def test_a_frame_without_a_line_is_written_as_pytorch_writes_it():
    program = a_bit_of_everything()
    written = snapshot_of(program, run_of(program), conf="", release="2.15")
    frame = {"filename": "a.py", "line": 2**64 - 1, "name": "f"}
    for entry in written["device_traces"][0]:
        entry["frames"] = [frame]
    recording = read_snapshot(pickle.dumps(written, protocol=4), "run.pickle")
    lifted = lift(recording, 0)
    again = snapshot_of(
        lifted, run_of(lifted), conf="", release="2.15", recording=recording
    )  # fmt: skip
    found = [f for e in again["device_traces"][0] for f in e.get("frames", [])]
    assert found and all(f == frame for f in found)


def test_keys_follow_the_release():
    program = a_bit_of_everything()
    keys = {}
    for torch in ("2.4", "2.8", "2.10", "2.12"):
        snapshot = snapshot_of(program, run_of(program, "", torch), conf="", release=torch)
        keys[torch] = set(snapshot["device_traces"][0][0])
    assert keys["2.4"] == {"action", "addr", "size", "stream", "time_us"}
    assert keys["2.8"] == keys["2.4"] | {"compile_context"}
    assert keys["2.10"] == keys["2.8"] | {"user_metadata"}
    assert keys["2.12"] == keys["2.10"] | {"pool_id"}


def test_an_out_of_memory_error_is_shown():
    script = Script()
    script.mallocs(30 * MiB, 90 * MiB)
    run = run_of(script.program(), device=Device(capacity_bytes=100 * MiB))
    snapshot = snapshot_of(script.program(), run, conf="", release="2.15")
    last = snapshot["device_traces"][0][-1]
    assert last["action"] == "oom" and "addr" not in last
    assert last["size"] == 90 * MiB and last["device_free"] == 70 * MiB
    assert snapshot["tightfit"]["first_oom_op"] == 1


def test_a_higher_device_stands_at_its_own_index():
    program = a_bit_of_everything()
    program.device = 2
    snapshot = snapshot_of(program, run_of(program), conf="", release="2.15")
    assert [bool(t) for t in snapshot["device_traces"]] == [False, False, True]
    assert {s["device"] for s in snapshot["segments"]} == {2}


def test_settings_are_shown_as_a_snapshot_names_them():
    conf = "max_split_size_mb:64,roundup_power2_divisions:[1:2,>:4]"
    program = a_bit_of_everything()
    snapshot = snapshot_of(program, run_of(program, conf), conf=conf, release="2.15")
    shown = snapshot["allocator_settings"]
    assert shown["PYTORCH_CUDA_ALLOC_CONF"] == conf and shown["max_split_size"] == 64 * MiB
    assert list(shown["roundup_power2_divisions"].items())[:2] == [("1", 2), ("2", 4)]
    assert list(shown["roundup_power2_divisions"])[-1] == "32768"


def builtins_only(value: Any) -> bool:
    if type(value) is dict:
        return all(type(k) is str and builtins_only(v) for k, v in value.items())
    if type(value) in (list, tuple):
        return all(builtins_only(v) for v in value)
    return type(value) in (str, int, float, bool)


def test_the_file_holds_builtins_in_opcodes_the_viewer_knows(case, tmp_path):
    program, run, snapshot = case
    path = tmp_path / "run.pickle"
    write_snapshot(
        path, program, run, conf=snapshot["tightfit"]["conf"],
        release=snapshot["tightfit"]["torch_release"],
    )  # fmt: skip
    content = path.read_bytes()
    assert builtins_only(pickle.loads(content)) and pickle.loads(content) == snapshot
    assert content[:2] == b"\x80\x04"
    opcodes = {op.name for op, _, _ in pickletools.genops(content)}
    assert opcodes <= {
        "PROTO", "FRAME", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "SETITEM", "SETITEMS",
        "APPEND", "APPENDS", "MEMOIZE", "BINGET", "LONG_BINGET", "BININT", "BININT1", "BININT2",
        "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "NEWTRUE", "NEWFALSE", "TUPLE2",
    }  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["run.pickle"]


def test_what_cannot_be_exported_is_said():
    program = a_bit_of_everything()
    run = run_of(program)
    with pytest.raises(PolicyError, match="exists from 2.11"):
        snapshot_of(program, run, conf="large_segment_size_mb:32", release="2.9")
    with pytest.raises(ConfigError, match="torch release"):
        snapshot_of(program, run, conf="", release="1.0")
    with pytest.raises(TraceError, match="cannot be written"):
        write_snapshot("/nonexistent/run.pickle", program, run, conf="", release="2.15")
    run.events = run.events[:0]
    with pytest.raises(TraceError, match="found no events"):
        snapshot_of(program, run, conf="", release="2.15")
    run.layout = None
    with pytest.raises(TraceError, match="no final layout"):
        snapshot_of(program, run, conf="", release="2.15")


# PyTorch's own tools.


@pytest.fixture(scope="module")
def viz():
    pytest.importorskip("torch", reason="torch is not installed: its viewers cannot be asked")
    from torch.cuda import _memory_viz

    return _memory_viz


def test_every_tool_of_memory_viz_accepts_the_snapshot(viz, case):
    _, run, snapshot = case
    lines = str.splitlines
    weigh = {"format_flamegraph": lambda text: sum(int(x.rsplit(" ", 1)[1]) for x in lines(text))}
    reserved = run.stats["reserved_bytes.all.current"]
    assert viz.segments(snapshot, **weigh) == viz.memory(snapshot, **weigh) == reserved
    nothing = viz.compare(snapshot["segments"], snapshot["segments"], **weigh)
    assert nothing == 0
    assert viz.compare([], snapshot["segments"], **weigh) == reserved
    summary = viz.segsum(snapshot)
    assert f"segments: {len(snapshot['segments'])}\n" in summary
    assert f"total_reserved: {viz.Bytes(reserved)}\n" in summary
    history = viz.trace(snapshot)
    assert f"{len(run.events)} entries" in history
    for page in (
        viz.trace_plot(snapshot),
        viz.trace_plot(snapshot, plot_segments=True),
        viz.segment_plot(snapshot),
        viz.trace_plot(pickle.loads(pickle.dumps(snapshot)), filter_freed=True),
    ):
        assert '"base64"' in page


# Real programs: the export of an exact replay is the recording.


@pytest.mark.parametrize("name", ["devlog", "cnn_resolutions", "streams"])
@pytest.mark.parametrize("kind", ["default", "expandable"])
def test_the_export_of_an_exact_replay_is_the_recording(shared, name, kind):
    path = shared / "recorded" / f"{name}.{kind}.pickle.gz"
    content = gzip.decompress(path.read_bytes())
    recorded = pickle.loads(content)  # the project's own recording
    recording = read_snapshot(content, path.name)
    program = lift(recording, 0)
    run = run_of(program, recording.conf, recorded_driver=True)
    ours = snapshot_of(program, run, conf=recording.conf, release="2.15", recording=recording)

    def plain(entry):
        return {
            key: entry[key]
            for key in ("action", "addr", "device_free", "size", "stream", "pool_id")
            if key in entry
        }

    theirs = [plain(e) for e in recorded["device_traces"][0] if e["action"] != "snapshot"]
    assert [plain(e) for e in ours["device_traces"][0]] == theirs
    # Recorded segments carry the stack of their creation, which a run does not know.
    for mine, real in zip(ours["segments"], recorded["segments"], strict=True):
        for key in mine.keys() - {"frames", "blocks"}:
            assert mine[key] == real[key], key
        for block, other in zip(mine["blocks"], real["blocks"], strict=True):
            for key in ("address", "size", "state"):
                assert block[key] == other[key]
            if block["state"] != "inactive":
                assert block["requested_size"] == other["requested_size"]
                assert block["frames"] == [
                    {k: f[k] for k in ("filename", "line", "name")} for f in other["frames"]
                ]
    for key, value in ours["allocator_settings"].items():
        assert recorded["allocator_settings"][key] == value, key
    assert all(entry["time_us"] > 1e15 for entry in ours["device_traces"][0])

"""A stripped recording names nobody and replays the same."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tightfit.traces.event import BLOCK_COLUMNS, ENTRY_COLUMNS, SEGMENT_COLUMNS, empty_columns
from tightfit.traces.load import load
from tightfit.traces.recording import DeviceRecording, Finding, Recording, Stacks
from tightfit.traces.store import save
from tightfit.traces.strip import strip, without_folders

SECRET = "alice"
DATA = Path(__file__).resolve().parents[2] / "traces" / "data"


@pytest.fixture
def recording():
    """One with the secret in every place that takes text."""
    entries = empty_columns(ENTRY_COLUMNS, 3)
    entries["action"][:] = [3, 0, 1]
    entries["addr"][:] = [4096, 4096, 4096]
    entries["size"][:] = [2 << 20, 700, 700]
    entries["time_us"][:] = [1_700_000_000_000_005, 0, 1_700_000_000_000_009]
    entries["stack"][:] = [1, 0, 1]
    entries["note"][:] = [0, 1, 1]
    entries["pool"][:] = [1, 1, 1]
    host = empty_columns(ENTRY_COLUMNS, 1)
    host["time_us"][:] = 1_700_000_000_000_003
    segments = empty_columns(SEGMENT_COLUMNS, 1)
    segments["address"][:] = 4096
    segments["total_size"][:] = 2 << 20
    segments["stack"][:] = 1
    segments["n_blocks"][:] = 1
    blocks = empty_columns(BLOCK_COLUMNS, 1)
    blocks["address"][:] = 4096
    blocks["size"][:] = 2 << 20
    blocks["stack"][:] = 1
    return Recording(
        name=f"{SECRET}.pickle",
        devices={0: DeviceRecording(entries, segments, blocks), -1: DeviceRecording(host)},
        streams=np.array([0, 77], np.int64),
        pools=[(-1, -1), (0, 0)],
        stacks=Stacks(
            [f"/home/{SECRET}/train.py", "forward"],
            np.array([[0, 3, 1]], np.int64),
            np.array([0, 0, 1], np.int64),
            np.array([0], np.uint32),
        ),
        notes=["{}", f'{{"user_metadata": "{SECRET}"}}'],
        settings={
            "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64,"
            f"expandable_segments_reserve_by_class:[{SECRET}:0.5,b:2G],expandable_segments:True",
            "max_split_size": 64 << 20,
            "expandable_segments": True,
            "roundup_power2_divisions": {"1": 0, "2": 4, SECRET: 1},
            "garbage_collection_threshold": SECRET,
            SECRET: 1,
        },
        annotations=[{"name": SECRET}],
        extra={"host": SECRET},
        findings=[
            Finding("unknown_key", 2, f"Found the key '{SECRET}'.", 0),
            Finding(SECRET, 1, f"Found {SECRET}."),
        ],
    )


def test_no_text_of_the_recording_survives(recording, tmp_path):
    save(recording, tmp_path / "before.npz")
    save(strip(recording), tmp_path / "after.npz")

    def contents(name):
        with zipfile.ZipFile(tmp_path / name) as archive:
            return b"".join(archive.read(member) for member in archive.infolist())

    assert SECRET.encode() in contents("before.npz")
    after = contents("after.npz")
    assert SECRET.encode() not in after and b"forward" not in after
    assert not json.loads(zipfile.ZipFile(tmp_path / "after.npz").read("header.json"))["strings"]


def test_what_replay_needs_stays(recording):
    stripped = strip(recording)
    for number, device in recording.devices.items():
        for table in ("entries", "segments", "blocks"):
            for name, column in getattr(device, table).items():
                found = getattr(stripped.devices[number], table)[name]
                if name in ("stack", "note"):
                    assert not found.any()
                elif name != "time_us":
                    assert np.array_equal(found, column), (table, name)
    assert np.array_equal(stripped.streams, recording.streams)
    assert stripped.pools == recording.pools
    assert stripped.conf == "max_split_size_mb:64,expandable_segments:True"
    assert stripped.settings == {
        "PYTORCH_CUDA_ALLOC_CONF": stripped.conf,
        "max_split_size": 64 << 20,
        "expandable_segments": True,
        "roundup_power2_divisions": {"1": 0, "2": 4},
    }


def test_times_count_from_the_first_entry_of_any_device(recording):
    stripped = strip(recording)
    assert stripped.devices[0].entries["time_us"].tolist() == [2, 0, 6]
    assert stripped.devices[-1].entries["time_us"].tolist() == [0]


def test_findings_keep_what_and_how_often_and_lose_the_wording_of_others(recording):
    found = strip(recording).findings
    assert [(f.kind, f.count, f.device) for f in found] == [
        ("unknown_key", 2, 0),
        ("other", 1, None),
        ("stripped", 1, None),
    ]
    assert found[0].text == "unknown_key: 2; the wording was stripped."
    assert found[1].text == "other: 1; the wording was stripped."
    assert "1 stacks, 1 notes and 1 annotations" in found[-1].text


def test_our_own_warnings_stay(recording):
    told = {f.kind: f.text for f in strip(load(DATA / "convnet.default.npz")).findings}
    assert told["stand_in"].startswith(
        "recorded without a GPU: torch … on a stand-in for …. The allocator is the real one; "
    )
    assert told["depends_on_data"].startswith(
        "the program read values back from the device, times: 6, in 1 places (most often: …); they "
    )
    add = "; where it lies is not recorded and no replay holds it, so add it to every peak; "
    text = f"memory allocated before the trace began and not freed in it: 8,192 bytes{add}"
    text += "beside --capacity, --other 1MiB leaves room for it"
    recording.findings = [Finding("held_before", 8192, text, 0)]
    once = strip(recording)
    assert once.findings[0] == recording.findings[0]
    assert strip(once).findings[0] == recording.findings[0]


def test_a_text_that_only_begins_as_ours_does_not_stay(recording):
    held = (
        "memory allocated before the trace began and not freed in it: {} bytes; where it lies is "
    )
    held += "not recorded and no replay holds it, so add it to every peak; beside "
    held += "--capacity, --other 1MiB leaves room for it{}"
    recording.findings = [
        Finding("held_before", 1, held.format(SECRET, "")),
        Finding("held_before", 2, held.format("1", f" says {SECRET}")),
        Finding("no_streams", 3, SECRET),
        Finding("no_streams", 4, held.format("1", "")),  # of another kind
        Finding(SECRET, 5, held.format("1", "")),
        Finding("no_streams", 6, f"streams are not recorded; one is assumed\n{SECRET}"),
    ]
    found = strip(recording).findings[:-1]
    assert [f.text for f in found] == [
        f"{f.kind}: {n}; the wording was stripped." for n, f in enumerate(found, start=1)
    ]
    assert SECRET not in " ".join(f.kind + f.text for f in found)


def test_that_our_own_replay_wrote_the_file_stays(recording):
    recording.extra["tightfit"] = {"torch_release": "2.11", "recording": SECRET, "stats": {}}
    assert strip(recording).extra == {"tightfit": {"simulated": True, "torch_release": "2.11"}}
    recording.extra["tightfit"] = {"torch_release": f"2.11 {SECRET}"}
    assert not strip(recording).extra


def test_the_original_is_left_as_it_is(recording):
    stripped = strip(recording)
    stripped.devices[0].entries["size"][:] = 1
    stripped.pools.append((9, 9))
    assert recording.devices[0].entries["size"].tolist() == [2 << 20, 700, 700]
    assert recording.devices[0].entries["stack"].tolist() == [1, 0, 1]
    assert len(recording.pools) == 2 and recording.name == f"{SECRET}.pickle"


def test_stripping_twice_reports_once(recording):
    twice = strip(strip(recording))
    assert [f.kind for f in twice.findings].count("stripped") == 1
    assert twice.devices[0].entries["time_us"].tolist() == [0, 0, 4]


def test_a_recording_without_times_keeps_none(recording):
    for device in recording.devices.values():
        device.entries["time_us"][:] = 0
    stripped = strip(recording)
    assert not stripped.devices[0].entries["time_us"].any()


def test_files_lose_their_folders_and_keep_their_lines(recording):
    recording.stacks = Stacks(
        [f"/home/{SECRET}/train.py", "step", f"C:\\{SECRET}\\model.py"],
        np.array([[0, 7, 1], [2, 9, 1]]),
        np.array([0, 0, 2]),
        np.array([1, 0], np.uint32),
    )
    bare = without_folders(recording)
    assert bare.stacks[1] == [("model.py", 9, "step"), ("train.py", 7, "step")]
    assert SECRET not in " ".join(bare.stacks.strings)
    assert recording.stacks[1][1][0] == f"/home/{SECRET}/train.py", "the original is left alone"
    times = [d.entries["time_us"].tolist() for d in bare.devices.values()]
    assert sorted(times) == [[0], [2, 0, 6]]

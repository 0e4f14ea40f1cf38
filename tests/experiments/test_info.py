"""What `tightfit info` says, against a story worked out by hand and PyTorch's own counters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments.cli import main
from tightfit.experiments.info import show
from tightfit.experiments.owners import Owner, user_frame
from tightfit.experiments.recorded_by import recorded_by
from tightfit.experiments.summary import summarize
from tightfit.traces.load import load

from .story import MiB, dump, snapshot

pytestmark = pytest.mark.interpreted


def test_the_story_is_told_as_it_was_written(story: Path) -> None:
    found = summarize(load(story))
    (device,) = found.devices
    assert device.entries == {
        "alloc": 3,
        "free_requested": 2,
        "free_completed": 2,
        "segment_alloc": 2,
        "segment_free": 1,
    }
    assert (device.allocations, device.streams, device.private_pools, device.segments) == (
        3,
        1,
        0,
        1,
    )
    assert (device.start_reserved_bytes, device.start_requested_bytes) == (0, 0)
    assert (device.peak_reserved_bytes, device.peak_requested_bytes) == (22 * MiB, 3000 + 5 * MiB)
    assert (device.end_reserved_bytes, device.end_requested_bytes) == (2 * MiB, 3000)
    assert device.wasted_at_peak == 1 - (3000 + 5 * MiB) / (22 * MiB)
    assert device.owners == [Owner("project/train.py:12 load", 3000, 1)]
    assert device.completeness == "the history begins with an empty allocator, nothing is missing"
    assert found.conf == "max_split_size_mb:64"
    assert found.settings == {"max_split_size": 64 * MiB}


def test_a_beginning_that_was_lost_is_recovered_from_the_end(tmp_path: Path) -> None:
    content = snapshot()
    del content["device_traces"][0][:3]  # the ring buffer overwrote the first three entries
    (device,) = summarize(load(dump(content, tmp_path / "cut.pickle"))).devices
    assert (device.start_reserved_bytes, device.start_requested_bytes) == (2 * MiB, 4000)
    assert (device.peak_reserved_bytes, device.peak_requested_bytes) == (22 * MiB, 3000 + 5 * MiB)
    assert device.completeness == (
        "the history begins with 2.0 MiB reserved, 4,000 B of it asked for, nothing is missing"
    )


def test_frees_that_were_not_recorded_are_guessed_and_said(tmp_path: Path) -> None:
    content = snapshot()
    entries = content["device_traces"][0]
    content["device_traces"][0] = [e for e in entries if not e["action"].startswith("free")]
    found = summarize(load(dump(content, tmp_path / "no_frees.pickle")))
    (device,) = found.devices
    assert device.start_requested_bytes == 0
    assert not device.is_exact
    assert "had to be guessed" in device.completeness
    assert found.findings


def test_no_waste_is_claimed_where_the_file_contradicts_itself(tmp_path: Path) -> None:
    content = snapshot()
    del content["device_traces"][0][-1]  # the release of a segment that is not there at the end
    found = summarize(load(dump(content, tmp_path / "kept.pickle")))
    assert found.devices[0].wasted_at_peak is None
    assert "unbalanced" in [finding.kind for finding in found.findings]
    assert "wasted" not in found.verdict


def test_a_file_without_history_is_a_final_state(tmp_path: Path, capsys: Any) -> None:
    content = snapshot()
    content["device_traces"] = [[]]
    found = summarize(load(dump(content, tmp_path / "state.pickle")))
    assert found.verdict == (
        "state.pickle: 0 entries; device 0: final state only, 2.0 MiB reserved, "
        "3,000 B of it asked for"
    )
    show(found, "state.pickle")
    printed = capsys.readouterr().out
    assert "_record_memory_history" in printed
    assert "next:" not in printed


def test_a_state_without_allocations_leaves_nothing_to_check(tmp_path: Path, capsys: Any) -> None:
    content = snapshot()
    content["device_traces"] = [[{"action": "snapshot", "addr": 0, "size": 1 << 30, "stream": 0}]]
    path = dump(content, tmp_path / "state.pickle")
    assert main(["check", str(path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("NOTHING TO CHECK: a state was recorded")
    assert main(["check", str(path), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["compared"] is False
    assert value["devices"][0]["allocs"] == 0


def test_no_verdict_says_that_all_of_something_is_not_exact(tmp_path: Path, capsys: Any) -> None:
    content = snapshot()
    content["segments"][0]["total_size"] += 2 << 20  # a block that nothing allocated
    content["segments"][0]["blocks"][-1]["size"] += 2 << 20
    path = str(dump(content, tmp_path / "more.pickle"))
    assert main(["check", path]) == 1
    said = capsys.readouterr().out.splitlines()[0]
    assert said == "NOT EXACT: every recorded address is reproduced, but the final state differs"
    assert main(["check", path, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == said and answer["conf"] == "max_split_size_mb:64"
    assert answer["findings"][0]["kind"] == "segment_size_changed"


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    content = snapshot() | {"segments": [], "device_traces": []}
    found = summarize(load(dump(content, tmp_path / "nothing.pickle")))
    assert found.verdict == "nothing.pickle: nothing was recorded"


def _without(content: dict[str, Any], *keys: str) -> dict[str, Any]:
    for entry in content["device_traces"][0]:
        for key in keys:
            del entry[key]
    return content


def test_the_release_is_read_off_the_keys(tmp_path: Path) -> None:
    def words(content: dict[str, Any]) -> str:
        return recorded_by(load(dump(content, tmp_path / "x.pickle"))).words

    content = snapshot()
    assert words(content) == "torch 2.12, by its keys (pool_id)"
    content["allocator_settings"] |= {"max_round_threshold": -1, "max_cached_size": -1}
    assert words(content) == "torch 2.13 or newer, by its keys (max_round_threshold)"
    content = _without(snapshot(), "pool_id")
    content["segments"][0].pop("segment_pool_id")
    assert words(content).startswith("torch 2.9 to 2.11") or words(content).startswith(
        "torch 2.10 to 2.11"
    )
    del content["allocator_settings"]["graph_capture_record_stream_reuse"]
    _without(content, "user_metadata", "compile_context")
    assert words(content) == "torch 2.4 to 2.8, by its keys (time_us)"


def test_the_owner_is_the_users_own_code() -> None:
    library = ("/usr/lib/site-packages/torch/nn/functional.py", 7, "softmax")
    own = ("C:\\Users\\me\\project\\model.py", 39, "forward")
    assert user_frame([("??", 0, "malloc"), library, own]) == "project/model.py:39 forward"
    assert user_frame([("??", 0, "malloc"), library]) == "nn/functional.py:7 softmax"
    assert user_frame([(own[0], -1, own[2])]) == "project/model.py forward"
    allocator = ("??", 0, "c10::cuda::CUDACachingAllocator::malloc(unsigned long)")
    kernel = ("??", 0, "at::native::bmm(at::Tensor const&)")
    node = ("??", 0, "torch::autograd::generated::BmmBackward0::apply(std::vector<at::Tensor>&&)")
    assert user_frame([allocator, kernel, node]) == "BmmBackward0 (backward, C++)"
    assert user_frame([allocator, kernel]) == "at::native::bmm"
    assert user_frame([allocator]) == allocator[2]
    assert user_frame([]) == "unknown"


def test_a_page_is_wide_enough_for_every_line_but_the_commands(story: Path, capsys: Any) -> None:
    show(summarize(load(story)), "story.pickle")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("story.pickle: 10 entries; device 0: peak reserved 22.0 MiB")
    assert lines[-1] == "next: tightfit check story.pickle / tightfit tune story.pickle"
    assert max(len(line) for line in lines[:-1]) <= 100


@pytest.mark.parametrize("workload", ["cuda_graphs", "streams", "devlog", "cnn_resolutions", "oom"])
@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
def test_peaks_are_those_that_pytorch_counted(shared: Path, workload: str, conf: str) -> None:
    with open(shared / "recorded" / "summary.jsonl", encoding="utf-8") as file:
        runs = [json.loads(line) for line in file]
    (stats,) = [r["stats"] for r in runs if (r["workload"], r["conf"]) == (workload, conf)]
    kind = "expandable" if conf else "default"
    found = summarize(load(shared / "recorded" / f"{workload}.{kind}.pickle.gz"))
    (device,) = [d for d in found.devices if d.device == 0]
    assert device.peak_reserved_bytes == stats["reserved_bytes.all.peak"]
    assert device.peak_requested_bytes == stats["requested_bytes.all.peak"]
    assert device.end_reserved_bytes == stats["reserved_bytes.all.current"]
    assert device.end_requested_bytes == stats["requested_bytes.all.current"]
    assert found.conf == conf


def test_a_recording_of_ours_says_its_release_and_a_wrong_one_is_not_believed() -> None:
    recording = load(Path(__file__).resolve().parents[2] / "traces/data/convnet.default.npz")
    found = recorded_by(recording)
    assert found.words == "torch 2.15.0+cu132, as the recording says"
    assert (found.oldest, found.newest) == ("2.15", "2.15")
    recording.extra["recorded"] = {"torch": "the best one"}
    assert recorded_by(recording).words.endswith("by its keys (max_round_threshold)")
    recording.extra["recorded"] = ["2.15.0"]
    assert recorded_by(recording).sign == "max_round_threshold"


@pytest.mark.parametrize(
    "name", [pytest.param("gpt_fp32.default", marks=pytest.mark.slow), "cuda_graphs.default"]
)
def test_a_simulated_snapshot_is_checked_by_the_rules_it_was_simulated_by(
    name: str, tmp_path: Path, capsys: Any
) -> None:
    recording = Path(__file__).resolve().parents[2] / f"traces/data/{name}.npz"
    out = str(tmp_path / "simulated.pickle")
    assert main(["replay", str(recording), "--snapshot", out]) == 0
    assert main(["info", out]) == 0
    printed = capsys.readouterr().out
    assert "recorded by: tightfit replay, by the rules of torch 2.15" in printed
    assert "unknown key" not in printed
    assert main(["check", out]) == 0
    assert capsys.readouterr().out.startswith("EXACT")


def test_that_the_simulator_reproduces_itself_is_said_to_prove_nothing(
    story: Path, tmp_path: Path, capsys: Any
) -> None:
    made, stripped = str(tmp_path / "simulated.pickle"), str(tmp_path / "stripped.npz")
    assert main(["replay", str(story), "--snapshot", made]) == 0
    assert main(["strip", made, stripped]) == 0
    capsys.readouterr()
    for path, is_ours in ((made, True), (stripped, True), (str(story), False)):
        assert main(["check", path, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["verdict"].startswith("EXACT")
        kinds = [f["kind"] for f in answer["findings"]]
        assert kinds.count("own_replay") == is_ours
        assert main(["check", path]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert ("wrote this file, not PyTorch, so" in printed) is is_ours
        assert printed.count("What it means: ") == 1
        assert ("the allocator's decisions are fully known here" in printed) is not is_ours

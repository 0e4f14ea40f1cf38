"""What is said of a recording that ran out of memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments.cli import main
from tightfit.experiments.out_of_memory import OutOfMemory, first_out_of_memory
from tightfit.traces.load import load
from tightfit.traces.units import exact_bytes, parse_bytes

from .story import MiB, dump, frames, snapshot

DATA = Path(__file__).resolve().parents[2] / "traces/data"


def failing(tmp_path: Path, size: int, free: int) -> Path:
    """The story, in which `size` bytes are wanted in vain after the last entry but one."""
    content = snapshot()
    history = content["device_traces"][0]
    oom = {key: v for key, v in history[-1].items() if key != "addr"}
    oom |= {"action": "oom", "size": size, "device_free": free, "frames": frames("grow", 33)}
    history.insert(len(history) - 1, oom)
    return dump(content, tmp_path / "failed.pickle")


@pytest.mark.interpreted
def test_the_failure_and_what_there_was_are_read_off_the_history(tmp_path: Path) -> None:
    # 22 MiB are reserved when it fails; the segment of 20 MiB is given back afterwards.
    recording = load(failing(tmp_path, 64 * MiB, 10 * MiB))
    found = first_out_of_memory(recording.devices[0], recording.stacks)
    assert found == OutOfMemory(
        9, 64 * MiB, 22 * MiB, 22 * MiB, 10 * MiB, "project/train.py:33 grow"
    )
    assert found is not None
    assert not found.is_limited and found.capacity_bytes == 32 * MiB
    assert found.words == (
        "OUT OF MEMORY at entry 9: 64.0 MiB wanted at project/train.py:33 grow, 22.0 MiB reserved, "
        "10.0 MiB free on the device"
    )


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("size", "free", "limited"),
    [
        (64 * MiB, 63 * MiB, False),
        (64 * MiB, 64 * MiB, True),
        (2 * MiB, 19 * MiB, False),  # a segment of 20 MiB is taken for it
        (2 * MiB, 20 * MiB, True),
    ],
)
def test_where_the_device_had_room_a_limit_of_the_process_was_met(
    size: int, free: int, limited: bool
) -> None:
    found = OutOfMemory(0, size, 100, 120, free, "")
    assert found.is_limited == limited
    assert found.capacity_bytes == (120 if limited else 100 + free)


@pytest.mark.interpreted
def test_info_names_the_capacity_to_tune_for(tmp_path: Path, capsys: Any) -> None:
    path = failing(tmp_path, 64 * MiB, 10 * MiB)
    assert main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "device 0: OUT OF MEMORY at entry 9: 64.0 MiB wanted" in printed
    assert printed.splitlines()[-1].endswith(f"tightfit tune {path} --capacity 32MiB")
    assert main(["info", str(path), "--json"]) == 0
    (device,) = json.loads(capsys.readouterr().out)["devices"]
    assert device["out_of_memory"]["free_bytes"] == 10 * MiB


def test_tune_says_what_to_ask_and_its_answer_repeats_what_was_asked(capsys: Any) -> None:
    recording = str(DATA / "oom.default.npz")
    assert main(["tune", recording, "--trials", "0"]) == 0
    assert "--capacity 4044MiB asks what fits" in " ".join(capsys.readouterr().out.split())
    assert main(["tune", recording, "--trials", "0", "--capacity", "4044MiB"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("FITS on 4,044.0 MiB with ")
    assert "expandable_segments:True " in printed, "a line is not broken within a word"
    assert printed.splitlines()[-1].endswith(" --capacity 4044MiB")


def test_a_name_with_blanks_can_be_copied_from_the_answer(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "a b.npz"
    path.write_bytes((DATA / "mlp_train.npz").read_bytes())
    assert main(["tune", str(path), str(DATA / "mlp_train.npz"), "--trials", "0"]) == 0
    assert f"next: tightfit replay '{path}' --conf" in capsys.readouterr().out


def test_a_line_that_was_recorded_is_said_to_be_kept(capsys: Any) -> None:
    assert main(["tune", str(DATA / "gpt_bf16.expandable.npz"), "--trials", "0"]) == 0
    assert "ran with this line already: keep it" in capsys.readouterr().out


def test_no_line_is_offered_where_none_fits(capsys: Any) -> None:
    recording = str(DATA / "gpt_bf16.expandable.npz")
    assert main(["tune", recording, "--trials", "0", "--capacity", "10GiB"]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("DOES NOT FIT") and "export" not in printed


@pytest.mark.interpreted
@pytest.mark.parametrize(
    "size", [0, 1, 1023, 1 << 10, 3 << 20, (1 << 30) + 1, 6 << 30, 16 * 10**6, 80 * 10**9]
)
def test_exact_bytes_are_read_back_as_they_were(size: int) -> None:
    assert size == 0 or parse_bytes(exact_bytes(size)) == size


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compare", "oom", "--policy", "pytorch", "--packing", "0"], "--capacity 4044MiB asks"),
        (["tune", "oom", "--policy", "best_fit", "--trials", "1"], "--capacity 4044MiB asks"),
        (["replay", "graph_network"], "at most 38.40 GiB was reserved; peaks here are those on a"),
        (["explain", "gpt_recompute"], "--capacity 22565MiB asks about the recorded one"),
        (
            ["compare", "gpt_recompute", "--policy", "pytorch", "--packing", "0"],
            "given back for one",
        ),
    ],
)
def test_a_recording_that_ran_short_is_said_to_be_one(
    words: list[str], says: str, capsys: Any
) -> None:
    words = [words[0], str(DATA / f"{words[1]}.default.npz"), *words[2:]]
    assert main(words) == 0
    assert says in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--capacity", "70GiB"]) == 0
    assert "--capacity" not in capsys.readouterr().out.partition("next:")[0]


@pytest.mark.parametrize("name", ["gpt_recompute", "graph_network"])
def test_the_capacity_named_is_that_of_the_recorded_run(name: str, capsys: Any) -> None:
    path = str(DATA / f"{name}.default.npz")
    assert main(["replay", path, "--json"]) == 0
    (found,) = (
        f for f in json.loads(capsys.readouterr().out)["findings"] if f["kind"] == "short_of_memory"
    )
    size = found["text"].partition("--capacity ")[2].split()[0]
    assert main(["replay", path, "--capacity", size, "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["devices"]
    recorded = load(Path(path)).extra["recorded"]["devices"]["0"]["stats"]
    assert run["peak_reserved_bytes"] == recorded["reserved_bytes.all.peak"]
    assert run["alloc_retries"] == recorded["num_alloc_retries"] == found["count"] == 1

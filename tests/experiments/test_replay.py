"""replay and check on the command line: what they print, and how they end."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tightfit.experiments.cli import app, main

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
GPT, SMALL = str(DATA / "gpt_bf16_varlen.default.npz"), str(DATA / "mlp_train.npz")
FIELDS = (
    "device conf torch capacity_bytes other_bytes events peak_reserved_bytes peak_allocated_bytes "
    "peak_active_bytes peak_requested_bytes final_reserved_bytes device_allocs device_frees "
    "alloc_retries ooms first_oom_event"
).split()


def run(*words: str) -> tuple[int, dict]:
    result = CliRunner().invoke(app, [*words, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_replays_the_recorded_settings_unless_told_otherwise() -> None:
    code, said = run("replay", str(DATA / "gpt_bf16_varlen.expandable.npz"))
    assert code == 0
    device = said["devices"][0]
    assert set(FIELDS) <= set(device)
    assert device["conf"] == "expandable_segments:True"
    assert device["peak_reserved_bytes"] == 6688 << 20


def test_an_empty_line_is_the_default_configuration() -> None:
    _, said = run("replay", str(DATA / "gpt_bf16_varlen.expandable.npz"), "--conf", "")
    assert said["devices"][0]["peak_reserved_bytes"] == 9372 << 20


def test_ends_at_the_first_failure_and_says_where() -> None:
    code, said = run("replay", GPT, "--capacity", "4GiB")
    device = said["devices"][0]
    assert code == 1
    assert (device["ooms"], device["capacity_bytes"]) == (1, 4 << 30)
    code, on = run("replay", GPT, "--capacity", "4GiB", "--keep-going")
    assert code == 1
    assert on["devices"][0]["ooms"] > 1
    assert on["devices"][0]["first_oom_event"] == device["first_oom_event"]
    assert on["devices"][0]["events"] > device["events"]


def test_memory_of_others_counts() -> None:
    fits, _ = run("replay", GPT, "--capacity", "9GiB")
    crowded, _ = run("replay", GPT, "--capacity", "9GiB", "--other", "4GiB")
    assert (fits, crowded) == (0, 1)


def test_what_to_type_next_has_the_device_as_it_was_asked_about(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = "--capacity 80GB --other 500MB --device 0 --torch 2.15"
    assert main(["replay", SMALL, *asked.split()]) == 0
    assert capsys.readouterr().out.endswith(f"next: tightfit tune {SMALL} {asked}\n")


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A recording whose settings torch 2.4 refuses."""
    out = str(tmp_path_factory.mktemp("newer") / "newer.pickle")
    assert main(["replay", SMALL, "--conf", "large_segment_size_mb:48", "--snapshot", out]) == 0
    return out


@pytest.mark.parametrize("command", ["replay", "explain", "check"])
def test_recorded_settings_that_are_refused_are_not_said_to_be_used(
    command: str, newer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([command, newer, "--torch", "2.4"]) == (command == "check")
    said = capsys.readouterr().out
    assert "settings: (default)\n" in said
    assert "torch 2.4 refuses the recorded settings" in " ".join(said.split())
    assert said.endswith(f"next: tightfit tune {newer} --torch 2.4\n")
    code, answer = run(command, newer, "--torch", "2.4")
    assert answer.get("conf", "") == "" and code == (command == "check")
    assert "refused_settings" in [f["kind"] for f in answer["findings"]]


def test_recorded_settings_are_said_to_be_so(
    newer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", newer]) == 0
    assert "settings: large_segment_size_mb:48, as recorded\n" in capsys.readouterr().out
    _, answer = run("replay", newer, "--torch", "2.4", "--conf", "")
    assert "refused_settings" not in [f["kind"] for f in answer["findings"]]


def test_writes_a_snapshot_that_our_own_reader_reproduces(tmp_path: Path) -> None:
    out = tmp_path / "out.pickle"
    code, said = run(
        "replay", GPT, "--conf", "expandable_segments:True", "--snapshot", str(out),
        "--torch", "2.15",
    )  # fmt: skip
    assert code == 0 and said["files"] == [str(out)]
    written = pickle.loads(out.read_bytes())
    assert written["tightfit"]["simulated"] is True
    reserved = sum(s["total_size"] for s in written["segments"])
    assert reserved == said["devices"][0]["final_reserved_bytes"]
    code, checked = run("check", str(out), "--torch", "2.15")
    assert code == 0, checked
    assert checked["devices"][0]["allocs_exact"] == checked["devices"][0]["allocs"] > 14_000


def test_a_snapshot_replaces_nothing_unasked_and_never_its_own_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mine, out = tmp_path / "mine.pickle", tmp_path / "out.pickle"
    words = ["replay", GPT, "--snapshot", str(mine)]
    assert main(words) == 0
    before = mine.read_bytes()
    assert main(words) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    link = tmp_path / "link.pickle"
    link.symlink_to(mine)
    for snapshot in (mine, link):
        words = ["replay", str(mine), "--conf", "", "--snapshot", str(snapshot), "--force"]
        assert main(words) == 2
        assert "is the recording itself; name another file" in capsys.readouterr().err
    assert mine.read_bytes() == before
    capsys.readouterr()
    assert main(["replay", str(mine), "--snapshot", str(out)]) == 0
    assert f"written: {out}" in capsys.readouterr().out.splitlines()


def test_check_answers_the_json_contract() -> None:
    code, said = run("check", GPT)
    assert code == 0
    device = said["devices"][0]
    assert device["device"] == 0 and device["final_blocks_exact"] and device["complete"]
    assert device["allocs"] == device["allocs_exact"] == 14193
    assert device["segments"] == device["segments_exact"] == 89
    assert device["lost_frees"] == 0


def test_check_says_no_under_rules_that_do_not_fit() -> None:
    code, said = run("check", GPT, "--torch", "2.12")
    assert code == 1
    assert said["verdict"].startswith("NOT EXACT")
    assert "predicted at" in said["devices"][0]["divergence"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["replay", GPT, "--conf", "expandable_segment:True"], "expandable_segments"),
        (["replay", GPT, "--capacity", "24 potatoes"], "24GiB"),
        (["replay", GPT, "--capacity", "80"], "expected memory of a GPU; did you mean 80GiB?"),
        (["replay", GPT, "--capacity", "81559"], "did you mean 81559MiB?"),
        (["replay", GPT, "--capacity", "80GiB", "--other", "2"], "--other: found 2 bytes"),
        (["replay", GPT, "--torch", "3.0"], "2.15"),
        (["replay", GPT, "--device", "7"], "device 7"),
        (["replay", GPT, "--other", "1GiB"], "--capacity"),
        (["check", "no_such_file.npz"], "no_such_file.npz"),
        (["tune", GPT, "--without", "expandable"], "expandable_segments"),
    ],
)
def test_bad_input_ends_in_one_message(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert expected in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("expandable_segments:True,large_segment_size_mb:31", "multiple of the driver's"),
        ("garbage_collection_threshold:0.8", "does nothing without"),
        ("per_process_memory_fraction:0.5", "does nothing without --capacity"),
        ("backend:cudaMallocAsync", "leaves placement to the driver"),
    ],
)
def test_says_what_a_line_cannot_do_here(line: str, expected: str) -> None:
    _, said = run("replay", GPT, "--conf", line)
    assert any(expected in f["text"] for f in said["findings"])

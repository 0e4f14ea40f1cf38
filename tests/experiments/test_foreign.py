"""Recordings that other tools made, from end to end: useful, and plain about what they lack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tightfit.experiments.cli import app

MiB = 1 << 20


def csv(path: Path, free_first: bool = False) -> Path:
    """Three rounds of 30, 40 and 50 MiB; nothing live between them, 7 MiB live at the end."""
    rows = ["Thread,Time,Action,Pointer,Size,Stream"]
    if free_first:
        rows.append(f"1,00:00:00.000001,free,0x10000000,{60 * MiB},0x7")
    for k, size in enumerate((30, 40, 50)):
        for action in ("allocate", "free"):
            rows.append(f"1,00:00:0{k}.5,{action},0x2{k}0000000,{size * MiB},0x7")
    rows.append(f"1,00:00:09.5,allocate,0x50000000,{7 * MiB},0x7")
    path.write_text("\n".join(rows) + "\n")
    return path


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == code, result.output
    return result.stdout


def document(*words: object, code: int = 0):
    return json.loads(run(*words, "--json", code=code))


def test_check_says_that_there_is_nothing_to_compare(tmp_path):
    path = csv(tmp_path / "log.csv")
    assert run("check", path).startswith("NOTHING TO CHECK")
    found = document("check", path)
    assert found["compared"] is False and found["devices"] == []


def test_check_of_a_snapshot_says_that_it_compared(story: Path):
    assert document("check", story)["compared"] is True


def test_info_shows_what_was_asked_for_and_claims_nothing_about_segments(tmp_path):
    text = run("info", csv(tmp_path / "log.csv"))
    assert "peak requested 50.0 MiB" in text and "peak reserved 0" not in text
    assert "settings: (not recorded)" in text and "nothing tells of segments" in text
    (device,) = document("info", csv(tmp_path / "log.csv"))["devices"]
    assert device["shows_driver"] is False and device["wasted_at_peak"] is None
    assert device["end_requested_bytes"] == 7 * MiB and device["peak_requested_bytes"] == 50 * MiB


def test_replay_places_the_program_anew(tmp_path):
    """30, 40 and 50 MiB in a row: each needs a segment of its own, none is given back."""
    path = csv(tmp_path / "log.csv")
    (device,) = document("replay", path)["devices"]
    assert device["peak_reserved_bytes"] == (30 + 40 + 50) * MiB
    assert device["peak_requested_bytes"] == 50 * MiB and device["events"] == 7
    (small,) = document("replay", path, "--capacity", "100MiB")["devices"]
    assert small["ooms"] == 0 and small["alloc_retries"] == 1
    text = run("replay", path, "--capacity", "49MiB", code=1)
    assert "as recorded" not in text and "OUT OF MEMORY" in text


def test_memory_freed_but_never_allocated_is_placed_first(tmp_path):
    path = csv(tmp_path / "log.csv", free_first=True)
    (device,) = document("replay", path)["devices"]
    # 60 MiB come first and serve all the others.
    assert device["peak_reserved_bytes"] == device["peak_requested_bytes"] == 60 * MiB
    text = run("replay", path)
    assert "frees of memory whose allocation was not recorded: 1 (60.0 MiB)" in text
    out = tmp_path / "simulated.pickle"
    run("replay", path, "--snapshot", out)
    assert document("info", out)["devices"][0]["peak_reserved_bytes"] == 60 * MiB


def test_tune_finds_a_line(tmp_path):
    found = document("tune", csv(tmp_path / "log.csv"), "--trials", "4")
    assert found["default"]["peak_reserved_bytes"] == 120 * MiB
    assert found["best"]["conf"] == "expandable_segments:True"
    # Pages of 20 MiB: three of them hold 50.
    assert found["best"]["peak_reserved_bytes"] == 60 * MiB
    assert found["bound_bytes"] == 50 * MiB
    assert {"no_driver"} <= {f["kind"] for f in found["findings"]}


@pytest.mark.parametrize("command", ["convert", "strip"])
def test_a_converted_one_answers_the_same(command, tmp_path):
    path = csv(tmp_path / "log.csv", free_first=True)
    run(command, path, tmp_path / "kept.npz")
    assert (
        document("replay", tmp_path / "kept.npz")["devices"] == document("replay", path)["devices"]
    )
    assert document("info", tmp_path / "kept.npz")["recorded_by"]["oldest"] is None


def test_the_real_profiler_trace(shared: Path):
    """Without the 3,907 MiB that were live before; the line saves what a snapshot would confirm."""
    path = shared / "kineto" / "two_v100_memory_events.json.gz"
    (device,) = document("replay", path)["devices"]
    assert device["peak_requested_bytes"] == 2_532_893_696
    assert device["peak_reserved_bytes"] >= device["peak_requested_bytes"]

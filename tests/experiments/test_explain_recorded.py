"""`tightfit explain` of recordings: figures are those of the history, and what it leads to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightfit.experiments.cli import main
from tightfit.traces.event import Action
from tightfit.traces.load import load
from tightfit.traces.units import MiB

from .explained import explained

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
EXPANDABLE = "expandable_segments:True"


@pytest.mark.parametrize("name", ["oom.default", "oom.expandable"])
def test_the_figures_of_a_recorded_failure_are_those_of_its_history(name: str) -> None:
    path = DATA / f"{name}.npz"
    found = explained(path)
    entries = load(path).devices[0].entries
    failed = int(np.flatnonzero(entries["action"] == Action.OOM)[0])
    assert found.entry == failed and not found.note
    live: dict[int, int] = {}
    reserved = 0
    for action, addr, size in zip(
        *(entries[c][:failed].tolist() for c in ("action", "addr", "size")), strict=True
    ):
        if action == Action.ALLOC:
            live[addr] = size
        elif action == Action.FREE_COMPLETED:
            del live[addr]
        elif action in (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP):
            reserved += size
        elif action in (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP):
            reserved -= size
    assert found.asked_bytes == sum(live.values()) and found.reserved_bytes == reserved
    assert found.shares[0].pieces == len(live)
    assert {c.kind for c in found.changes} >= {"hole", "flush"}
    assert all(c.fits for c in found.changes)


@pytest.mark.parametrize(
    ("name", "conf"),
    [("gpt_bf16_varlen.default", None), ("gpt_bf16_varlen.default", EXPANDABLE),
     ("cuda_graphs.expandable", None), ("sharded_rank3of4.default", None)],
)  # fmt: skip
def test_the_shares_of_a_recorded_peak_are_the_replay_s(name: str, conf: str | None) -> None:
    found = explained(DATA / f"{name}.npz", conf=conf)
    assert sum(s.bytes for s in found.shares) == found.reserved_bytes
    assert sum(h.bytes for h in found.holders) == found.asked_bytes
    assert found.reserved_bytes < found.reached_bytes <= found.peak_reserved_bytes
    assert found.bound_bytes is not None and found.bound_bytes <= found.peak_reserved_bytes
    for change in found.changes:
        assert change.fits and change.peak_reserved_bytes < found.peak_reserved_bytes


def test_json_tells_all_of_it(capsys: Any) -> None:
    assert main(["explain", str(DATA / "oom.default.npz"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["simulated"] is True and answer["kind"] == "fragmentation"
    assert answer["capacity_bytes"] == answer["room_bytes"] == 4044 * MiB
    assert answer["other_bytes"] == 0
    assert answer["want"]["lane"] == {"stream": 0, "pool": 0, "is_small": False}
    assert {"conf", "torch", "torch_found", "device", "entry", "words", "findings"} <= set(answer)
    assert {"where", "blocks", "bytes", "alone_bytes", "shared_bytes", "never_freed"} == set(
        answer["pins"][0]
    )
    assert {"kind", "where", "blocks", "bytes", "entry", "fits", "ends_at"} <= set(
        answer["changes"][0]
    )


def test_a_recording_that_ran_out_leads_to_its_explanation(capsys: Any) -> None:
    path = str(DATA / "oom.default.npz")
    assert main(["info", path]) == 0
    assert f"tightfit explain {path} / " in capsys.readouterr().out
    assert main(["replay", path, "--conf", "", "--capacity", "4044MiB"]) == 1
    assert f"tightfit explain {path} --conf '' --capacity 4044MiB / " in capsys.readouterr().out
    assert main(["tune", path, "--capacity", "3GiB"]) == 1
    assert f"next: tightfit explain {path} --conf" in capsys.readouterr().out


def test_what_to_type_next_has_the_release_that_was_asked_for(capsys: Any) -> None:
    path = str(DATA / "oom.default.npz")
    asked = "--capacity 4044MiB --torch 2.14"
    assert main(["explain", path, "--torch", "2.14"]) == 0
    assert capsys.readouterr().out.endswith(f"next: tightfit tune {path} {asked}\n")


@pytest.mark.parametrize(("at", "code"), [(0, 0), (2949, 0), (2950, 2), (-1, 2)])
def test_every_entry_can_be_looked_at_and_no_other(at: int, code: int, capsys: Any) -> None:
    assert main(["explain", str(DATA / "oom.default.npz"), f"--at={at}"]) == code
    said = capsys.readouterr()
    assert ("expected an entry of 0 to 2,949" in said.err) == (code == 2)
    assert (f"at entry {at:,}: " in said.out) == (code == 0)


def test_where_the_lines_own_limit_is_why_it_is_said_so(capsys: Any) -> None:
    words = ["explain", str(DATA / "mlp_train.npz"), "--capacity", "300MiB"]
    assert main([*words, "--conf", "per_process_memory_fraction:0.5"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("THE LINE'S LIMIT WAS MET at entry ")
    assert "more than per_process_memory_fraction leaves it of 300.0 MiB" in said
    assert "no setting helps" not in said
    assert main([*words[:-1], "150MiB"]) == 0
    assert capsys.readouterr().out.startswith("TRUE EXHAUSTION")


def test_what_changes_nothing_stands_beside_what_helps(capsys: Any) -> None:
    for capacity, then in (([], "it runs 1,958.0"), (["--capacity", "1418MiB"], "out of memory")):
        assert main(["explain", str(DATA / "cnn_resolutions.default.npz"), *capacity]) == 0
        out = capsys.readouterr().out
        (line,) = [" ".join(x.split()) for x in out.splitlines() if x.startswith("nothing ")]
        assert then in line
    assert "of larger ones some fail, from 1,420.0" in out

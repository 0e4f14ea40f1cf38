"""`tightfit explain`: verdicts on programs worked out by hand."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from tightfit.experiments.cli import main
from tightfit.experiments.explain.asked import _smallest
from tightfit.experiments.explain.explanation import Explanation
from tightfit.experiments.explain.moment import terms_of
from tightfit.experiments.smallest import Smallest
from tightfit.experiments.subject import load_subjects
from tightfit.policies.native import replay_native
from tightfit.sim.device import Device
from tightfit.sim.export import snapshot_of
from tightfit.sim.packing import pack
from tightfit.sim.release import release
from tightfit.sim.settings_line import parse_settings
from tightfit.traces.program import Op
from tightfit.traces.script import Script
from tightfit.traces.units import MiB

from . import story
from .explained import explained
from .test_out_of_memory import failing

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
KEPT, CHURN, WANTED = "train.py:10 keep", "train.py:20 churn", "train.py:30 want"


def written(script: Script, path: Path, conf: str = "", capacity: int | None = None) -> Path:
    """Write a script's run as a snapshot. What is never freed is asked for in `keep`, a request of
    30 MiB in `want`, all else in `churn`."""
    program = script.program()
    rules = release("2.15")
    settings = parse_settings(conf, rules)
    run = replay_native(pack(program), settings, rules, Device(capacity), events=True, layout=True)
    content = snapshot_of(program, run, conf=conf, release="2.15")
    freed = set(program.arg[np.isin(program.op, (Op.FREE, Op.FREE_LATER))].tolist())
    malloc = iter(program.arg[program.op == Op.MALLOC].tolist())
    for entry in content["device_traces"][0]:
        if entry["action"] in ("alloc", "oom"):
            lasts = entry["action"] == "alloc" and next(malloc) not in freed
            line, name = (10, "keep") if lasts else (20, "churn")
            if entry["size"] == 30 * MiB:
                line, name = 30, "want"
            entry["frames"] = [{"filename": "/me/project/train.py", "line": line, "name": name}]
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def scattered() -> Script:
    """Three segments of 20 MiB, in each 9 MiB that stay and 11 that are free; then 30 MiB."""
    script = Script()
    blocks = script.mallocs(*[9 * MiB] * 6)
    script.free(*blocks[::2])
    script.malloc(30 * MiB)
    return script


def shares(found: Explanation) -> dict[str, tuple[int, int | None, int | None]]:
    return {
        s.what: (s.bytes // MiB, s.pieces, s.largest and s.largest // MiB) for s in found.shares
    }


def test_fragmentation_is_told_with_who_pins_and_the_least_that_frees(tmp_path: Path) -> None:
    found = explained(written(scattered(), tmp_path / "a.pickle"), capacity=60 * MiB)
    assert found.kind == "fragmentation" and found.moment == "failed"
    assert found.want is not None and found.want.where == f"project/{WANTED}"
    assert (found.asked_bytes, found.room_bytes) == (27 * MiB, 60 * MiB)
    assert shares(found) == {
        "in use, as asked for": (27, 3, None),
        "rounding of what is in use": (0, None, None),
        "free, where the request looks": (33, 6, 9),
        "not reserved": (0, None, None),
    }
    (pin,) = found.pins
    assert (pin.where, pin.blocks, pin.alone_bytes, pin.shared_bytes, pin.never_freed) == (
        f"project/{KEPT}", 3, 33 * MiB, 0, 3
    )  # fmt: skip
    # No segment has room for 30 MiB: two of them must be given back, and 9 MiB be freed in each.
    (change,) = found.changes
    assert (change.kind, change.blocks, change.bytes) == ("release", 2, 18 * MiB)
    assert change.fits and change.where == (f"project/{KEPT}",)
    assert found.smallest == Smallest(90 * MiB, True, 90 * MiB)
    assert found.verdict == (
        "FRAGMENTATION at entry 16: 30.0 MiB were wanted and 33.0 MiB of 60.0 MiB are not in use, "
        "but the largest free piece where it looks has 9.0 MiB"
    )


def test_a_pool_of_its_own_for_what_stays_is_found_to_help(tmp_path: Path) -> None:
    script = Script()
    for _ in range(6):  # what stays comes between what goes
        going = script.malloc(6 * MiB)
        script.malloc(3 * MiB)
        script.free(going)
        script.malloc(6 * MiB)
    script.free(*[k for k in range(18) if k % 3 == 2])
    script.malloc(30 * MiB)
    found = explained(written(script, tmp_path / "a.pickle"), capacity=62 * MiB)
    assert found.kind == "fragmentation"
    helped = {c.kind: c for c in found.changes}
    assert helped["own pool"].where == (f"project/{KEPT}",)
    assert helped["own pool"].fits and helped["own pool"].blocks == 6


def test_where_nothing_is_reserved_no_share_of_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,lower,upper,size\n0,0,9,30000000\n")
    assert explained(path).verdict == (
        "GREW TO ITS PEAK at entry 0: 28.6 MiB were wanted and nothing was reserved (simulated)"
    )
    first = explained(DATA / "oom.default.npz", at=0)
    assert first.verdict == "at entry 0: nothing is reserved (simulated)"


def test_true_exhaustion_is_told_with_who_holds_memory(tmp_path: Path, capsys: Any) -> None:
    script = Script()
    script.mallocs(40 * MiB, 15 * MiB)
    script.malloc(30 * MiB)
    path = written(script, tmp_path / "a.pickle")
    found = explained(path, capacity=80 * MiB)
    assert found.kind == "exhaustion" and not found.changes
    assert [(h.where, h.bytes) for h in found.holders] == [(f"project/{KEPT}", 55 * MiB)]
    assert main(["explain", str(path), "--capacity", "80MiB"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(
        "TRUE EXHAUSTION at entry 5: the program holds 55.0 MiB and asks for 30.0 MiB more, 5.0 "
        "MiB more than there is; no setting helps"
    )
    assert "who holds memory" in said and "who pins" not in said


def test_memory_free_on_another_stream_is_not_free_for_the_request(tmp_path: Path) -> None:
    script = Script(streams=2, pools=1)
    other = script.mallocs(9 * MiB, 9 * MiB, stream=1)
    script.free(other[0])
    script.mallocs(*[300_000] * 3)
    inside = script.mallocs(40 * MiB, pool=1)
    script.free(*inside)
    script.malloc(30 * MiB)
    found = explained(written(script, tmp_path / "a.pickle"), capacity=80 * MiB)
    told = shares(found)
    assert told["free on another stream"] == (11, 2, 9)
    assert told["free in a private pool"] == (40, 1, 40)
    assert told["free in the pool of small requests"][0] == 1
    assert "free, where the request looks" not in told
    assert found.verdict.endswith("but nothing is free where it looks")


def test_where_nothing_fails_it_is_what_led_to_the_peak(tmp_path: Path) -> None:
    script = Script()
    script.mallocs(200 * MiB, 30 * MiB)
    script.mallocs(2000)  # a segment more, which explains nothing
    found = explained(written(script, tmp_path / "a.pickle"))
    assert (found.kind, found.moment) == ("waste", "grew")
    assert (found.reserved_bytes, found.reached_bytes) == (200 * MiB, 230 * MiB)
    assert found.peak_reserved_bytes == 232 * MiB
    assert found.verdict.startswith("GREW NEAR ITS PEAK at entry 3: 30.0 MiB were wanted")
    lone = explained(written(scattered(), tmp_path / "b.pickle"))
    assert lone.verdict == (
        "GREW TO ITS PEAK at entry 16: 30.0 MiB were wanted and 33.0 MiB (55.0%) of 60.0 MiB "
        "reserved were not in use, but the largest free piece where it looks has 9.0 MiB "
        "(simulated)"
    )


def test_a_flush_at_the_right_moment_is_found(tmp_path: Path) -> None:
    script = Script()
    script.free(script.malloc(100 * MiB))  # cached, and too small for what follows
    script.malloc(120 * MiB)
    found = explained(written(script, tmp_path / "a.pickle"))
    change, first = found.changes
    assert change.kind == "flush" and change.peak_reserved_bytes == 120 * MiB
    assert (first.kind, first.bytes, first.peak_reserved_bytes) == (
        "first block", 120 * MiB, 120 * MiB
    )  # fmt: skip
    assert change.entry == 5 and change.where == (f"project/{KEPT}",)


def test_any_entry_can_be_asked_about(tmp_path: Path, capsys: Any) -> None:
    path = written(scattered(), tmp_path / "a.pickle")
    # Entry 4 is the third allocation: 27 MiB in two segments.
    found = explained(path, at=4)
    assert found.moment == "asked" and found.asked_bytes == 27 * MiB
    assert found.reserved_bytes == 40 * MiB and not found.changes
    assert (
        found.verdict
        == "at entry 4: 13.0 MiB (32.5%) of 40.0 MiB reserved are not in use (simulated)"
    )
    assert main(["explain", str(path), "--at", "999"]) == 2
    assert "--at: found 999, expected an entry of 0 to 16" in capsys.readouterr().err
    assert main(["explain", str(path), "--at", "16", "--capacity", "60MiB"]) == 2
    assert "memory runs out before it, at entry 16" in capsys.readouterr().err


def test_a_recorded_failure_is_explained_on_what_the_run_could_have(tmp_path: Path) -> None:
    path = written(scattered(), tmp_path / "a.pickle", capacity=60 * MiB)
    found = explained(path)
    assert (found.kind, found.room_bytes, found.note) == ("fragmentation", 60 * MiB, "")
    assert found.want is not None and found.want.bytes == 30 * MiB
    assert [c.kind for c in found.changes] == ["release"]


def test_a_failure_that_no_replay_shows_is_explained_as_recorded(tmp_path: Path) -> None:
    # 1 MiB is wanted while a block of 20 MiB is free: others must have been at work.
    found = explained(failing(tmp_path, 2 * MiB, 0))
    assert found.moment == "failed" and found.entry == 9
    assert "does not fail where that did" in found.note
    assert not found.changes, "a replay that does not fail shows of no change that it helps"


def test_a_failure_although_there_was_room_is_not_called_fragmentation(
    tmp_path: Path, capsys: Any
) -> None:
    written_as = written(scattered(), tmp_path / "a.pickle", capacity=60 * MiB)
    content = pickle.loads(written_as.read_bytes())
    content["device_traces"][0][-1]["size"] = 5 * MiB
    path = story.dump(content, tmp_path / "less.pickle")
    assert main(["explain", str(path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(
        "UNEXPLAINED at entry 15: the recorded run did not get 5.0 MiB, though a free piece of "
        "9.0 MiB would have done wanted at "
    )
    assert "No change was tried: no replay fails here" in said and "that was tried" not in said
    assert explained(path).kind == "unexplained"
    # What could be given back was, before the request failed.
    assert explained(failing(tmp_path, 2 * MiB, 0)).verdict == (
        "UNEXPLAINED at entry 9: the recorded run did not get 2.0 MiB, though 20.0 MiB of 22.0 MiB "
        "were not reserved"
    )


def test_a_state_without_history_is_explained_as_it_is(tmp_path: Path, capsys: Any) -> None:
    content = story.snapshot()
    content["device_traces"] = [[]]
    path = story.dump(content, tmp_path / "state.pickle")
    assert main(["explain", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("AT THE END: ") and "(as recorded)" in said
    assert "There is no history to replay" in said
    assert main(["explain", str(path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["simulated"] is False and answer["moment"] == "end"
    assert sum(s["bytes"] for s in answer["shares"]) == answer["reserved_bytes"] == 2 * MiB
    assert main(["explain", str(path), "--capacity", "1GiB"]) == 2
    assert "found no history, only a state" in capsys.readouterr().err
    assert main(["explain", str(path), "--device", "7"]) == 2
    assert "found nothing of device 7, expected one of 0" in capsys.readouterr().err


def test_a_history_without_a_request_is_not_said_to_be_none(tmp_path: Path, capsys: Any) -> None:
    content = story.snapshot()
    content["device_traces"] = [[e for e in content["device_traces"][0] if e["action"] != "alloc"]]
    assert content["device_traces"][0]
    assert main(["explain", str(story.dump(content, tmp_path / "frees.pickle"))]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The history holds no request, so there is nothing to replay" in said
    assert "There is no history" not in said


def test_a_long_trace_is_refused(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "kv.events"
    assert main(["workloads", "kv_doubling", str(path), "--events", "2000"]) == 0
    capsys.readouterr()
    assert main(["explain", str(path)]) == 2
    assert "found a long trace" in capsys.readouterr().err


def test_what_was_live_before_recording_began_is_said_so(tmp_path: Path) -> None:
    content = pickle.loads(written(scattered(), tmp_path / "a.pickle").read_bytes())
    history = content["device_traces"][0]
    del history[:5]  # the first two segments and three of their blocks
    path = story.dump(content, tmp_path / "warm.pickle")
    found = explained(path)
    assert found.moment == "grew"
    # Three of the six blocks were there before; one of those stays, and two of the others.
    assert {p.where: p.blocks for p in found.pins} == {
        "(before recording began)": 1, f"project/{KEPT}": 2
    }  # fmt: skip
    early = explained(path, at=0)
    assert {h.where: h.blocks for h in early.holders} == {
        "(before recording began)": 3, f"project/{KEPT}": 1
    }  # fmt: skip


def test_a_recorded_start_is_kept_only_where_the_device_has_room_for_it(
    tmp_path: Path, capsys: Any
) -> None:
    """One that fills the device before the first request would fit on any device, however small."""
    content = pickle.loads(written(scattered(), tmp_path / "a.pickle").read_bytes())
    del content["device_traces"][0][:5]
    path = story.dump(content, tmp_path / "warm.pickle")
    (subject,) = load_subjects(path)
    held = subject.program.start.reserved_bytes
    other = ["--other", "50MiB"]
    for capacity, kept in ((held, True), (held - 2 * MiB, False), (held // 2, False)):
        for more, total in (([], capacity), (other, capacity + 50 * MiB)):
            words = ["replay", str(path), "--capacity", str(total), *more, "--json"]
            code = main(words)
            answer = json.loads(capsys.readouterr().out)
            (device,) = answer["devices"]
            (start,) = [f["text"] for f in answer["findings"] if f["kind"] == "start"]
            assert ("starts where it was recorded" in start) == kept
            assert device["peak_reserved_bytes"] <= capacity
            assert code == device["ooms"]
    assert code == 1  # half as much as was live then is too little
    terms = terms_of(subject, None, release("2.15"), Device(held))
    found = _smallest(subject, terms, lambda: None)
    assert terms.keeps_start and found is not None
    for total, ooms in ((found.bytes, 0), (found.bytes - 2 * MiB, 1)):
        assert main(["replay", str(path), "--capacity", str(total)]) == ooms
    capsys.readouterr()

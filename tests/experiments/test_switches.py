"""Programs that set other settings while they run: repeated, found out, and asked about."""

from __future__ import annotations

import json
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightfit.experiments import cli
from tightfit.experiments.release_fit import find_release
from tightfit.experiments.subject import load_subjects
from tightfit.policies.native import conditions_of, replay_native
from tightfit.sim.device import Device
from tightfit.sim.export import snapshot_of, write_snapshot
from tightfit.sim.packing import pack
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.sim.settings_line import parse_settings
from tightfit.traces.errors import PolicyError
from tightfit.traces.history import lift
from tightfit.traces.load import load
from tightfit.traces.program import Program, SettingsCall
from tightfit.traces.random_programs import random_program
from tightfit.traces.settings_calls import with_settings_calls
from tightfit.traces.store import save
from tightfit.traces.units import MiB

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
RULES = release("2.15")
TRACE = str(DATA / "cnn_resolutions.default.npz")
ON, OFF = "expandable_segments:True", "expandable_segments:False"


def numbered(seed: int) -> Program:
    """A random program whose ops are its entries."""
    program = random_program(seed, 300)
    return replace(program, entry=np.arange(program.n_ops))


@pytest.mark.interpreted
@pytest.mark.parametrize("seed", range(8))
def test_the_kernel_and_the_reference_agree_on_calls(seed: int) -> None:
    rng = random.Random(seed)
    lines = (ON, OFF, "", "max_split_size_mb:40", "roundup_power2_divisions:4",
             "per_process_memory_fraction:0.5", "garbage_collection_threshold:0.6")  # fmt: skip
    calls = [SettingsCall(rng.randrange(300), rng.choice(lines)) for _ in range(4)]
    program = with_settings_calls(numbered(seed), calls)
    settings = parse_settings(rng.choice((ON, "per_process_memory_fraction:0.9", "")), RULES)
    device = Device(rng.choice((None, 300 * MiB)))
    packed = pack(program)
    first, *later = conditions_of(packed, settings, RULES, device)
    want = replay_reference(
        program, first.settings, RULES, device, limit_fraction=first.limit_fraction, later=later,
        stop_at_oom=False,
    )  # fmt: skip
    run = replay_native(packed, settings, RULES, device, stop_at_oom=False, track=True, events=True)
    assert {k: run.stats[k] for k in want.stats} == want.stats
    assert np.array_equal(run.events, want.events)


def test_switches_are_found_out_from_what_a_snapshot_shows(tmp_path: Path) -> None:
    """Random programs, every size and order of frees: harder than what people write."""
    exact = 0
    for seed in range(60):
        rng = random.Random(seed)
        first, program = rng.random() < 0.5, numbered(seed)
        entries = sorted(rng.sample(range(program.n_ops), rng.randrange(1, 3)))
        calls = [
            SettingsCall(e, ON if first ^ (k % 2 == 0) else OFF) for k, e in enumerate(entries)
        ]
        changed = with_settings_calls(program, calls)
        settings = parse_settings(ON if first else "", RULES)
        run = replay_native(
            pack(changed), settings, RULES, stop_at_oom=False, events=True, layout=True
        )
        path = tmp_path / f"{seed}.pickle"
        write_snapshot(path, changed, run, conf=calls[-1].line, release="2.15")
        (subject,) = load_subjects(path)
        (found,) = find_release([subject], "2.15").exactness
        if len(calls) == 1:
            (call,) = subject.program.settings_calls
            assert parse_settings(call.line, RULES).expandable_segments != first
            assert parse_settings(subject.conf, RULES).expandable_segments == first
            assert not found.complete
        exact += found.is_exact
    assert exact >= 52


@pytest.mark.parametrize(
    ("on", "settings"),
    [
        (True, {}),
        (True, {"max_split_size": -1}),
        # A build for a platform without them: the line has them on, what is in force has not.
        (False, {"PYTORCH_CUDA_ALLOC_CONF": f"{ON},max_split_size_mb:40",
                 "expandable_segments": False, "max_split_size": 40 * MiB}),
    ],
)  # fmt: skip
def test_memory_taken_tells_more_than_the_settings(
    on: bool, settings: dict[str, Any], tmp_path: Path
) -> None:
    line = ON if on else "max_split_size_mb:40"
    run = replay_native(
        pack(numbered(3)), parse_settings(line, RULES), RULES, stop_at_oom=False, events=True,
        layout=True,
    )  # fmt: skip
    snapshot = snapshot_of(numbered(3), run, conf=line, release="2.15")
    snapshot["allocator_settings"] = settings
    if not settings:
        del snapshot["allocator_settings"]
    (tmp_path / "told.pickle").write_bytes(pickle.dumps(snapshot))
    (subject,) = load_subjects(tmp_path / "told.pickle")
    (found,) = find_release([subject], "2.15").exactness
    assert found.is_exact and subject.conf == line and not subject.program.settings_calls
    assert [f.text for f in subject.program.findings if f.kind == "expandable"] == [
        f"expandable segments were {'on' if on else 'off'}, as memory taken from the driver shows"
    ]


def answer(capsys: Any, *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = cli.main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_replay_makes_the_calls_that_are_named(capsys: Any) -> None:
    peaks = {}
    for name, words in {
        "default": [],
        "on": ["--conf", ON],
        "on at once": ["--then", f"0:{ON}"],
        "on later": ["--then", f"4_34:{ON}"],
        "never on": ["--conf", ON, "--then", f"0:{OFF}"],
    }.items():
        code, found = answer(capsys, "replay", TRACE, *words)
        assert code == 0
        peaks[name] = found["devices"][0]["peak_reserved_bytes"]
    assert peaks["on at once"] == peaks["on"] < peaks["default"] == peaks["never on"]
    assert peaks["on later"] not in (peaks["on"], peaks["default"])
    (subject,) = load_subjects(Path(TRACE))
    program = with_settings_calls(subject.program, [SettingsCall(434, ON)])
    (_, later) = conditions_of(pack(program), Settings(), RULES, Device())
    slow = replay_reference(program, Settings(), RULES, later=[later])
    assert slow.stats["reserved_bytes.all.peak"] == peaks["on later"]


def test_other_commands_ask_about_them_too(capsys: Any) -> None:
    then = ("--then", f"434:{ON}")
    _, found = answer(capsys, "replay", TRACE, *then)
    peak = found["devices"][0]["peak_reserved_bytes"]
    code, found = answer(capsys, "tune", TRACE, *then, "--trials", "2")
    assert code == 0 and found["default"]["peak_reserved_bytes"] == peak
    assert found["best"]["peak_reserved_bytes"] <= peak
    _, found = answer(capsys, "explain", TRACE, *then)
    assert found["peak_reserved_bytes"] == peak
    assert [f["kind"] for f in found["findings"]].count("settings_calls") == 1
    code, found = answer(capsys, "check", TRACE, *then)
    assert code == 1, "this program did not call it"


def test_policies_that_are_not_pytorchs_do_not_hear_them(tmp_path: Path, capsys: Any) -> None:
    recording = load(Path(TRACE))
    recording.settings["settings_calls"] = {"first": "", "calls": {"0": [[434, ON]]}}
    save(recording, tmp_path / "calls.npz")
    policies = [w for p in ("pytorch", "best_fit", "rounding", "planned") for w in ("--policy", p)]
    rows = {}
    for path in (TRACE, str(tmp_path / "calls.npz")):
        _, found = answer(capsys, "compare", path, *policies, "--packing", "0")
        rows[path] = {r["policy"]: r["peak_reserved_bytes"] for r in found["traces"][0]["rows"]}
    same = [p for p in rows[TRACE] if rows[TRACE][p] == rows[str(tmp_path / "calls.npz")][p]]
    assert set(rows[TRACE]) - set(same) == {"pytorch"}


@pytest.mark.interpreted
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--then", "x"], "--then: found 'x', expected an entry"),
        (["--then", "9" * 5000 + ":x:1"], "9...', expected an entry"),
        (["--then", "expandable_segments:True"], "expected an entry of the recording, a colon"),
        (["--then", "-3:x"], "--then: found '-3:x'"),
        (["--then", "999999:"], "--then: found entry 999,999, expected one of 0 to"),
        (["--then", "5:expandable_segment:True"], "expandable_segment"),
    ],
)
def test_calls_that_make_no_sense_are_one_message(words: list[str], said: str, capsys: Any) -> None:
    for command in ("replay", "check", "explain", "tune"):
        assert cli.main([command, str(DATA / "cuda_graphs.default.npz"), *words]) == 2
        printed = capsys.readouterr()
        assert said in " ".join(printed.err.split()) and printed.out == ""


def test_what_cannot_be_simulated_is_refused_and_no_line_that_needs_it_is_named(
    capsys: Any,
) -> None:
    then = ["--then", "50:large_segment_size_mb:64"]
    trace = str(DATA / "cuda_graphs.default.npz")
    assert cli.main(["replay", trace, "--conf", ON, *then]) == 2
    assert "a change of their pages is not simulated" in " ".join(capsys.readouterr().err.split())
    code, found = answer(capsys, "tune", trace, *then, "--trials", "4")
    assert code == 0 and "expandable" not in found["best"]["conf"]
    program = with_settings_calls(
        lift(load(DATA / "cuda_graphs.default.npz"), 0), [SettingsCall(1, "max_split_size_mb:21")]
    )
    with pytest.raises(PolicyError, match="max_split_size_mb"):
        replay_native(pack(program), parse_settings("large_segment_size_mb:64", RULES), RULES)

"""Programs that set other settings while they run, on the unmodified PyTorch over the stand-in."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightfit.experiments import cli
from tightfit.experiments.recording.whole_wheel import Build
from tightfit.experiments.release_fit import find_release
from tightfit.experiments.subject import Subject, load_subjects
from tightfit.policies.native import replay_native
from tightfit.sim.device import Device
from tightfit.sim.release import release
from tightfit.sim.settings_line import parse_settings
from tightfit.traces.event import Action
from tightfit.traces.recording import SETTINGS_CALLS
from tightfit.traces.store import save

from .on_stand_in import run_on

pytestmark = pytest.mark.slow

MARK = 7_654_321  # bytes that the program asks for just after each call
CALLS = ("expandable_segments:False,roundup_power2_divisions:4", "max_split_size_mb:64")
CHURN = """
def churn(seed, kept):
    random = torch.Generator().manual_seed(seed)
    held = []
    for size in torch.randint(1000, 60_000_000, (60,), generator=random).tolist():
        held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        if len(held) > 9:
            del held[size % 10]
    return held[::2] if kept else None
"""
SCRIPT = f"""
import torch
{CHURN}
a = churn(1, True)
for k, line in enumerate({CALLS!r}):
    torch.cuda.memory._set_allocator_settings(line)
    torch.empty({MARK}, dtype=torch.uint8, device="cuda")
    b = churn(k + 2, True)
    churn(k + 4, False)
"""


def record(build: Build, script: Path, out: Path, conf: str) -> Subject:
    torch = build.wheel.version
    words = ["record", "--stand-in", "h100-80g", "--torch", torch, "-o", str(out), "--conf", conf]
    assert cli.main([*words, "--", sys.executable, str(script)]) == 0
    (subject,) = load_subjects(out)
    return subject


def test_a_program_that_sets_its_settings_is_repeated_and_predicted(
    build: Build, tmp_path: Path, capsys: Any
) -> None:
    script = tmp_path / "sets.py"
    script.write_text(SCRIPT)
    lines = ("max_split_size_mb:40", "expandable_segments:True")
    a, b = (record(build, script, tmp_path / f"{k}.npz", line) for k, line in enumerate(lines))
    for subject, line in ((a, lines[0]), (b, lines[1])):
        assert (subject.recording.conf, subject.conf) == (CALLS[1], line), "the last, and the first"
        entries = subject.recording.devices[0].entries
        after = np.flatnonzero((entries["action"] == Action.ALLOC) & (entries["size"] == MARK))
        calls = subject.program.settings_calls
        assert [c.line for c in calls] == list(CALLS)
        for entry, next_one in zip([c.entry for c in calls], after.tolist(), strict=True):
            before_mark = entries["action"][entry:next_one]
            assert not np.isin(before_mark, (Action.ALLOC, Action.FREE_REQUESTED)).any()
        (found,) = find_release([subject], None).exactness
        assert found.is_exact and found.complete

    # It makes its calls under every line; what the other run did is predicted to the last counter.
    truth = b.recording.extra["recorded"]["devices"]["0"]
    rules = release(build.wheel.version)
    settings = parse_settings(lines[1], rules)
    run = replay_native(a.kept, settings, rules, Device(truth["total_bytes"]), track=True)
    wrong = {
        key: (run.stats[key], value)
        for key, value in truth["stats"].items()
        if key in run.stats and key != "num_sync_all_streams" and run.stats[key] != value
    }
    assert wrong == {}

    # PyTorch's own snapshot has no calls in it: somebody has to tell when they were made.
    del a.recording.settings[SETTINGS_CALLS]
    save(a.recording, tmp_path / "plain.npz")
    then = [w for c in a.program.settings_calls for w in ("--then", f"{c.entry}:{c.line}")]
    check = ["check", str(tmp_path / "plain.npz"), "--conf", lines[0]]
    assert cli.main(check) == 1
    capsys.readouterr()
    assert cli.main([*check, *then, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["conf"] == lines[0]


def test_a_part_that_sets_its_settings_begins_under_those_set_before(
    build: Build, tmp_path: Path
) -> None:
    """The calls of the body alone are in the recording, and nobody notes any behind it."""
    script = tmp_path / "part.py"
    script.write_text(f"""
import torch
import tightfit
set_line = torch.cuda.memory._set_allocator_settings
setters = dict(vars(torch._C))
{CHURN}
set_line({CALLS[0]!r})
a = churn(1, True)
with tightfit.record("part.npz"):
    churn(2, False)
    set_line({CALLS[1]!r})
    b = churn(3, True)
assert dict(vars(torch._C)) == setters
set_line("")
""")
    run_on(build, script)
    (subject,) = load_subjects(tmp_path / "part.npz")
    assert subject.conf == CALLS[0]
    assert [c.line for c in subject.program.settings_calls] == [CALLS[1]]
    (found,) = find_release([subject], None).exactness
    assert found.is_exact and found.complete

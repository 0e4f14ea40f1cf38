"""What `explain` says would have helped, made true: the changed program on the real allocator.

A program is recorded over the stand-in and explained, on less memory too; then it is changed as the
explanation says, run by the same PyTorch, and must reserve at its peak what was predicted, to the
byte, and run out of memory where it was predicted to, and only there.
Needs the whole wheel of a release, 0.5 GB; conftest.py says which.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tightfit.experiments.explain.asked import ask, choose
from tightfit.experiments.explain.explanation import Explanation
from tightfit.experiments.explain.tried import Change
from tightfit.experiments.first_block import best_first_block, statement
from tightfit.experiments.recording.whole_wheel import Build
from tightfit.experiments.subject import load_subjects
from tightfit.policies.native import replay_native
from tightfit.sim.device import Device
from tightfit.sim.packing import Packed
from tightfit.sim.release import release
from tightfit.sim.run import Run
from tightfit.sim.settings import Settings
from tightfit.traces.event import Action
from tightfit.traces.load import load
from tightfit.traces.recording import Recording
from tightfit.traces.units import MiB

from .on_stand_in import TRAIN, record, run_on

EXPANDABLE = "expandable_segments:True"
pytestmark = pytest.mark.slow

SCRIPT = """
import contextlib, ctypes, json, os, torch

MiB = 1 << 20
for told in VARIANTS:  # each has a process of its own; PyTorch is imported once
    child = os.fork()
    if not child:
        globals().update(told)
        break
    assert os.waitpid(child, 0)[1] == 0
else:
    if VARIANTS:
        raise SystemExit
if LIMIT:  # somebody else takes all but this
    rest = (torch.cuda.mem_get_info()[0] - LIMIT * MiB) // (2 * MiB) * 2 * MiB
    took = ctypes.CDLL(None).cudaMalloc(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(rest))
    assert took == 0
if FIRST:
    torch.empty(FIRST, dtype=torch.uint8, device="cuda")
pool = torch.cuda.MemPool() if APART else None
made = {}

def before():
    if len(made) == FLUSH:
        torch.cuda.empty_cache()
    if len(made) == AT:
        for number in FREE:
            made[number] = None

def keep(mib):
    before()
    with torch.cuda.use_mem_pool(pool) if APART else contextlib.nullcontext():
        made[len(made)] = torch.empty(mib * MiB, dtype=torch.uint8, device="cuda")

def churn(mib):
    before()
    made[len(made)] = torch.empty(mib * MiB, dtype=torch.uint8, device="cuda")
    return len(made) - 1

def work():
    going = []
    for step in range(6):  # what stays comes between what goes
        first = churn(7 + step % 3)
        keep(2 + step % 2)
        made[first] = None
        going.append(churn(5 + step % 4))
    for number in going:
        made[number] = None
    large = churn(48)
    made[large] = None
    churn(61)

failed = False
try:
    work()
except torch.OutOfMemoryError:
    failed = True
print(json.dumps([torch.cuda.memory_stats()["reserved_bytes.all.peak"], failed]), flush=True)
"""
AS_IT_IS = {"LIMIT": 0, "FIRST": 0, "FLUSH": -1, "AT": -1, "FREE": (), "APART": False}
Variant = dict[str, object]  # what the program is told otherwise


def write(folder: Path, *variants: Variant) -> Path:
    """Write the program: to run as it is, or each of some variants of it."""
    script = folder / "program.py"
    told = {**AS_IT_IS, "VARIANTS": variants}
    script.write_text("\n".join(f"{name} = {value!r}" for name, value in told.items()) + SCRIPT)
    return script


def run(build: Build, folder: Path, conf: str, *variants: Variant) -> list[tuple[int, bool]]:
    """Run variants of the program; of each, the peak of reserved bytes and whether it failed."""
    said = run_on(build, write(folder, *variants), PYTORCH_CUDA_ALLOC_CONF=conf).splitlines()
    assert len(said) == len(variants)
    return [(peak, failed) for peak, failed in map(json.loads, said)]


def explained(build: Build, path: Path, limit: int) -> Explanation:
    rules, gpu = release(build.wheel.version), Device(limit * MiB or None)
    return ask(choose(load_subjects(path), None, rules, gpu, None), None, rules)[0]


def made_true(base: Recording, at: int, change: Change) -> Variant:
    """What the program is told for a change to what it does until entry `at`."""
    entries = base.devices[0].entries
    number = np.cumsum(entries["action"] == Action.ALLOC) - 1  # of the allocation at an entry
    if change.kind == "flush":
        return {"FLUSH": int(number[change.entry])}
    if change.kind == "first block":
        return {"FIRST": change.bytes}
    if change.kind == "own pool":
        return {"APART": True}
    return {"AT": int(number[at]), "FREE": tuple(int(number[entry]) for entry in change.freed)}


def peak_of(recording: Recording) -> int:
    """What the run's own memory_stats said."""
    return recording.extra["recorded"]["devices"]["0"]["stats"]["reserved_bytes.all.peak"]


@pytest.mark.parametrize(
    ("conf", "limit", "expected"),
    [
        ("", 0, {"flush", "first block"}),
        ("", 100, {"release", "own pool"}),
        (EXPANDABLE, 90, {"hole", "release", "own pool"}),  # two of them only put the failure off
    ],
)
def test_each_change_does_what_was_predicted(
    build: Build, tmp_path: Path, conf: str, limit: int, expected: set[str]
) -> None:
    record(build, write(tmp_path), tmp_path / "base.npz", "--conf", conf)
    base = load(tmp_path / "base.npz")
    found = explained(build, tmp_path / "base.npz", limit)
    assert found.moment == ("failed" if limit else "grew") and found.entry is not None
    changes = [
        change for change in found.changes if change.kind != "own pool" or "keep" in change.where[0]
    ]
    assert {change.kind for change in changes} >= expected, found.changes
    made = [made_true(base, found.entry, change) for change in changes]
    as_it_was, *changed = run(build, tmp_path, conf, *({"LIMIT": limit, **x} for x in ({}, *made)))
    assert as_it_was == (found.peak_reserved_bytes, bool(limit))
    for change, real in zip(changes, changed, strict=True):
        assert real == (change.peak_reserved_bytes, not change.fits), change


def test_one_block_before_training_does_what_was_predicted(
    build: Build, trained: Callable[[str], Path], tmp_path: Path
) -> None:
    (subject,) = load_subjects(trained(""))
    base = subject.recording
    rules = release(build.wheel.version)

    def play(packed: Packed) -> Run:
        return replay_native(packed, Settings(), rules)

    stats = play(subject.kept).stats
    assert stats["reserved_bytes.all.peak"] == peak_of(base)
    found = best_first_block([subject.program], play, [stats["requested_bytes.all.peak"]])
    assert found is not None
    peak = found.runs[0].stats["reserved_bytes.all.peak"]
    assert peak < 0.95 * peak_of(base)
    script = tmp_path / "first.py"
    script.write_text(f"import torch\n{statement(found)}\n{TRAIN}")
    record(build, script, tmp_path / "first.npz")
    assert peak_of(load(tmp_path / "first.npz")) == peak

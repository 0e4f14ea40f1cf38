"""What `explain` says would have helped, made true: the changed program on the real allocator.

A program is recorded over the stand-in and explained, on less memory too; then it is changed as the
explanation says, run by the same PyTorch, and must reserve at its peak what was predicted, to the
byte, and run out of memory where it was predicted to, and only there.
Needs the whole wheel of a release, 0.5 GB; conftest.py says which.
"""

from __future__ import annotations

import json
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

from .test_stand_in import TRAIN, record, run_on

EXPANDABLE = "expandable_segments:True"
pytestmark = pytest.mark.slow

SCRIPT = """
import contextlib, ctypes, json, torch

MiB = 1 << 20
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
print(json.dumps([torch.cuda.memory_stats()["reserved_bytes.all.peak"], failed]))
"""
AS_IT_IS = {"LIMIT": 0, "FIRST": 0, "FLUSH": -1, "AT": -1, "FREE": (), "APART": False}


def write(folder: Path, **more: object) -> Path:
    """Write the program, changed."""
    script = folder / "program.py"
    told = "\n".join(f"{name} = {value!r}" for name, value in (AS_IT_IS | more).items())
    script.write_text(told + SCRIPT)
    return script


def run(build: Build, folder: Path, conf: str, **more: object) -> tuple[int, bool]:
    """Run the program, changed; its peak of reserved bytes, and whether memory ran out."""
    said = run_on(build, write(folder, **more), PYTORCH_CUDA_ALLOC_CONF=conf)
    peak, failed = json.loads(said.splitlines()[-1])
    return peak, failed


def explained(build: Build, path: Path, limit: int) -> Explanation:
    rules, gpu = release(build.wheel.version), Device(limit * MiB or None)
    return ask(choose(load_subjects(path), None, rules, gpu, None), None, rules)[0]


def made_true(base: Recording, at: int, change: Change) -> dict[str, object]:
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
    as_it_was = run(build, tmp_path, conf, LIMIT=limit)
    assert as_it_was == (found.peak_reserved_bytes, bool(limit))
    kinds = set()
    for change in found.changes:
        if change.kind == "own pool" and "keep" not in change.where[0]:
            continue
        kinds.add(change.kind)
        real = run(build, tmp_path, conf, LIMIT=limit, **made_true(base, found.entry, change))
        assert real == (change.peak_reserved_bytes, not change.fits), change
    assert kinds >= expected, found.changes


def test_one_block_before_training_does_what_was_predicted(build: Build, tmp_path: Path) -> None:
    def trained(name: str, first: str) -> Recording:
        script = tmp_path / f"{name}.py"
        script.write_text(f"import torch\n{first}\n{TRAIN}")
        record(build, script, tmp_path / f"{name}.npz")
        return load(tmp_path / f"{name}.npz")

    base = trained("base", "")
    (subject,) = load_subjects(tmp_path / "base.npz")
    rules = release(build.wheel.version)

    def play(packed: Packed) -> Run:
        return replay_native(packed, Settings(), rules)

    stats = play(subject.kept).stats
    assert stats["reserved_bytes.all.peak"] == peak_of(base)
    found = best_first_block([subject.program], play, [stats["requested_bytes.all.peak"]])
    assert found is not None
    peak = found.runs[0].stats["reserved_bytes.all.peak"]
    assert peak < 0.95 * peak_of(base)
    real = trained("first", statement(found))
    assert peak_of(real) == peak

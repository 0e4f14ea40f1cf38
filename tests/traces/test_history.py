"""A lifted program, replayed with the recorded driver, repeats its recording exactly.

Exactly means: every allocation at its recorded address, every segment entry in order, the final
blocks those of the snapshot.
"""

import random
import time
from pathlib import Path

import numpy as np
import pytest

from tightfit.sim.device import Device
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.sim.settings_line import parse_settings
from tightfit.traces.event import Action
from tightfit.traces.history import lift
from tightfit.traces.load import load
from tightfit.traces.program import Op
from tightfit.traces.units import MiB

from ..strategies import random_program
from .recorded import (
    FREE_BLOCK,
    LIVE_BLOCK,
    by_hand,
    cut,
    departures,
    kinds,
    ops,
    record,
)

SHARED = Path(__file__).resolve().parents[2] / ".." / "shared"
SLOW = ("serve_growing_kv",)
STATE_ONLY = ("inference_oom_state.pickle", "rlhf_private_pools_state.pickle")
# Each of a million entries; one of them is enough for a reference of twenty seconds.
TOO_LONG = ("serve_growing_kv.default.pickle.gz",)


def recordings():
    """All recorded histories beside the repository, by their path below that folder."""
    files = [
        *SHARED.glob("traces/*.pickle"),
        *SHARED.glob("recorded/*.pickle*"),
        *SHARED.glob("recorded/torch-2.11/*.pickle*"),
    ]
    names = sorted(str(f.relative_to(SHARED)) for f in files if f.name not in STATE_ONLY + TOO_LONG)
    if not names:
        reason = "the folder of recordings '../shared' is not beside this repository"
        return [pytest.param("", marks=pytest.mark.skip(reason=reason))]
    return [
        pytest.param(n, marks=[pytest.mark.slow] if any(s in n for s in SLOW) else [])
        for n in names
    ]


def torch_of(name):
    """The release that recorded a file; for those of unknown origin one that breaks ties alike."""
    return "2.15" if name.startswith("recorded/") and "torch-2.11" not in name else "2.11"


def exact(recording, torch, device=None, **kwargs):
    rules = release(torch)
    program = lift(recording, 0)
    return program, departures(program, parse_settings(recording.conf, rules), rules, device)


@pytest.mark.parametrize("name", recordings())
def test_every_recording_is_repeated_exactly(name):
    program, found = exact(load(SHARED / name), torch_of(name))
    assert found == []
    # Before 2.12 the pools of released segments are not recorded, and a block that was there
    # before the recording may hide what nothing shows.
    allowed = {"guessed_pool"} if "torch-2.11/cuda_graphs" in name else set()
    allowed |= {"unknown_slack"} if name.endswith("_warm.pickle") else set()
    assert program.complete == (not allowed & set(kinds(program)))
    assert set(kinds(program)) <= allowed | {"warm_start", "inferred_empty_cache"}


@pytest.mark.parametrize("name", recordings())
def test_every_recording_cut_short_is_repeated_exactly(name):
    # Whatever the ring buffer drops, the state behind it is rebuilt from the final state.
    recording = load(SHARED / name)
    n = recording.devices[0].n_entries
    rng = random.Random(n)
    for _ in range(4):
        first = rng.randrange(max(0, n - 3000), n + 1)
        program, found = exact(cut(recording, first), torch_of(name))
        assert found == [], f"cut at {first}"
        assert program.addr[program.n_start :].tolist() == _allocated(recording, first)


def _allocated(recording, first):
    e = recording.devices[0].entries
    return e["addr"][first:][e["action"][first:] == Action.ALLOC].tolist()


@pytest.mark.parametrize("name", ["traces/inference_oom_state.pickle"])
def test_a_state_without_history_is_a_program_of_no_ops(shared, name):
    program = lift(load(shared / name), 0)
    assert program.n_ops == 0 and program.n_start == 460
    assert program.start.reserved_bytes == program.end.reserved_bytes
    assert departures(program, Settings(), release("2.11")) == []


@pytest.mark.slow
def test_a_million_entries_are_lifted_in_about_a_second(shared):
    recording = load(shared / "recorded" / "serve_growing_kv.default.pickle.gz")
    lift(recording, 0)  # compiles
    began = time.perf_counter()
    program = lift(recording, 0)
    assert time.perf_counter() - began < 3  # 0.3 s where it was written
    assert recording.devices[0].n_entries == 971_708 and program.n_ops == 647_784


def made(seed, *, pools, with_pools, stacks):
    """Run a random program and return what a snapshot would hold, its release and device."""
    rng = random.Random(seed)
    settings = rng.choice(
        [
            Settings(),
            Settings(expandable_segments=True),
            Settings(roundup_divisions=(4,) * 16),
            Settings(max_split_size=64 * MiB),
        ]
    )
    sizes = [int(2 ** rng.uniform(6, 26)) for _ in range(12)]
    program = random_program(
        seed, rng.choice([30, 100, 250]), streams=rng.choice([1, 2]), pools=pools, sizes=sizes
    )
    # What a capture does has no entries at all.
    keep = program.op != Op.CAPTURE
    program.op, program.arg = program.op[keep], program.arg[keep]
    program.entry = program.entry[keep]
    device = Device(rng.choice([None, rng.randrange(200, 900) * MiB]))
    torch = rng.choice(["2.9", "2.11", "2.15"])
    run = replay_reference(program, settings, release(torch), device, stop_at_oom=False)
    recording = record(program, run, settings, pools=with_pools, stacks=stacks)
    return recording, settings, torch, device


@pytest.mark.parametrize("stacks", [True, False])
@pytest.mark.parametrize("pools", [0, 2])
def test_random_programs_survive_recording_cutting_and_lifting(pools, stacks):
    for seed in range(40):
        recording, settings, torch, device = made(seed, pools=pools, with_pools=True, stacks=stacks)
        n = recording.devices[0].n_entries
        for first in (0, random.Random(seed).randrange(n + 1)):
            program = lift(cut(recording, first), 0)
            found = departures(program, settings, release(torch), device)
            assert found == [], f"seed {seed}, cut at {first}: {kinds(program)}"
            assert "settings_changed" not in kinds(program)


def test_random_programs_of_unrecorded_pools_are_exact_or_said_to_be_guessed():
    wrong = []
    for seed in range(60):
        recording, settings, torch, device = made(seed, pools=1, with_pools=False, stacks=True)
        program = lift(recording, 0)
        if departures(program, settings, release(torch), device):
            wrong.append(seed)
            assert "guessed_pool" in kinds(program) and not program.complete
    assert len(wrong) <= 6  # streams and pools change at random: there is little to go by


def test_a_program_says_what_was_asked_and_nothing_of_the_answers():
    # By hand: a block of each stream, one freed at once and one later, and a failure between.
    one, two = {"stream": 0, "pool": 1}, {"stream": 1, "pool": 1}
    entries = [
        ("segment_alloc", 0, 2 * MiB, one), ("alloc", 0, 100, one),
        ("segment_alloc", 8 * MiB, 20 * MiB, two), ("alloc", 8 * MiB, 3 * MiB, two),
        ("free_requested", 8 * MiB, 3 * MiB, two), ("oom", 0, 1 << 40, one),
        ("alloc", 512, 100, one),
    ]  # fmt: skip
    entries[5:5] = [("free_requested", 0, 100, one), ("free_completed", 0, 100, one)]
    final = [
        (0, {"small"}, [(512, FREE_BLOCK, 0), (512, LIVE_BLOCK, 100), (2096128, FREE_BLOCK, 0)]),
        (8 * MiB, {"stream 1"}, [(3 * MiB, 2, 3 * MiB), (17 * MiB, FREE_BLOCK, 0)]),
    ]
    p = lift(by_hand(entries, final), 0)
    failed = int(p.arg[5])
    assert ops(p) == [
        "MALLOC 0", "MALLOC 1", "FREE_LATER 1", "FREE 0",
        "CAPTURE 1", f"TRY {failed}", "CAPTURE 0", "MALLOC 2",
    ]  # fmt: skip
    assert p.entry.tolist() == [1, 3, 4, 5, -1, 7, -1, 8]
    assert p.streams.tolist() == [0, 77] and p.pools == [(0, 0)]
    rows = list(zip(p.req_size.tolist(), p.req_stream.tolist(), p.req_pool.tolist(), strict=True))
    assert rows == [(100, 0, 0), (3 * MiB, 1, 0), (1 << 40, 0, 0)]
    assert p.request.tolist() == [0, 1, 0] and failed == 2
    assert p.driver_op.tolist() == [0, 1]
    assert p.driver_action.tolist() == [Action.SEGMENT_ALLOC] * 2
    assert p.end.blocks["alloc"].tolist() == [-1, 2, -1, 1, -1]
    assert p.end.blocks["state"].tolist() == [0, 1, 0, 2, 0]


def test_an_empty_recording_is_an_empty_program():
    p = lift(by_hand([], []), 0)
    assert p.n_ops == 0 and p.n_start == 0 and p.complete and p.findings == []
    assert p.start.reserved_bytes == p.end.reserved_bytes == 0


def test_lifting_changes_nothing_in_the_recording():
    recording = by_hand(
        [("segment_alloc", 0, 2 * MiB), ("alloc", 0, 100)],
        [(0, {"small"}, [(512, LIVE_BLOCK, 100), (2 * MiB - 512, FREE_BLOCK, 0)])],
    )
    d = recording.devices[0]
    tables = (d.entries, d.segments, d.blocks)
    before = [{k: v.copy() for k, v in t.items()} for t in tables]
    lift(recording, 0)
    for old, new in zip(before, tables, strict=True):
        assert all(np.array_equal(old[k], new[k]) for k in old)

"""Skipping what repeats changes nothing: every counter and the whole final state stay the same."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightfit.experiments.bench.tiling import tile
from tightfit.policies.native import replay_native
from tightfit.sim import replay as replaying
from tightfit.sim import steady
from tightfit.sim.device import Device
from tightfit.sim.memory import Fields
from tightfit.sim.packing import Packed, pack
from tightfit.sim.release import Release, release
from tightfit.sim.run import Run
from tightfit.sim.settings import OFF, Settings
from tightfit.sim.state import HIGHEST_ID, ID_STEP
from tightfit.traces.errors import TraceError
from tightfit.traces.history import lift
from tightfit.traces.load import load
from tightfit.traces.program import Program
from tightfit.traces.random_programs import random_size
from tightfit.traces.synthetic import PATTERNS
from tightfit.traces.units import KiB, MiB

from .. import strategies as make
from .agreement import differences

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
# The longer recordings add minutes and nothing else.
SHORT = [p for p in sorted(DATA.glob("*.npz")) if p.stat().st_size < 64 * KiB]
LINES = {
    "default": Settings(),
    "expandable": Settings(expandable_segments=True),
    "split": Settings(max_split_size=64 * MiB),
    "garbage": Settings(garbage_collection_threshold=0.6, per_process_memory_fraction=0.9),
}


@pytest.fixture
def skipped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events each replay skipped."""
    seen: list[int] = []

    def counted(*args: object) -> int:
        seen.append(steady.skip_ahead(*args))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(replaying, "skip_ahead", counted)
    return seen


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks cost nothing, so that even short programs are looked at often."""
    for name in ("GLANCE", "MARK", "PER_BLOCK"):
        monkeypatch.setattr(steady, name, 0)
    monkeypatch.setattr(steady, "UNIT", 1)


def both(packed: Packed, settings: Settings, rules: Release, device: Device) -> tuple[Run, Run]:
    options: dict[str, Any] = {"track": True, "layout": True, "stop_at_oom": False}
    whole = replay_native(packed, settings, rules, device, skip=False, **options)
    short = replay_native(packed, settings, rules, device, **options)
    return short, whole


def repeated(seed: int, times: int) -> Program:
    """Random steps that end as they began, again and again, with some memory kept throughout."""
    rng = random.Random(seed)
    script = make.Script(streams=2, pools=1)
    script.mallocs(*(random_size(rng) for _ in range(rng.randint(0, 8))))
    steps: list[tuple[str, int, int, int]] = []
    alive: list[int] = []
    pending: list[int] = []
    born = 0
    for _ in range(rng.randint(10, 60)):
        x = rng.random()
        if x < 0.5 or not alive:
            steps.append(("malloc", random_size(rng), rng.randrange(2), rng.random() < 0.2))
            alive.append(born)
            born += 1
        elif x < 0.85:
            steps.append(("free", alive.pop(rng.randrange(len(alive))), 0, 0))
        elif x < 0.93:
            pending.append(alive.pop(rng.randrange(len(alive))))
            steps.append(("later", pending[-1], 0, 0))
        elif x < 0.98:
            if pending:
                steps.append(("complete", pending.pop(0), 0, 0))
        else:
            steps.append(("empty", 0, 0, 0))
    steps += [("complete", k, 0, 0) for k in pending] + [("free", k, 0, 0) for k in alive]
    for _ in range(times):
        mine: list[int] = []
        for what, a, stream, pool in steps:
            if what == "malloc":
                mine.append(script.malloc(a, stream, int(pool)))
            elif what == "free":
                script.free(mine[a])
            elif what == "later":
                script.free_later(mine[a])
            elif what == "complete":
                script.complete(mine[a])
            else:
                script.empty_cache()
    return script.program()


@pytest.mark.parametrize("seed", range(make.tries(60)))
@pytest.mark.interpreted
@pytest.mark.usefixtures("eager")
def test_a_random_repetition_ends_in_the_same_state(seed: int) -> None:
    rng = random.Random(seed)
    program = repeated(seed, 40)
    settings = Settings(
        expandable_segments=rng.random() < 0.5,
        max_split_size=rng.choice([OFF, OFF, 32 * MiB]),
        garbage_collection_threshold=rng.choice([0.0, 0.5]),
        per_process_memory_fraction=rng.choice([1.0, 0.8]),
    )
    capacity = rng.choice([None, rng.randrange(100, 1500) * MiB])
    rules = release(rng.choice(make.RELEASES))
    short, whole = both(pack(program), settings, rules, Device(capacity))
    assert differences(short, whole) == []
    assert short.work == whole.work


@pytest.mark.usefixtures("eager")
def test_most_repetitions_are_skipped(skipped: list[int]) -> None:
    for seed in range(30):
        replay_native(pack(repeated(seed, 40)), Settings(), release("2.15"))
    assert sum(n > 0 for n in skipped) > 25


@pytest.mark.parametrize("n_ops", [20_000, 300_000, 1_000_000])
def test_looking_in_vain_ends_when_it_has_cost_its_share(
    n_ops: int, skipped: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(PATTERNS["train"](n_ops))
    period = packed.period
    assert period is not None
    marks: list[int] = []

    def never_the_same(f: Fields, *rest: Any) -> steady.Mark:
        marks.append(steady.MARK + steady.PER_BLOCK * int(f["g"][HIGHEST_ID]) // ID_STEP)
        mark = take_mark(f, *rest)
        mark.form[0] = np.array([len(marks)])
        return mark

    take_mark = steady.take_mark
    monkeypatch.setattr(steady, "take_mark", never_the_same)
    replay_native(packed, Settings(), release("2.15"))
    stretch = period.length * period.repeats
    assert skipped == [0]
    assert bool(marks) == (n_ops > 20_000)  # one look at so short a stretch costs too much
    assert sum(marks[:2]) <= steady.SOON * stretch
    assert len(marks) <= 2 or sum(marks) <= steady.SHARE * stretch


@pytest.mark.parametrize("share", [None, 1.05, 1.0, 0.9])
@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("torch", ["2.15", "2.12", "2.9"])
def test_training_ends_in_the_same_state(
    torch: str, line: str, share: float | None, skipped: list[int]
) -> None:
    packed = pack(PATTERNS["train"](300_000))
    need = replay_native(packed, Settings(), release(torch)).stats["allocated_bytes.all.peak"]
    device = Device() if share is None else Device(int(need * share) // MiB * MiB)
    short, whole = both(packed, LINES[line], release(torch), device)
    assert differences(short, whole) == []


@pytest.mark.parametrize("share", [0.99, 0.9, 0.6])
def test_a_replay_that_looks_ahead_ends_at_the_first_failure_too(share: float) -> None:
    packed = pack(PATTERNS["train"](300_000))
    rules = release("2.15")
    need = replay_native(packed, Settings(), rules).stats["allocated_bytes.all.peak"]
    device = Device(int(need * share) // MiB * MiB)
    short = replay_native(packed, Settings(), rules, device, track=True, layout=True)
    whole = replay_native(packed, Settings(), rules, device, track=True, layout=True, skip=False)
    assert differences(short, whole) == []
    assert whole.stats["num_ooms"] == 1


def test_training_is_skipped_almost_whole(skipped: list[int]) -> None:
    packed = pack(PATTERNS["train"](1_000_000))
    for settings in (LINES["default"], LINES["expandable"]):
        replay_native(packed, settings, release("2.15"))
    assert all(n > 0.9 * len(packed.events) for n in skipped[-2:])


@pytest.mark.parametrize("line", ["default", "expandable"])
@pytest.mark.parametrize("path", SHORT, ids=lambda p: p.stem)
def test_a_tiled_recording_ends_in_the_same_state(path: Path, line: str) -> None:
    recording = load(path)
    program = lift(recording, min(recording.devices))
    try:
        program = tile(program, 5 * program.n_ops)
    except TraceError as error:
        pytest.skip(str(error))
    short, whole = both(pack(program), LINES[line], release("2.15"), Device())
    assert differences(short, whole) == []


def test_addresses_of_segments_obtained_anew_move_on() -> None:
    """Every repetition empties the cache, so that each segment is a new one in the end."""
    script = make.Script()
    kept = script.malloc(30 * MiB)
    for _ in range(9000):
        script.free(*script.mallocs(20 * MiB, 600 * MiB))
        script.empty_cache()
    script.malloc(512)
    packed = pack(script.program())
    short, whole = both(packed, Settings(), release("2.15"), Device())
    assert differences(short, whole) == []
    assert short.layout is not None
    assert np.ptp(short.layout.segments["address"].astype(np.int64)) > 9000 * 620 * MiB
    assert kept == 0

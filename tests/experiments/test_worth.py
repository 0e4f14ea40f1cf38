"""Cutting replays short changes no answer: tune with it and without, and what it chooses from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments import tuning
from tightfit.experiments.measure import Bench
from tightfit.experiments.outcome import Outcome
from tightfit.experiments.outcome_cache import OutcomeCache
from tightfit.experiments.recommend import WORTH, Line, rank, recommend
from tightfit.experiments.subject import Subject, load_subjects
from tightfit.experiments.worth import FIRST, Worth
from tightfit.sim.device import Device
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.sim.state import HUGE
from tightfit.traces.units import MiB

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
RULES = release("2.15")


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered from one call to the next."""
    monkeypatch.setattr(OutcomeCache, "load", lambda self: {})
    monkeypatch.setattr(OutcomeCache, "save", lambda self, outcomes: None)


@pytest.fixture
def cuts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts the replays that were cut short."""
    seen: list[int] = []
    real = Bench._run

    def counted(*args: Any) -> Any:
        run = real(*args)
        if run.cut:
            seen.append(1)
        return run

    monkeypatch.setattr(Bench, "_run", counted)
    yield seen


def answers(
    subjects: list[Subject], monkeypatch: pytest.MonkeyPatch, *args: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    short = tuning.find_line(subjects, *args).document()
    with monkeypatch.context() as patch:
        patch.setattr(Worth, "bound", lambda self, requested: HUGE)
        whole = tuning.find_line(subjects, *args).document()
    return short, whole


SMALL, OTHER = "mlp_train", "fsdp_rank0of4"
LARGE = "cnn_resolutions.default"
NO_EXPANDABLE = ["expandable_segments"]


@pytest.mark.parametrize(
    ("name", "share", "without"),
    [
        *((SMALL, share, keys) for share in (None, 0.9) for keys in ([], NO_EXPANDABLE)),
        (OTHER, 0.9, []),
        (LARGE, None, []),
        (LARGE, 0.95, NO_EXPANDABLE),
    ],
)  # fmt: skip
def test_tune_answers_the_same(
    name: str, share: float | None, without: list[str], monkeypatch: pytest.MonkeyPatch,
    cuts: list[int],
) -> None:  # fmt: skip
    subjects = load_subjects(DATA / f"{name}.npz")
    gpu = Device()
    if share is not None:
        peak = Bench(subjects, RULES, Device()).measure(Settings())[0].peak_reserved_bytes
        gpu = Device(int(peak * share) // MiB * MiB)
    short, whole = answers(subjects, monkeypatch, gpu, "2.15", without, 12)
    assert short == whole
    if name == LARGE and share is None:
        assert len(cuts) > 100  # or the test would show nothing


def test_tune_answers_the_same_for_several_recordings(
    monkeypatch: pytest.MonkeyPatch, cuts: list[int]
) -> None:
    names = ("fsdp_rank0of4", "cnn_resolutions.default")
    subjects = [load_subjects(DATA / f"{name}.npz")[0] for name in names]
    short, whole = answers(subjects, monkeypatch, Device(), "2.15", [], 8)
    assert short == whole and cuts


def test_what_was_cut_is_never_kept_as_measured(cuts: list[int]) -> None:
    subjects = load_subjects(DATA / "serve_growing_kv.default.npz")
    bench = Bench(subjects, RULES, Device())
    lines = bench.distinct(
        Settings(large_segment_size=k * MiB, expandable_segments=e)
        for k in range(12, 100, 2)
        for e in (False, True)
    )
    bench.measure_all(lines)
    assert cuts
    alone = Bench(subjects, RULES, Device())
    missing = 0
    for settings in lines:
        kept = bench.seen.get(bench.effect(settings))
        missing += kept is None
        assert kept in (None, alone.measure(settings))
    assert missing == len(cuts)
    assert len(bench.asked) == len(lines)


def outcome(peak: int, requested: int, ooms: int, retries: int, calls: int) -> Outcome:
    return Outcome(peak, peak, requested, calls, 0, retries, ooms, None)


@pytest.mark.parametrize("seed", range(200))
def test_a_line_beyond_the_limit_is_neither_first_nor_recommended(seed: int) -> None:
    """Made-up outcomes with many ties, failures and retries, in any order."""
    rng = random.Random(seed)
    requested = [rng.randint(1, 50) for _ in range(rng.randint(1, 3))]
    lines = []
    for k in range(rng.randint(1, 40)):
        found = [
            outcome(
                r * rng.randint(100, 106) // 100 + rng.randint(0, 2), r, rng.random() < 0.1,
                rng.random() < 0.2, rng.randint(0, 3),
            )
            for r in requested
        ]  # fmt: skip
        lines.append((found, Line("k:" * rng.randint(0, 3) + str(k), Settings(), rank(found))))
    worth, left = Worth(), []
    for found, line in lines:
        if all(o.peak_reserved_bytes <= worth.bound(o.peak_requested_bytes) for o in found):
            worth.note(found)
            left.append(line)
    whole = [line for _, line in lines]
    assert recommend(left) == recommend(whole)
    assert (
        sorted(left, key=lambda x: x.rank.key)[:FIRST]
        == (sorted(whole, key=lambda x: x.rank.key)[:FIRST])
    )


def test_the_bound_is_the_last_byte_within_the_limit() -> None:
    rng = random.Random(5)
    for _ in range(500):
        worth = Worth()
        requested = rng.randint(1, 1 << 40)
        for _ in range(FIRST):
            worth.note([outcome(rng.randint(requested, 2 * requested), requested, 0, 0, 1)])
        bound = worth.bound(requested)
        assert bound / requested <= worth.limit < (bound + 1) / requested
        assert worth.limit >= worth._ratios[0] * (1 + WORTH)
    assert Worth().bound(100) == HUGE

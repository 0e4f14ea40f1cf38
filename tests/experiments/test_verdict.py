"""Placement, counters and budget beside a prediction; the verdict on them, and its sheet."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightfit.experiments.subject import load_subjects
from tightfit.experiments.verify.budget import compare_budget, next_limits
from tightfit.experiments.verify.counters import compare_counters
from tightfit.experiments.verify.placement import compare_placement, free_ranges, told_run
from tightfit.experiments.verify.places import table
from tightfit.experiments.verify.prediction import STEP, Driver, Prediction
from tightfit.experiments.verify.replayable import replayable
from tightfit.experiments.verify.sheet import Sheet, write_sheet
from tightfit.experiments.verify.verdict import overall
from tightfit.sim.device import Device
from tightfit.sim.release import release
from tightfit.traces.event import Action
from tightfit.traces.units import GiB, MiB

from .as_predicted import DATA, FACTS, answer_to, recording_of, result


@pytest.fixture(scope="module")
def prediction() -> Prediction:
    """A recorded program with side streams, under the default."""
    (subject,) = load_subjects(DATA / "streams.default.npz")
    program = replayable(subject.program).program
    return Prediction(program, "", release("2.15"), Device(80 * GiB, GiB))


def test_what_does_as_predicted_is_confirmed(prediction: Prediction) -> None:
    whole = result(prediction)
    assert whole.verdict == "confirmed" and whole.reasons == []
    assert whole.placement is not None and whole.placement.exact_when_told
    assert whole.placement.events > 3000


def test_another_placement_leaves_bytes_only_and_is_explained(prediction: Prediction) -> None:
    other = recording_of(prediction, "roundup_power2_divisions:2")
    placement = compare_placement(prediction, answer_to(prediction), other)
    assert 0 < placement.events_exact < placement.events
    whole = result(prediction, placement=placement)
    assert whole.verdict == "bytes only"
    (reason,) = whole.reasons
    assert "real " in reason and "simulated " in reason and "free pieces" in reason


def test_a_counter_that_is_not_about_bytes_leaves_bytes_only(prediction: Prediction) -> None:
    answers = [answer_to(prediction, num_alloc_retries=1)] * 3
    whole = result(prediction, counters=compare_counters(prediction, answers))
    assert whole.verdict == "bytes only"
    assert whole.reasons == ["V2: num_alloc_retries = 1, predicted 0"]


def test_repeats_that_differ_are_noticed(prediction: Prediction) -> None:
    answers = [answer_to(prediction), answer_to(prediction, num_alloc_retries=1)]
    counters = compare_counters(prediction, answers)
    assert counters.unstable == {"num_alloc_retries": [0, 1]} and not counters.wrong
    assert result(prediction, counters=counters).verdict == "bytes only"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a["stats"].update({"reserved_bytes.all.peak": 5}),
        lambda a: a.update(oom={"step": 7}),
        lambda a: a.update(free_at_end=a["free_at_end"] - 100 * MiB),
    ],
    ids=["peak", "out of memory", "witness"],
)
def test_bytes_that_differ_are_not_confirmed(prediction: Prediction, spoil: Any) -> None:
    answer = answer_to(prediction)
    spoil(answer)
    whole = result(prediction, counters=compare_counters(prediction, [answer]))
    assert whole.verdict == "not confirmed" and whole.reasons


def test_a_process_that_died_or_a_refused_line_is_not_confirmed(prediction: Prediction) -> None:
    assert result(prediction, died={"V1": "signal 6"}).verdict == "not confirmed"
    assert result(prediction, refused="by PyTorch: no").verdict == "not confirmed"


def test_a_missing_stage_is_no_verdict(prediction: Prediction) -> None:
    missing = result(prediction, placement=None)
    assert missing.verdict == "unfinished"
    assert overall([result(prediction), missing]) == "unfinished"
    assert overall([result(prediction)]) == "confirmed"


def test_where_the_lowest_address_is_taken_the_driver_s_addresses_are_told() -> None:
    (subject,) = load_subjects(DATA / "mlp_train.npz")
    program = replayable(subject.program).program
    old = Prediction(program, "", release("2.11"), Device(80 * GiB, GiB))
    calls = old.run.events[old.run.events["action"] == Action.SEGMENT_ALLOC]
    falling = (1 << 45) - (np.arange(len(calls), dtype=np.uint64) << 34)  # as some drivers do
    real = old.run_with(Driver(calls["op"], calls["action"], falling, calls["size"]))
    assert real.stats != old.run.stats
    answer = {**answer_to(old), "stats": real.stats}
    recording = recording_of(old, run=real)
    placement = compare_placement(old, answer, recording)
    assert placement.is_exact and placement.exact_when_told and placement.by_address
    assert placement.unaided_exact < placement.events_exact == placement.events
    runs = [told_run(old, answer, recording)] * 2
    assert compare_counters(old, [answer] * 2, runs).is_exact
    assert not compare_counters(old, [answer] * 2).is_exact
    newer = replace(old, rules=release("2.15"))
    assert not compare_placement(newer, answer, recording).is_exact


def test_where_addresses_decide_each_limit_is_held_to_the_run_that_knew_them() -> None:
    old = Prediction(replayable(load_subjects(DATA / "streams.default.npz")[0].program).program,
                     "", release("2.11"), Device(80 * GiB, GiB))  # fmt: skip
    limit = old.smallest_limit
    assert limit is not None
    fits, fails = old.run_within(limit + STEP), old.run_within(limit - STEP)
    answers = {
        limit + STEP: {"oom": None, "stats": fits.stats}, limit: {"oom": {"step": 1}, "stats": {}},
    }  # fmt: skip
    as_told = compare_budget(old, answers, {limit + STEP: fits, limit: fails})
    assert as_told.is_equal and as_told.predicted != as_told.measured and not as_told.wrong
    assert not compare_budget(old, answers, {limit + STEP: fits, limit: fits}).is_equal
    assert not compare_budget(old, answers).is_equal


@pytest.mark.parametrize("real", [STEP, 11 * STEP, 37 * STEP, 38 * STEP, 60 * STEP, 300 * STEP])
def test_the_search_finds_the_smallest_limit_wherever_it_is(real: int) -> None:
    predicted = 37 * STEP
    tries: dict[int, bool] = {}
    for _ in range(40):
        limits = next_limits(predicted, 0, tries)
        if not limits:
            break
        tries |= {limit: limit >= real for limit in limits if limit > 0}
    found = min((limit for limit, ok in tries.items() if ok), default=None)
    assert found == (real if real < 100 * STEP else None)
    assert len(tries) == 2 or real != predicted


def test_a_wrong_smallest_limit_is_not_confirmed(prediction: Prediction) -> None:
    limit = prediction.smallest_limit
    assert limit is not None
    far = limit + 40 * STEP
    fits, fails = answer_to(prediction), {**answer_to(prediction), "oom": {"step": 1}}
    budget = compare_budget(prediction, {limit: fails, far - STEP: fails, far: fits})
    assert budget.measured == far
    assert result(prediction, budget=budget).verdict == "not confirmed"


def test_the_predicted_limit_is_the_smallest_that_completes(prediction: Prediction) -> None:
    limit = prediction.smallest_limit
    assert limit is not None
    assert prediction.completes_within(limit)
    assert not prediction.completes_within(limit - STEP)


def test_places_do_not_depend_on_addresses() -> None:
    alloc, free, new, gone = 0, 2, 3, 4
    action = np.array([new, new, alloc, alloc, free, gone, new])
    size = np.array([2, 20, 1, 5, 5, 20, 4]) << 20
    zeros = np.zeros(7, np.int64)

    def at(a: int, b: int, c: int) -> np.ndarray:
        return np.array([a, b, a + 512, b + 4096, b + 4096, b, c])

    low, _ = table(action, at(1 << 30, 1 << 32, 1 << 33), size, zeros, zeros)
    high, _ = table(action, at(1 << 40, 1 << 32, 1 << 36), size, zeros, zeros)
    assert np.array_equal(low, high)
    assert low[:, 1:3].tolist() == [[0, 0], [1, 0], [0, 512], [1, 4096], [1, 4096], [1, 0], [2, 0]]
    moved, _ = table(action, at(1 << 40, 1 << 32, 1 << 36) + [0, 0, 512, 0, 0, 0, 0], size, zeros,
                     zeros)  # fmt: skip
    assert not np.array_equal(low, moved)


def test_free_ranges_are_what_no_allocation_covers() -> None:
    rows = [(Action.SEGMENT_ALLOC, 0, 0, 8192, 0, 0), (Action.ALLOC, 0, 0, 1000, 0, 0),
            (Action.ALLOC, 0, 4096, 512, 0, 0), (Action.FREE_COMPLETED, 0, 0, 1000, 0, 0),
            (Action.SEGMENT_ALLOC, 1, 0, 4096, 3, 0)]  # fmt: skip
    assert free_ranges(np.array(rows), 0, 0) == [(0, 0, 4096), (0, 4608, 3584)]


def test_a_sheet_names_everything_and_a_stand_in_in_its_verdict(
    prediction: Prediction, tmp_path: Path
) -> None:
    sheet = Sheet("t.npz", "ab" * 32, ["a note"], 5, "2026-11-25", "h100-80g", FACTS, 3,
                  [result(prediction)])  # fmt: skip
    assert "stand-in" in sheet.headline and sheet.headline.startswith("CONFIRMED")
    assert "stand-in" not in replace(sheet, stand_in="").headline
    paths = write_sheet(sheet, tmp_path, "t")
    document = json.loads(paths[0].read_text())
    assert document["verdict"] == "confirmed" and document["trace_sha256"] == "ab" * 32
    assert document["lines"][0]["counters"]["measured"]["num_ooms"] == 0
    text = paths[1].read_text()
    for part in ("ab" * 32, "575.57", "2.15.0", "2026-11-25", "a note", "(default)"):
        assert part in text

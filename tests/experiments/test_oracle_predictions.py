"""Predictions against the real allocator: kept ones, fresh ones, and wrong ones noticed."""

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
from tightfit.experiments.oracle import predict as predicting
from tightfit.experiments.oracle import predictions as campaign
from tightfit.experiments.oracle.commands import Case
from tightfit.experiments.oracle.golden_predictions import NAME, read_predictions
from tightfit.experiments.oracle.predict import Prediction, predict
from tightfit.experiments.oracle.predictions import Predictions, count, kind, prove_predictions
from tightfit.experiments.oracle.recordable import pool_ids, recording_of
from tightfit.experiments.oracle.run import ROW, Answer, run_cases
from tightfit.experiments.oracle.script import Script
from tightfit.experiments.oracle.triples import (
    Dead,
    Reality,
    Triple,
    random_triple,
    run_triples,
    triple_from_json,
    triple_to_json,
    triple_to_text,
)
from tightfit.experiments.oracle.unseen import CAPTURE_OOM, COMPLETION, NOTES, NOTHING
from tightfit.experiments.oracle.wheels import RELEASES
from tightfit.sim.device import Device
from tightfit.sim.release import release
from tightfit.traces.errors import PolicyError
from tightfit.traces.event import Action
from tightfit.traces.load import load
from tightfit.traces.units import GiB, MiB

from .test_oracle import driver_at_hand

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NEWEST = "2.15.0"


@pytest.fixture(scope="module")
def kept() -> list[tuple[str, Triple, Reality]]:
    return read_predictions(GOLDEN / NAME)


def of_release(kept: list[tuple[str, Triple, Reality]], version: str) -> list[Any]:
    return [(triple, reality) for torch, triple, reality in kept if torch == version]


@pytest.mark.parametrize("version", RELEASES)
def test_kept_recordings_predict_what_other_settings_really_did(kept: Any, version: str) -> None:
    triples = of_release(kept, version)
    assert len(triples) == 3
    for triple, reality in triples:
        found = predict(triple, reality, release(version))
        assert found.differences == [], triple_to_text(triple)
        assert (found.defect, found.unseen, found.unseen_going_on) == (None, None, None)
        assert found.events > 20
    assert any(reality.failed >= 0 for _, reality in triples)


def test_kept_triples_are_about_other_settings(kept: Any) -> None:
    confs = {(triple.a.conf, triple.conf) for _, triple, _ in kept}
    assert all(a != b for a, b in confs)
    assert any("expandable_segments:True" in b and "segments:True" not in a for a, b in confs)
    assert any("expandable_segments:True" in a and "segments:True" not in b for a, b in confs)


# Wrong predictions are noticed.


def spoil(reality: Reality, what: str) -> Reality:
    """Change one thing that the real allocator did under B."""
    table, _, column = what.partition(".")
    whole = replace(reality.whole)
    if table == "stats":
        whole.stats = whole.stats | {column: whole.stats[column] + 512}
    else:
        rows = getattr(whole, table).copy()
        rows[column][len(rows) // 2] += 512 if column in ("addr", "size") else 1
        setattr(whole, table, rows)
    return replace(reality, whole=whole, ended=whole)


@pytest.mark.parametrize(
    "what",
    [
        "stats.reserved_bytes.all.peak", "stats.requested_bytes.all.peak", "stats.num_device_alloc",
        "stats.num_alloc_retries", "stats.num_ooms", "trace.addr", "trace.size", "segments.size",
        "blocks.size", "blocks.addr",
    ],
)  # fmt: skip
def test_a_wrong_prediction_is_noticed(
    kept: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    triple, reality = next((t, r) for t, r in of_release(kept, NEWEST) if r.failed < 0)
    retold = predicting._retell

    def retell(case: Case, answer: Answer, rules: Any) -> Any:
        """The referee must not find the spoilt figure first."""
        told, defect, _ = retold(case, answer, rules)
        return told, defect, []

    monkeypatch.setattr(predicting, "_retell", retell)
    assert predict(triple, reality, release(NEWEST)).differences == []
    found = predict(triple, spoil(reality, what), release(NEWEST))
    assert found.differences and found.unseen is None


def test_a_prediction_under_other_rules_is_wrong_somewhere(kept: Any) -> None:
    """What the file holds can tell releases apart."""
    wrong = 0
    for version, triple, reality in kept:
        other = release("2.15.0" if release(version).version < (2, 13) else "2.11.0")
        try:
            wrong += bool(predict(triple, reality, other).differences)
        except PolicyError:  # a line of one release that another refuses
            wrong += 1
    assert wrong > 5


def test_a_wrong_prediction_ends_with_one_and_a_small_triple(
    kept: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (triple, reality), *_ = of_release(kept, NEWEST)
    monkeypatch.setattr(campaign, "find_wheel", lambda version, folder: None)
    monkeypatch.setattr(campaign, "build_driver", lambda wheel: Path("driver"))
    monkeypatch.setattr(campaign, "random_triple", lambda name, rules, seed: triple)
    monkeypatch.setattr(campaign, "run_triples", lambda ask, triples: [reality] * len(triples))
    assert cli.main(["prove", "--predictions", "5", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"].startswith("RIGHT: none differs of 5 predictions")
    assert said["releases"][0]["compared"] == 5

    wrong = Prediction(differences=["ending: peak_reserved_bytes: real 1, predicted 2"])
    monkeypatch.setattr(campaign, "predict", lambda triple, reality, rules: wrong)
    monkeypatch.setattr(campaign, "smallest", lambda triple, found, rules, ask: triple)
    assert cli.main(["prove", "--predictions", "50"]) == 1
    printed = capsys.readouterr().out
    assert "WRONG: 3 of" in printed
    line = next(line for line in printed.splitlines() if line.startswith("triple: "))
    again = triple_from_json(json.loads(line.removeprefix("triple: ")))
    assert triple_to_json(again) == triple_to_json(triple)


def test_shrinking_keeps_a_wrong_prediction_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = release(NEWEST)
    triple = replace(
        random_triple(NEWEST, rules, 3),
        conf="expandable_segments:True,max_split_size_mb:64",
    )
    triple = replace(triple, a=replace(triple.a, conf="max_split_size_mb:32"))
    sizes = triple.a.commands["size"]
    needed = int(sizes[sizes > 0][7])
    monkeypatch.setattr(campaign, "run_triples", lambda ask, triples: triples)

    def wrong(triple: Triple, reality: Any, rules: Any) -> Prediction:
        is_wrong = needed in triple.a.commands["size"] and "max_split" in triple.conf
        return Prediction(differences=["ending: peak: real 7"] if is_wrong else [])

    monkeypatch.setattr(campaign, "predict", wrong)
    proof = Predictions(NEWEST, 0)
    count(proof, wrong(triple, None, rules), triple, rules, lambda cases: [])
    (difference,) = proof.differences
    small = triple_from_json(json.loads(difference.case))
    assert len(small.a.commands) == 1
    assert (small.a.conf, small.conf) == ("", "max_split_size_mb:64")


def test_kinds_forget_figures() -> None:
    a, b = (Prediction([f"ending: ooms: real {n}, predicted 0"]) for n in (1, 22))
    assert kind(a) == kind(b) == "ending: ooms"
    assert kind(Prediction()) == ""


# The file a recording is.


def test_a_recording_has_the_keys_of_its_release(kept: Any) -> None:
    entries: dict[str, set[str]] = {}
    for version, _, reality in kept:
        rules = release(version)
        value = recording_of(reality.recorded, reality.a, rules)
        assert pickle.loads(pickle.dumps(value, 4)) == value  # builtins only
        entries[version] = set(value["device_traces"][0][0])
        top = set(value)
        assert ("external_annotations" in top) == (rules.version >= (2, 5))
        assert ("host_traces" in top) == (rules.version >= (2, 14))
        settings = value["allocator_settings"]
        reuse = "graph_capture_record_stream_reuse"
        assert (reuse in settings) == (rules.version >= (2, 9))
        assert settings["PYTORCH_CUDA_ALLOC_CONF"] == reality.recorded.conf
    assert "compile_context" not in entries["2.6.0"]
    assert "compile_context" in entries["2.8.0"]
    assert "user_metadata" not in entries["2.9.1"]
    assert "pool_id" not in entries["2.11.0"]
    assert {"pool_id", "user_metadata", "frames", "time_us"} <= entries["2.12.1"]


def test_a_recording_has_the_keys_that_pytorch_writes(kept: Any, shared: Path) -> None:
    """Against a file of torch 2.15's own."""
    real = load(shared / "recorded" / "mlp_train.pickle")
    _, reality = of_release(kept, NEWEST)[0]
    ours = recording_of(reality.recorded, reality.a, release(NEWEST))
    assert list(ours["allocator_settings"]) == list(real.settings)
    segment, entry = ours["segments"][0], ours["device_traces"][0][0]
    raw = (shared / "recorded" / "mlp_train.pickle").read_bytes()
    for key in (*segment, *segment["blocks"][0], *entry, *ours):
        assert key.encode() in raw, key


def test_a_pool_that_only_captures_use_is_a_graphs_own() -> None:
    script = Script()
    script.begin(capture=True, stream=1)
    script.end()
    shared = script.begin()
    script.end()
    script.begin(shared, capture=True, stream=1)
    script.end()
    case = Case("pools", "", Device(MiB), script.commands())
    assert pool_ids(case) == {0: (0, 0), 1: (1, 0), 2: (0, 2)}


def test_every_kind_of_unseen_thing_is_a_note_of_replay() -> None:
    from tightfit.experiments.unseen_notes import _TEXTS

    assert set(NOTES.values()) <= set(_TEXTS)


# The real thing.


@pytest.mark.parametrize("version", ["2.15.0", "2.9.1"])
def test_fresh_predictions_are_right(version: str) -> None:
    driver_at_hand(version)
    proof = Predictions(version, seed=random.SystemRandom().randrange(1 << 40))
    prove_predictions(proof, 60, None)
    assert proof.differences == [], proof.seed
    assert proof.triples == 60
    assert proof.compared > 30


def test_a_process_that_dies_is_not_counted_as_right() -> None:
    case = Case("dead", "", Device(MiB), Script().commands())
    nothing = Answer(11, np.zeros(0, ROW), np.zeros(0, np.uint64))
    found = predict(Triple("dead", case, "", Device(MiB)), Dead(case, nothing), release(NEWEST))
    assert found.differences


def test_programs_end_where_memory_ran_out_when_recorded() -> None:
    driver = driver_at_hand(NEWEST)
    script = Script()
    script.mallocs(30 * MiB, 30 * MiB, 70 * MiB)
    script.free(0)
    a = Case("early end", "", Device(100 * MiB), script.commands())
    triple = Triple("early end", a, "", Device(200 * MiB))
    (reality,) = run_triples(lambda cases: run_cases(driver, cases) if cases else [], [triple])
    assert isinstance(reality, Reality)
    assert len(reality.recorded.commands) == 3  # up to the error
    assert reality.a.trace["action"][-1] == Action.OOM
    assert reality.failed == -1
    found = predict(triple, reality, release(NEWEST))
    assert (found.differences, found.unseen, found.ends_early) == ([], None, True)


def test_a_program_of_which_nothing_was_recorded_is_named_so() -> None:
    driver = driver_at_hand(NEWEST)
    case = Case("nothing", "", Device(MiB), Script().commands())
    triple = Triple("nothing", case, "", Device(MiB))
    (reality,) = run_triples(lambda cases: run_cases(driver, cases) if cases else [], [triple])
    assert isinstance(reality, Reality)
    found = predict(triple, reality, release(NEWEST))
    assert found.differences == [] and found.unseen is not None
    assert found.unseen.name == NOTHING


def test_a_rejection_in_a_capture_is_no_memory_that_ran_out_there() -> None:
    """It ends a request before anything would be given back, in a capture as outside."""
    driver = driver_at_hand(NEWEST)
    script = Script()
    script.begin(capture=True, stream=1)
    deferred = script.malloc(1000, stream=1)
    script.record(deferred, 40)
    script.free(deferred)
    script.mallocs(30 * MiB, 70 * MiB)
    script.end()
    case = Case("rejected", "", Device(GiB), script.commands())
    unseen = {}
    for line in ("", "graph_capture_record_stream_reuse:True,throw_on_cudamalloc_oom:True"):
        triple = Triple("rejected", case, line, Device(64 * MiB))
        (reality,) = run_triples(lambda cases: run_cases(driver, cases) if cases else [], [triple])
        assert isinstance(reality, Reality) and reality.failed == 5
        found = predict(triple, reality, release(NEWEST))
        assert found.differences == []
        unseen[line] = found.unseen_going_on and found.unseen_going_on.name
    assert list(unseen.values()) == [CAPTURE_OOM, COMPLETION]

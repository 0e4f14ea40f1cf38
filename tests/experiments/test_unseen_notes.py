"""What a recording cannot show is said where it may matter, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tightfit.experiments.oracle.golden_predictions import NAME, read_predictions
from tightfit.experiments.oracle.recordable import write_recording
from tightfit.experiments.oracle.triples import Reality
from tightfit.experiments.replay import replay_subject
from tightfit.experiments.subject import Subject, load_subjects
from tightfit.experiments.unseen_notes import (
    ABOUT_CAPTURE,
    ABOUT_COMPLETION,
    ABOUT_EMPTY_CACHE,
    ABOUT_POOL,
    ABOUT_POOL_RELEASE,
    ABOUT_REJECTION,
    unseen_notes,
)
from tightfit.sim.device import Device
from tightfit.sim.release import Release, release

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "traces" / "data"


def kinds(subject: Subject, rules: Release, gpu: Device = Device()) -> set[str]:  # noqa: B008
    run, _, _ = replay_subject(subject, "", rules, gpu)
    return {f.kind for f in unseen_notes(subject, rules, run)}


def test_a_plain_program_is_warned_of_one_thing_only() -> None:
    (subject,) = load_subjects(DATA / "gpt_bf16_varlen.default.npz")
    assert kinds(subject, release("2.15")) == {ABOUT_EMPTY_CACHE}
    small = kinds(subject, release("2.15"), Device(4 << 30))
    assert small == {ABOUT_EMPTY_CACHE, ABOUT_CAPTURE}  # memory ran out


def test_pools_and_streams_bring_their_own_notes() -> None:
    (graphs,) = load_subjects(DATA / "cuda_graphs.default.npz")
    assert {ABOUT_POOL_RELEASE, ABOUT_CAPTURE} <= kinds(graphs, release("2.15"))
    (streams,) = load_subjects(DATA / "streams.default.npz")
    assert ABOUT_COMPLETION in kinds(streams, release("2.15"))


def test_only_recordings_without_pools_are_warned_of_them(tmp_path: Path) -> None:
    told: dict[str, set[str]] = {}
    for version, _, reality in read_predictions(ROOT / "tests" / "golden" / NAME):
        rules = release(version)
        told.setdefault(version, set()).update(kinds(read_back(tmp_path, reality, rules), rules))
    assert all((ABOUT_POOL in k) <= (release(v).version < (2, 12)) for v, k in told.items())
    assert any(ABOUT_POOL in k for k in told.values())


def test_rejected_requests_are_mentioned_if_they_may_have_been() -> None:
    (subject,) = load_subjects(DATA / "gpt_bf16_varlen.default.npz")
    line = {"PYTORCH_CUDA_ALLOC_CONF": "throw_on_cudamalloc_oom:True"}
    settings = subject.recording.settings | line
    subject.recording = replace(subject.recording, settings=settings)
    assert ABOUT_REJECTION in kinds(subject, release("2.15"))


def read_back(folder: Path, reality: Reality, rules: Release) -> Subject:
    path = folder / "recorded.pickle"
    write_recording(path, reality.recorded, reality.a, rules)
    return load_subjects(path)[0]

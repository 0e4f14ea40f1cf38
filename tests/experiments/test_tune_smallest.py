"""tune --smallest: no line tried runs on a smaller GPU, and what it costs there is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments import tuning
from tightfit.experiments.candidates import finite_lines
from tightfit.experiments.cli import main
from tightfit.experiments.measure import Bench
from tightfit.experiments.outcome_cache import OutcomeCache
from tightfit.experiments.recommend import WORTH
from tightfit.experiments.subject import load_subjects
from tightfit.experiments.worth import Worth
from tightfit.sim.device import Device
from tightfit.sim.release import release
from tightfit.sim.state import HUGE
from tightfit.traces.units import MiB

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
RULES = release("2.15")
CNN = str(DATA / "cnn_resolutions.default.npz")


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered from one call to the next."""
    monkeypatch.setattr(OutcomeCache, "load", lambda self: {})
    monkeypatch.setattr(OutcomeCache, "save", lambda self, outcomes: None)


def said(capsys: pytest.CaptureFixture, *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) in (0, 1)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["mlp_train", "streams.default"])
def test_no_line_tried_runs_on_less(name: str) -> None:
    """Each line bisected by itself, without a limit, beside what is found with one."""
    subjects = load_subjects(DATA / f"{name}.npz")
    answer = tuning.find_line(subjects, Device(), "2.15", [], 0, smallest=True)
    bench = Bench(subjects, RULES, Device(), smallest=True)
    lines = bench.distinct(finite_lines(subjects, RULES, Device(), frozenset()))
    bisected = [bench.measure(line)[0].smallest_bytes for line in lines]
    least = min(size for size in bisected if size is not None)
    best = answer.best.min_capacity_bytes
    assert best is not None and best <= least * (1 + WORTH)
    assert len(lines) > 50


@pytest.mark.parametrize(
    ("names", "without"),
    [
        (["cnn_resolutions.default"], ["expandable_segments"]),
        (["mlp_train", "devlog.default"], []),
    ],
)
def test_a_limit_changes_no_answer(
    names: list[str], without: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = [load_subjects(DATA / f"{name}.npz")[0] for name in names]
    args = (subjects, Device(), "2.15", without, 8)
    short = tuning.find_line(*args, smallest=True).document()
    limits: list[int] = []
    monkeypatch.setattr(Worth, "bound", lambda self, requested: limits.append(1) or HUGE)
    whole = tuning.find_line(*args, smallest=True).document()
    assert short == whole and limits


@pytest.mark.parametrize("other", ["", "300MiB"])
def test_what_is_named_runs_there_and_gives_its_cache_back_as_often_as_said(
    capsys: pytest.CaptureFixture, other: str
) -> None:
    ample = ["--capacity", "8GiB", "--other", other] if other else []
    found = said(capsys, "tune", CNN, "--smallest", "--trials", "4", *ample)
    least = found["best"]["min_capacity_bytes"]
    assert least <= found["default"]["min_capacity_bytes"]
    assert found["verdict"].startswith(f"{found['best']['conf']} runs on ")
    for total, ooms in ((least, 0), (least - 2 * MiB, 1)):
        words = ["replay", CNN, "--conf", found["best"]["conf"], "--capacity", str(total)]
        (device,) = said(capsys, *words, *ample[2:])["devices"]
        assert device["ooms"] == ooms
        if not ooms:
            assert device["alloc_retries"] == found["best"]["smallest_retries"] > 0


def test_a_capacity_does_not_change_what_runs_on_least(capsys: pytest.CaptureFixture) -> None:
    """Whether the cache is given back on the larger device says nothing about the smallest."""
    streams = str(DATA / "streams.default.npz")
    words = ["tune", streams, "--smallest", "--trials", "0"]
    free, ample = said(capsys, *words), said(capsys, *words, "--capacity", "60MiB")
    assert ample["best"]["min_capacity_bytes"] == free["best"]["min_capacity_bytes"]


def test_it_differs_from_what_reserves_least(capsys: pytest.CaptureFixture) -> None:
    peak = said(capsys, "tune", CNN, "--trials", "0")
    least = said(capsys, "tune", CNN, "--trials", "0", "--smallest")
    assert least["best"]["min_capacity_bytes"] < peak["best"]["min_capacity_bytes"]
    assert least["best"]["peak_reserved_bytes"] > peak["best"]["peak_reserved_bytes"]
    assert main(["tune", CNN, "--trials", "0", "--smallest"]) == 0
    out = capsys.readouterr().out
    assert "retries" in out and "On so little memory it gives its cache back " in out
    assert f"--capacity {least['best']['min_capacity_bytes'] // MiB}MiB" in out.splitlines()[-1]
    assert max(map(len, out.splitlines()[:12])) <= 100


def test_values_of_a_policy_are_ranked_by_it_too(capsys: pytest.CaptureFixture) -> None:
    words = ["--policy", "size_classes", "--trials", "16"]
    found = said(capsys, "tune", CNN, *words, "--smallest")
    best = found["best"]
    assert best["min_capacity_bytes"] <= found["default"]["min_capacity_bytes"]
    assert f"{best['policy']} runs on " in found["verdict"]
    other = said(capsys, "tune", CNN, *words)
    assert other["best"]["min_capacity_bytes"] is None
    rows = said(capsys, "compare", CNN, "--policy", best["policy"], "--smallest", "--packing", "0")
    rows = {r["policy"]: r for r in rows["traces"][0]["rows"]}
    for t in (best, found["baseline"]):
        assert rows[t["policy"]]["min_capacity_bytes"] == t["min_capacity_bytes"]
    assert main(["tune", CNN, *words, "--smallest"]) == 0
    assert "smallest" in capsys.readouterr().out

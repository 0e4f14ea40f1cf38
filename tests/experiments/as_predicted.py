"""Answers of a device that does what was predicted, but for what a test spoils."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tightfit.experiments.verify.budget import compare_budget
from tightfit.experiments.verify.counters import compare_counters
from tightfit.experiments.verify.placement import compare_placement
from tightfit.experiments.verify.prediction import STEP, Prediction
from tightfit.experiments.verify.verdict import LineResult
from tightfit.sim.export import snapshot_of
from tightfit.sim.run import Run
from tightfit.traces.units import GiB

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "traces" / "data"
FACTS = {
    "gpu": "NVIDIA H100 80GB HBM3", "torch": "2.15.0", "cuda": "13.2", "driver": "575.57",
    "total": 80 * GiB, "free": 79 * GiB,
}  # fmt: skip


def answer_to(prediction: Prediction, **changes: int) -> dict[str, Any]:
    """What a real allocator would say that does as predicted, but for some counters."""
    stats = {**prediction.run.stats, **changes}
    held = stats["reserved_bytes.all.current"]
    return {
        **FACTS, "stats": stats, "oom": None, "free_at_end": FACTS["free"] - held,
        "free_at_witness": FACTS["free"] - stats["reserved_bytes.all.peak"], "returns": [],
        "reserved_at_witness": stats["reserved_bytes.all.peak"],
        "streams": prediction.program.streams.tolist(), "pools": prediction.program.pools,
    }  # fmt: skip


def recording_of(prediction: Prediction, line: str | None = None, run: Run | None = None) -> Any:
    """The snapshot that a real allocator would have dumped."""
    import pickle

    from tightfit.traces.snapshot import read_snapshot

    other = replace(prediction, line=prediction.line if line is None else line)
    dumped = snapshot_of(
        other.program, run or other.run, conf=other.line, release=prediction.rules.name
    )
    return read_snapshot(pickle.dumps(dumped, protocol=4), "dumped")


def result(prediction: Prediction, **parts: Any) -> LineResult:
    """A line's result in which everything is as predicted, but for some parts."""
    limit = prediction.smallest_limit
    assert limit is not None
    fits = {**answer_to(prediction), "stats": prediction.run_within(limit).stats}
    fails = {**fits, "oom": {"step": 3}}
    whole = LineResult(
        "default", "",
        placement=compare_placement(prediction, answer_to(prediction), recording_of(prediction)),
        counters=compare_counters(prediction, [answer_to(prediction)] * 3),
        budget=compare_budget(prediction, {limit: fits, limit - STEP: fails}),
    )  # fmt: skip
    return replace(whole, **parts)

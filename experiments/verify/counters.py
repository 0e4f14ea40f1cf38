"""V2: every counter of `memory_stats`, and the memory that the device itself says is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...sim.run import Run
from ...traces.units import MiB
from .pool_counters import pool_counters
from .prediction import Prediction

# What a user buys memory by; the other counters say how it came about.
BYTES = (
    "reserved_bytes.all.peak", "allocated_bytes.all.peak", "active_bytes.all.peak",
    "requested_bytes.all.peak",
)  # fmt: skip
WITNESS_BYTES, WITNESS_SHARE = 32 * MiB, 0.01


@dataclass(frozen=True)
class Counters:
    """The outcome of V2.

    Attributes:
        repeats: processes that were run.
        compared: counters that both sides have.
        unstable: counters that differ between repeats though they are predicted to be equal:
            name -> values.
        wrong: counters that differ from the prediction, in the first repeat where one does: name ->
            (predicted, measured).
        missing: counters of the real allocator that are not predicted.
        measured: the counters of the first repeat.
        taken: memory gone from the device at the predicted peak and at the end; None = not looked
            at.
        reserved: what the real allocator held then.
        witness_agrees: the device agrees with the allocator's own counters.
        oom_step: the step at which memory ran out; None = it never did.
        predicted_oom_step: where it was to run out.
    """

    repeats: int
    compared: int
    unstable: dict[str, list[int]]
    wrong: dict[str, tuple[int, int]]
    missing: list[str]
    measured: dict[str, int]
    taken: tuple[int | None, int]
    reserved: tuple[int, int]
    witness_agrees: bool
    oom_step: int | None
    predicted_oom_step: int | None

    @property
    def bytes_agree(self) -> bool:
        return (
            not any(name in self.wrong or name in self.unstable for name in BYTES)
            and self.oom_step == self.predicted_oom_step
        )

    @property
    def is_exact(self) -> bool:
        return self.bytes_agree and not self.wrong and not self.unstable and self.witness_agrees


def compare_counters(
    prediction: Prediction, answers: Sequence[dict[str, Any]], runs: Sequence[Run] | None = None
) -> Counters:
    """Hold the counters of fresh processes against each other and the prediction.

    Args:
        prediction: what was to be.
        answers: the worker's, one of each process.
        runs: for each of them the run that was told the driver's addresses; None = addresses
            decide nothing, and the prediction is the same for all.
    """
    runs = runs or [prediction.run] * len(answers)
    first, run = answers[0], runs[0]
    measured: dict[str, int] = first["stats"]
    mine = [r.stats | pool_counters(r, a["pools"]) for r, a in zip(runs, answers, strict=True)]
    predicted = mine[0]
    common = [name for name in measured if name in predicted]
    unstable = {
        name: values
        for name in measured
        if len(set(values := [a["stats"].get(name, -1) for a in answers])) > 1
        and len({stats.get(name, -1) for stats in mine}) == 1
    }
    wrong = {}
    for answer, told in zip(reversed(answers), reversed(mine), strict=True):
        stats = answer["stats"]
        wrong |= {n: (told[n], stats[n]) for n in common
                  if n in stats and n not in unstable and told.get(n) != stats[n]}  # fmt: skip
    oom = first["oom"]
    stopped = run.n_ops < prediction.program.n_ops
    at_end = measured["reserved_bytes.all.current"]
    at_peak = first["reserved_at_witness"]
    taken = [
        None if first[name] is None else first["free"] - first[name]
        for name in ("free_at_witness", "free_at_end")
    ]
    agree = [
        gone is None or held is None or abs(gone - held) <= max(WITNESS_BYTES, WITNESS_SHARE * held)
        for gone, held in zip(taken, (at_peak, at_end), strict=True)
    ]
    return Counters(
        repeats=len(answers),
        compared=len(common),
        unstable=unstable,
        wrong=wrong,
        missing=[name for name in measured if name not in predicted],
        measured={name: measured[name] for name in common},
        taken=(taken[0], taken[1] or 0),
        reserved=(at_peak or 0, at_end),
        witness_agrees=all(agree),
        oom_step=None if oom is None else oom["step"],
        predicted_oom_step=run.n_ops if stopped else None,
    )

"""V2b: the fewest bytes a process must be allowed for the program to complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...sim.run import Run
from .prediction import STEP, Prediction


@dataclass(frozen=True)
class Budget:
    """The outcome of V2b.

    Attributes:
        predicted, measured: smallest limits in bytes, in steps of 2 MiB; None = none was found.
        tries: limits that were tried -> whether the program completed.
        told: where the release decides by address: limits that were tried -> whether the
            simulation completes that is told the driver's addresses of that very process. Then
            these are held to the tries, and `predicted` is a guess made before anybody knew them.
        wrong: counters at the smallest limit that differ: name -> (predicted, measured); flushes
            and retries are part of them.
    """

    predicted: int | None
    measured: int | None
    tries: dict[int, bool]
    told: dict[int, bool]
    wrong: dict[str, tuple[int, int]]

    @property
    def is_equal(self) -> bool:
        if self.told:
            return self.measured is not None and self.told == self.tries
        return self.predicted is not None and self.predicted == self.measured

    @property
    def is_near(self) -> bool:
        """Within one step of what the allocator asks the driver for at once."""
        if self.predicted is None or self.measured is None:
            return False
        return abs(self.predicted - self.measured) <= 10 * STEP


def next_limits(predicted: int | None, peak: int, tries: dict[int, bool]) -> list[int]:
    """Return the limits to try next; nothing once the smallest that completes is known.

    The prediction and the step below it come first: if it is right, that is all. Otherwise the
    search doubles its distance from there, and bisects between the last two.
    """
    if predicted is None:
        predicted = -(-peak // STEP) * STEP
    if not tries:
        return [predicted, predicted - STEP]
    fits = min((limit for limit, ok in tries.items() if ok), default=None)
    fails = max((limit for limit, ok in tries.items() if not ok), default=0)
    if fits is None:
        distance = max(STEP, fails - predicted) * 2
        return [predicted + distance] if distance < 2 * predicted else []
    if fits - fails <= STEP:
        return []
    if fails == 0:
        distance = max(STEP, predicted - fits) * 2
        return [max(STEP, predicted - distance)] if fits > STEP else []
    return [(fits + fails) // 2 // STEP * STEP]


def compare_budget(
    prediction: Prediction,
    answers: dict[int, dict[str, Any]],
    runs: dict[int, Run] | None = None,
) -> Budget:
    """Hold the tries against the prediction.

    Args:
        prediction: what was to be.
        answers: limit -> the worker's answer.
        runs: limit -> the run that was told that process's addresses; None = addresses decide
            nothing.
    """
    tries = {limit: answer["oom"] is None for limit, answer in sorted(answers.items())}
    told = {limit: runs[limit].n_ops == prediction.program.n_ops for limit in tries} if runs else {}
    predicted = prediction.smallest_limit
    fits = min((limit for limit, ok in tries.items() if ok), default=None)
    known = fits is not None and (not tries.get(fits - STEP, True))
    at = fits if runs else predicted
    wrong: dict[str, tuple[int, int]] = {}
    if at is not None and tries.get(at):
        mine = (runs[at] if runs else prediction.run_within(at)).stats
        real = answers[at]["stats"]
        wrong = {n: (mine[n], real[n]) for n in real if n in mine and mine[n] != real[n]}
    return Budget(predicted, fits if known else None, tries, told, wrong)

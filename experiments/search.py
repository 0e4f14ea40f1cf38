"""The search beyond the finite choices: Optuna proposes lines, replays judge them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..sim.param import Param
from ..sim.release import Release
from ..sim.settings import OFF, Settings
from ..sim.settings_keys import KEYS
from ..traces.units import MiB
from .subject import Subject

if TYPE_CHECKING:
    import optuna

SEED = 20240607
DIVISIONS = (0, 2, 4, 8, 16, 32)


def search(
    subjects: Sequence[Subject],
    rules: Release,
    forbidden: frozenset[str],
    judge: Callable[[Settings], float],
    trials: int,
    first: Sequence[Settings],
    advance: Callable[[], None] = lambda: None,
) -> list[Settings]:
    """Let Optuna propose `trials` lines and return them all, so that the caller chooses.

    What cannot be enumerated: a division for each power of two that the program's sizes reach,
    thresholds in single MiB, and all of them together.

    Args:
        subjects: what to tune for.
        rules: the release; only keys it knows are proposed.
        forbidden: keys not to use.
        judge: lower is better.
        trials: how many lines to propose.
        first: good lines to start from.
        advance: called after each.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = _Space(subjects, rules, forbidden)
    sampler = optuna.samplers.TPESampler(
        seed=SEED, multivariate=True, n_startup_trials=min(16, max(1, trials // 3))
    )
    study = optuna.create_study(sampler=sampler)
    for settings in first:
        study.enqueue_trial(space.point(settings), skip_if_exists=True)
    proposed = []
    for _ in range(trials):
        trial = study.ask()
        settings = space.propose(trial)
        proposed.append(settings)
        study.tell(trial, judge(settings))
        advance()
    return proposed


def search_params(
    params: Sequence[Param], judge: Callable[[dict[str, int]], float], trials: int
) -> None:
    """Let Optuna propose values of declared parameters, beginning at their defaults.

    Args:
        params: what may vary, each within its range.
        judge: lower is better; the caller keeps what it has seen.
        trials: how many values to propose.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(
        seed=SEED, multivariate=True, n_startup_trials=min(16, max(1, trials // 3))
    )
    study = optuna.create_study(sampler=sampler)

    def inside(value: int, p: Param) -> int:
        return value.bit_length() - 1 if p.log else value

    study.enqueue_trial({p.name: inside(p.default, p) for p in params})
    for _ in range(trials):
        trial = study.ask()
        values = {}
        for p in params:
            x = trial.suggest_int(p.name, inside(p.low, p), inside(p.high, p), step=_step(p))
            values[p.name] = 1 << x if p.log else x
        study.tell(trial, judge(values))


def _step(p: Param) -> int:
    """Sizes vary by what their range is declared in, up to the 2 MiB that the driver gives out."""
    is_size = p.unit == "bytes" and not p.log
    return math.gcd(p.low, p.high, p.default, 2 * MiB) if is_size else 1


class _Space:
    """The parameters that can matter for these subjects, and how they make a line."""

    def __init__(
        self, subjects: Sequence[Subject], rules: Release, forbidden: frozenset[str]
    ) -> None:
        has = {k.name for k in KEYS if k.known_to(rules)} - forbidden
        sizes = np.concatenate([s.program.req_size for s in subjects])
        self.rules = rules
        self.expandable = "expandable_segments" in has
        self.large = "large_segment_size_mb" in has
        self.split = "max_split_size_mb" in has
        self.rounding = "max_non_split_rounding_mb" in has
        self.octaves: list[int] = []
        if "roundup_power2_divisions" in has and len(sizes):
            log2 = np.floor(np.log2(np.maximum(1, sizes))).astype(int)
            self.octaves = sorted({int(k) for k in np.clip(log2 - 20, 0, 15)})
        self.least_split = 21 if rules.version < (2, 10) else 20
        self.most_split = max(64, int(sizes.max(initial=0)) // MiB + 2)

    def propose(self, trial: optuna.Trial) -> Settings:
        """Make a line out of a trial's suggestions."""
        # Even values only: an expandable page must be a multiple of the driver's 2 MiB.
        large = 2 * trial.suggest_int("half_large_mb", 6, 128, log=True) if self.large else 20
        split = OFF
        if self.split and trial.suggest_categorical("splits_large", [True, False]) is False:
            mb = trial.suggest_int("max_split_mb", self.least_split, self.most_split, log=True)
            split = max(mb, large) * MiB
        rounding = large if self.rules.version >= (2, 10) else 20
        if self.rounding and split != OFF:
            rounding = max(rounding, trial.suggest_int("rounding_mb", 21, 2048, log=True))
        table = [0] * 16
        for k in self.octaves:
            table[k] = trial.suggest_categorical(f"divisions_{k}", DIVISIONS)
        return Settings(
            large_segment_size=large * MiB,
            max_split_size=split,
            max_non_split_rounding=rounding * MiB,
            roundup_divisions=_filled(table, self.octaves),
            expandable_segments=self.expandable
            and trial.suggest_categorical("expandable", [True, False]),
        )

    def point(self, settings: Settings) -> dict[str, int | bool]:
        """The suggestions that would make a line; what the space lacks is left out."""
        out: dict[str, int | bool] = {"splits_large": settings.max_split_size == OFF}
        out["expandable"] = settings.expandable_segments
        out["half_large_mb"] = settings.large_segment_size // (2 * MiB)
        if settings.max_split_size != OFF:
            out["max_split_mb"] = min(self.most_split, settings.max_split_size // MiB)
            out["rounding_mb"] = max(21, settings.max_non_split_rounding // MiB)
        for k in self.octaves:
            value = settings.roundup_divisions[k]
            out[f"divisions_{k}"] = value if value in DIVISIONS else 0
        return out


def _filled(table: list[int], octaves: list[int]) -> tuple[int, ...]:
    """Give the entries no request reaches the value of the next lower one: a shorter line."""
    out = list(table)
    value = table[octaves[0]] if octaves else 0
    for k in range(16):
        if k in octaves:
            value = table[k]
        out[k] = value
    return tuple(out)

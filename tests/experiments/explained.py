"""The explanation that `tightfit explain` would print, as it is."""

from __future__ import annotations

from pathlib import Path

from tightfit.experiments.explain.asked import ask, choose
from tightfit.experiments.explain.explanation import Explanation
from tightfit.experiments.release_fit import find_release
from tightfit.experiments.subject import load_subjects
from tightfit.sim.device import Device


def explained(
    path: Path, *, conf: str | None = None, capacity: int | None = None, at: int | None = None
) -> Explanation:
    subjects = load_subjects(path)
    rules = find_release(subjects, None).rules
    return ask(choose(subjects, conf, rules, Device(capacity), at), conf, rules, at)[0]

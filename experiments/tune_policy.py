"""Tuning a policy: the values of its declared parameters that suit some recordings best."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from ..policies.contender import BASELINE, contender
from ..policies.live_bytes import peak_live_bytes
from ..policies.named import find_policy
from ..policies.playing import AnyPolicy, play_policy
from ..sim.costs import Cost, driver_seconds
from ..sim.device import Device
from ..sim.packing import Packed
from ..sim.release import Release
from ..sim.run import Run
from ..traces.errors import ConfigError
from ..traces.recording import Finding
from ..traces.units import format_bytes
from .comparison import notes_on_recordings
from .search import search_params
from .smallest import bisect_smallest, find_smallest, ran, with_smallest
from .subject import Subject

Play = Callable[[Packed, Device], Run]

WORTH = 0.01  # share of the default's peak that a difference must reach to be worth a word


@dataclass(frozen=True)
class Tried:
    """A policy with some values, worst case over the recordings; simulated.

    Attributes:
        policy: as a user writes it.
        values: its parameters.
        peak_reserved_bytes: greatest over the recordings; None if one runs out of memory.
        above_bound: greatest share by which that exceeds what is live at once; None likewise.
        min_capacity_bytes: smallest device that all recordings run on; None = not asked.
        min_capacity_proven: no smaller one is large enough; every size was tried.
        sure_capacity_bytes: from here on all sizes that were tried are large enough.
        failures: recordings that run out of memory.
        excess: what ranks: that share, with memory without end where one runs out; or that of the
            smallest device, if that was asked for.
        driver_calls, driver_seconds: sums over the recordings.
    """

    policy: str
    values: dict[str, int]
    peak_reserved_bytes: int | None
    above_bound: float | None
    min_capacity_bytes: int | None
    failures: int
    excess: float
    driver_calls: int
    driver_seconds: float
    min_capacity_proven: bool = False
    sure_capacity_bytes: int | None = None

    @property
    def rank(self) -> tuple[int, float, float]:
        """Better is smaller: it runs on more, it wastes less, it asks the driver for less."""
        return self.failures, self.excess, self.driver_seconds

    @property
    def needed(self) -> int | None:
        """What counts: the smallest device if that was asked for, else the peak."""
        least = self.min_capacity_bytes
        return self.peak_reserved_bytes if least is None else least


@dataclass(frozen=True)
class PolicyAnswer:
    """What was found.

    Attributes:
        default, best: the policy with its defaults, and with the best values tried.
        baseline: PyTorch's own allocator.
        bound_bytes: greatest number of bytes live at once.
        tried: different values tried.
        traces: the recordings.
        findings: what was noticed in them, and what they have that the policy does not honour.
        interrupted: Ctrl-C ended the search; the best is that of the values tried until then.
    """

    default: Tried
    best: Tried
    baseline: Tried
    bound_bytes: int
    tried: int
    traces: tuple[str, ...]
    findings: list[Finding]
    torch: str
    capacity_bytes: int | None
    interrupted: bool

    @property
    def fits(self) -> bool:
        """The best values run on the device asked about."""
        return self.best.peak_reserved_bytes is not None

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        best, default = self.best.needed, self.default.needed
        name = self.default.policy
        if best is None or self.best.failures:
            room = format_bytes(self.capacity_bytes or 0)
            return f"{name} DOES NOT FIT on {room} with any values tried (simulated)"
        if default is None or self.default.failures:
            return f"{self.best.policy} FITS; {name} with its defaults does not (simulated)"
        if default - best <= WORTH * default:
            what = "peak" if self.best.min_capacity_bytes is None else "smallest GPU"
            few = f"none tried saves {WORTH:.0%} of its defaults' {what}"
            return f"{name}: NO VALUES HELP: {few} (simulated)"
        if self.best.min_capacity_bytes is not None:
            return (
                f"{self.best.policy} runs on {format_bytes(best)}, {format_bytes(default - best)} "
                f"or {1 - best / default:.1%} less than its defaults (simulated)"
            )
        return (
            f"{self.best.policy} saves {format_bytes(default - best)}, "
            f"{1 - best / default:.1%}, against its defaults (simulated)"
        )

    def document(self) -> dict[str, Any]:
        """The answer as `--json` prints it."""
        return {
            "simulated": True, "verdict": self.verdict, "torch": self.torch,
            "capacity_bytes": self.capacity_bytes, "default": self.default, "best": self.best,
            "baseline": self.baseline, "bound_bytes": self.bound_bytes, "tried": self.tried,
            "interrupted": self.interrupted,
            "traces": self.traces, "findings": self.findings,
        }  # fmt: skip


def tune_policy(
    subjects: Sequence[Subject],
    name: str,
    gpu: Device,
    rules: Release,
    trials: int,
    advance: Callable[[], None] = lambda: None,
    costs: dict[str, Cost] | None = None,
    smallest: bool = False,
) -> PolicyAnswer:
    """Search the declared parameters of a policy.

    Args:
        subjects: the recordings; the worst of them counts.
        name: a name of the catalogue, or `path.py:Name`.
        gpu: the device; values that run out of memory there come last.
        rules: the release whose allocator hooks change.
        trials: values that Optuna proposes.
        advance: called after each.
        costs: what the driver's calls take; None = the shipped table.
        smallest: seek values that run on the smallest device, not those that reserve least.

    Raises:
        PolicyError: there is no such policy, or it is PyTorch's own or a preset.
        ConfigError: it has nothing to tune.
    """
    label, policy = find_policy(name)
    if not policy.params:
        raise ConfigError(f"--policy: {label} declares no parameters, so there is nothing to tune")
    packed = [s.anew if s.is_warm else s.kept for s in subjects]
    bounds = [peak_live_bytes(p) for p in packed]
    seen: dict[tuple[int, ...], Tried] = {}

    def on(total: int) -> Device:
        return replace(gpu, capacity_bytes=total)

    def tried(written: str, values: dict[str, int], play: Play) -> Tried:
        runs = [play(p, gpu) for p in packed]
        free = [r if ran(r) else play(p, Device()) for p, r in zip(packed, runs, strict=True)]
        least = None
        if smallest:
            least = [
                bisect_smallest(
                    lambda total, p=p: ran(play(p, on(total))),
                    [run if gpu.capacity_bytes is None else play(p, Device())],
                    gpu.other_bytes,
                )
                for p, run in zip(packed, free, strict=True)
            ]
        return _tried(written, values, runs, free, least, gpu, bounds, costs)

    def smaller(t: Tried, play: Play) -> Tried:
        """What is shown has tried the sizes below the bisected one, too."""
        if t.min_capacity_bytes is None:
            return t
        programs = [lambda total, p=p: play(p, on(total)) for p in packed]
        found = find_smallest(programs, [play(p, Device()) for p in packed], gpu.other_bytes)
        return t if found is None else with_smallest(t, found)

    def playing(values: Mapping[str, int]) -> Play:
        return lambda p, device: play_policy(p, policy, values, device, rules)

    def judge(values: Mapping[str, int]) -> float:
        key = tuple(values[p.name] for p in policy.params)
        if key not in seen:
            seen[key] = tried(_written(label, policy, values), dict(values), playing(values))
        advance()
        failures, excess, _ = seen[key].rank
        return 1e3 * failures + excess

    judge(policy.defaults)
    interrupted = False
    try:
        search_params(policy.params, judge, trials)
    except KeyboardInterrupt:
        interrupted = True
    base = contender(BASELINE, rules)
    default = seen[tuple(policy.defaults.values())]
    best = min(seen.values(), key=lambda t: t.rank)
    return PolicyAnswer(
        default=smaller(default, playing(default.values)),
        best=smaller(best, playing(best.values)),
        baseline=smaller(tried(BASELINE, {}, base.replay), base.replay),
        bound_bytes=max(bounds, default=0),
        tried=len(seen),
        traces=tuple(PurePath(s.name).name for s in subjects),
        findings=[
            *notes_on_recordings(subjects, rules, gpu),
            *_not_honoured(subjects, label, gpu, rules),
        ],
        torch=rules.name,
        capacity_bytes=gpu.capacity_bytes,
        interrupted=interrupted,
    )


def _not_honoured(
    subjects: Sequence[Subject], label: str, gpu: Device, rules: Release
) -> list[Finding]:
    """What programs have that a policy does not honour, and would need more for if it did."""
    policy = contender(label, rules)
    words = [text for s in subjects for text in policy.ignores(s.program, gpu)]
    return [Finding("not_honoured", words.count(text), text) for text in dict.fromkeys(words)]


def _written(label: str, policy: AnyPolicy, values: Mapping[str, int]) -> str:
    """The policy with its values as a user writes them; defaults are left out."""
    changed = [
        f"{p.name}={p.written(values[p.name])}"
        for p in policy.params
        if values[p.name] != policy.defaults[p.name]
    ]
    return ":".join([label, ",".join(changed)]) if changed else label


def _excess(needed: Sequence[float], bounds: Sequence[int]) -> float:
    """The greatest share by which what is needed exceeds what is live at once."""
    return max((n / b - 1 if b else 0.0 for n, b in zip(needed, bounds, strict=True)), default=0.0)


def _tried(
    written: str,
    values: dict[str, int],
    runs: Sequence[Run],
    free: Sequence[Run],
    least: Sequence[int | None] | None,
    gpu: Device,
    bounds: Sequence[int],
    costs: dict[str, Cost] | None,
) -> Tried:
    failures = sum(not ran(r) for r in runs)
    peaks = [r.stats["reserved_bytes.all.peak"] for r in free]
    above = _excess(peaks, bounds)
    own = [math.inf if n is None else n - gpu.other_bytes for n in least or ()]
    return Tried(
        written,
        values,
        None if failures else max(peaks, default=0),
        None if failures else above,
        None if least is None or None in least else max(n for n in least if n is not None),
        failures,
        above if least is None else _excess(own, bounds),
        sum(r.stats["num_device_alloc"] + r.stats["num_device_free"] for r in runs),
        sum(driver_seconds(r.work, costs) for r in runs),
    )

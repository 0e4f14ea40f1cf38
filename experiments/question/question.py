"""What an experiment file asks: recordings, policies, devices, and which table answers it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...policies.catalogue import NATIVE, POLICIES, PRESETS
from ...policies.contender import BASELINE
from ...traces.errors import ConfigError, did_you_mean
from ...traces.requests import FITTED
from ...traces.serving import MOST_EVENTS, WORKLOADS
from ...traces.synthetic import PATTERNS
from ..row_columns import COLUMNS
from .section import Section, Wrong, count, is_huge, memory, read_toml, words

UNLIMITED = "unlimited"
TUNE = ("each", "all", "others")
TUNE_FOR = ("peak_reserved", "smallest_gpu")
MADE = (*WORKLOADS, *PATTERNS)
# Keys of the file, of a [[trace]] of either kind, and of a [[policy]] beside its parameters.
TOP = (
    "question", "torch", "seed", "packing_seconds", "driver_costs", "device", "table", "trace",
    "policy",
)  # fmt: skip
OF_TRACE = ("file", "device", "sha256", "workload", "events", "seeds", "lengths", "program")
OF_POLICY = ("name", "label", "baseline", "tune", "tune_for", "trials", "conf", "without")
USUAL = ("peak_reserved", "saved", "above_bound", "smallest_gpu", "driver_calls", "driver_time")


@dataclass(frozen=True)
class TraceAsked:
    """Recordings that one [[trace]] names.

    Attributes:
        where: the table, for messages.
        file: a path relative to the experiment file, or a pattern of several; "" for synthetic.
        device: which device of them; None = all.
        sha256: what the file must hash to; "" = anything.
        workload, events, seeds, lengths: a synthetic one, once for each seed.
        program: variants of one program share it; "" = the file's, or the workload's, own.
    """

    where: str
    file: str
    device: int | None
    sha256: str
    workload: str
    events: int
    seeds: tuple[int, ...]
    lengths: str
    program: str


@dataclass(frozen=True)
class PolicyAsked:
    """Policies that one [[policy]] names: one for each combination of its values.

    Attributes:
        where: the table, for messages.
        name: of the catalogue, or `path.py:Name`, relative to the experiment file.
        label: what tables call it; "" = as it is written.
        is_baseline: the others are measured against it.
        lines: settings lines, for "pytorch".
        params: values of its parameters as texts, by name.
        tune: "" or what its parameters, or PyTorch's settings, are tuned on: "each" recording for
            itself, "all" of them together, or for each all the "others".
        tune_for: the column that it is tuned for, one of TUNE_FOR.
        trials: values that Optuna proposes.
        without: keys that a tuned settings line must not use.
    """

    where: str
    name: str
    label: str
    is_baseline: bool
    lines: tuple[str, ...]
    params: dict[str, tuple[str, ...]]
    tune: str
    tune_for: str
    trials: int
    without: tuple[str, ...]


@dataclass(frozen=True)
class Question:
    """An experiment file as it was read, defaults filled in.

    Attributes:
        path: the file; what it names is relative to its folder.
        question: what is asked, in words.
        torch: the release whose rules hold; "" = for each recording what fits it best.
        seed: of the resampling behind intervals.
        capacities: memory of the simulated devices; None = never runs out.
        other_bytes: memory that others use there.
        traces, policies: what is compared.
        packing_seconds: time to search an offline packing of each recording; 0 = none.
        driver_costs: file of what the driver's calls take; "" = the shipped one.
        columns: of the tables (row_columns.py).
        sort_by: the column by which each recording's policies are sorted.
    """

    path: Path
    question: str
    torch: str
    seed: int
    capacities: tuple[int | None, ...]
    other_bytes: int
    traces: tuple[TraceAsked, ...]
    policies: tuple[PolicyAsked, ...]
    packing_seconds: float
    driver_costs: str
    columns: tuple[str, ...]
    sort_by: str


def read_question(path: Path) -> Question:
    """Read an experiment file.

    Raises:
        ConfigError: it cannot be read, or something in it is not acceptable.
    """
    top = read_toml(path)
    top.only(*TOP)
    question = top.text("question")
    torch = top.text("torch", "")
    seed = top.whole("seed", 0)
    packing = top.number("packing_seconds", 2.0)
    costs = top.text("driver_costs", "")
    device, table = top.table("device"), top.table("table")
    device.only("capacity", "other")
    table.only("columns", "sort_by")
    traces = tuple(map(_trace, top.tables("trace")))
    policies = tuple(map(_policy, top.tables("policy")))
    capacities = device.several("capacity", _capacity, (None,))
    other = device.one("other", memory, 0)
    if other and capacities == (None,):
        raise ConfigError(f"{device.where}: other: it matters only with a capacity; give both")
    for capacity in capacities:
        if capacity is not None and other >= capacity:
            raise device.fault("other", device.given["other"], "less than the capacity")
    columns = table.several("columns", _column, USUAL)
    sort_by = table.one_of("sort_by", columns, columns[0])
    if not traces:
        raise ConfigError(f"{path.name}: no [[trace]]; expected at least one recording")
    if not policies:
        raise ConfigError(f"{path.name}: no [[policy]]; expected at least one policy")
    return Question(
        path, question, torch, seed, capacities, other, traces, policies, packing, costs,
        columns, sort_by,
    )  # fmt: skip


def _capacity(value: Any) -> int | None:
    if value == UNLIMITED:
        return None
    try:
        return memory(value)
    except Wrong as wrong:
        raise Wrong(f'{wrong.expected}, or "{UNLIMITED}"') from None


def _column(value: Any) -> str:
    if not isinstance(value, str) or value not in COLUMNS:
        near = did_you_mean(value, COLUMNS) if isinstance(value, str) else ""
        raise Wrong(f"one of {', '.join(COLUMNS)}{near}")
    return value


def _trace(section: Section) -> TraceAsked:
    section.only(*OF_TRACE)
    synthetic = section.has("workload")
    if synthetic == section.has("file"):
        raise ConfigError(
            f"{section.where}: expected either file, a recording, or workload, a synthetic one"
        )
    device = None
    file = sha256 = workload = lengths = ""
    events, seeds = 0, (0,)
    if synthetic:
        workload = section.one_of("workload", MADE, "")
        events = section.whole("events", 100_000, 1000, MOST_EVENTS)
        seeds = section.several("seeds", count, (0,))
        if workload in WORKLOADS:
            lengths = section.one_of("lengths", tuple(FITTED), next(iter(FITTED)))
    else:
        file = section.text("file")
        device = section.whole("device", 0) if "device" in section.given else None
        section.has("device")
        sha256 = section.text("sha256", "").lower()
    program = section.text("program", "")
    section.done()
    return TraceAsked(
        section.where, file, device, sha256, workload, events, seeds, lengths, program
    )


def _policy(section: Section) -> PolicyAsked:
    declared = _declared(section.given.get("name", BASELINE))
    if declared is not None:
        section.only(*OF_POLICY, *declared)
    name = section.text("name")
    label = section.text("label", "")
    is_baseline = section.flag("baseline")
    tune = section.one_of("tune", TUNE, "")
    tune_for = section.one_of("tune_for", TUNE_FOR, TUNE_FOR[0])
    trials = section.whole("trials", 64, 0, 1_000_000)
    without: tuple[str, ...] = ()
    lines: tuple[str, ...] = ("",)
    params: dict[str, tuple[str, ...]] = {}
    if tune and is_baseline:
        raise ConfigError(f"{section.where}: tune: what is tuned cannot be the baseline")
    for key in ("trials", "tune_for"):
        if not tune and key in section.given:
            raise ConfigError(f'{section.where}: {key}: it matters only with tune, e.g. "each"')
    if name == BASELINE:
        if tune:
            without = section.several("without", words, ())
        else:
            lines = section.several("conf", words, ("",))
        section.done()
    elif not tune:
        # Whatever else stands there is a parameter; the policy knows which it has.
        own = [key for key in section.given if key not in section.asked]
        params = {key: section.several(key, _param, ()) for key in own}
    else:
        section.done()
    where = f"{section.where}, {name}"
    return PolicyAsked(
        where, name, label, is_baseline, lines, params, tune, tune_for, trials, without
    )


def _declared(name: object) -> list[str] | None:
    """Parameters of a policy of the catalogue; None = only its own file says, if there is one."""
    if not isinstance(name, str):
        return None
    if name in NATIVE:
        return []
    policy = POLICIES.get(PRESETS.get(name, (name, ""))[0])
    return None if policy is None else [p.name for p in policy.params]


def _param(value: Any) -> str:
    is_one = isinstance(value, int | str) and not isinstance(value, bool) and not is_huge(value)
    if not is_one or "," in str(value):
        raise Wrong('a whole number or a size such as "2MiB"')
    return str(value).strip()

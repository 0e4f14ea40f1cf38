"""V3: the user's own program under several lines: bytes against the prediction, and time."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...policies.native import replay_native
from ...sim.device import Device
from ...sim.release import Release, release
from ...sim.settings_line import parse_settings
from ...traces.errors import PolicyError, VerificationError
from ...traces.provenance import origin_of, put_origin
from ...traces.snapshot import read_snapshot
from ...traces.store import save
from ...traces.units import MiB
from ...traces.whole_file import replacing
from ..subject import Subject, load_subjects
from .lines import sha256_of
from .machine import Machine, run_whole
from .pieces import Clock, Pieces

HOOK = Path(__file__).with_name("workload_hook.py")
RUNS = 5  # measured runs of each of the four lines, after one that is discarded
SEED = 20261125  # of the bootstrap
RESAMPLES = 2000
BYTES_SHARE, BYTES_LEAST = 0.01, 20 * MiB  # how far a peak may be from its prediction
SAVING_KEPT = 0.8  # share of the promised saving that must be there
SLOWER = 1.01  # upper end of the interval of the step-time ratio
TAU = 0.9
# Lines that differ in kind: from them come winner, runner-up and the worst, and the rank test.
LADDER = (
    "expandable_segments:True", "large_segment_size_mb:12", "large_segment_size_mb:64",
    "large_segment_size_mb:256", "max_split_size_mb:32", "max_split_size_mb:128",
    "max_split_size_mb:512", "roundup_power2_divisions:1", "roundup_power2_divisions:2",
    "roundup_power2_divisions:8", "expandable_segments:True,roundup_power2_divisions:4",
    "max_split_size_mb:64,roundup_power2_divisions:2",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """One line.

    Attributes:
        conf, role: the line, and "default", "winner", "runner-up", "worst" or "ladder".
        predicted: peak reserved bytes; simulated.
        peaks: those of each run.
        step_ns: median step time of each measured run.
        retries: calls that had to give cached memory back, over all runs.
        failed: why a run of it failed; that answer is kept, and the line is not run again.
        ratio, low, high: step time against the default's, and its 95 % bootstrap interval.
        sm_mhz: clock of the multiprocessors at the end of each run; 0 = not told.
    """

    conf: str
    role: str
    predicted: int
    peaks: list[int]
    step_ns: list[float]
    retries: int
    failed: list[str]
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    sm_mhz: list[int] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """Median over the runs; 0 where none ended well."""
        return int(np.median(self.peaks)) if self.peaks else 0

    @property
    def bytes_agree(self) -> bool:
        return abs(self.peak - self.predicted) <= max(BYTES_SHARE * self.predicted, BYTES_LEAST)


@dataclass(frozen=True)
class WorkloadResult:
    """The outcome of V3.

    Attributes:
        lines: default, winner, runner-up, worst, and the rest of the ladder.
        tau: Kendall's over all lines; None with fewer than three different predictions.
        seed: of the bootstrap.
        stand_in: the stand-in's profile; "" on a real GPU.
        finished: every run that was planned is done or has failed.
        facts: what device and PyTorch said of themselves, and the recording's sha256.
        date: when this was worked out.
    """

    lines: list[Measured]
    tau: float | None
    seed: int
    stand_in: str
    finished: bool
    facts: dict[str, Any] = field(default_factory=dict)
    date: str = ""

    @property
    def verdict(self) -> str:
        """One of the three words, or "unfinished"."""
        if not self.finished:
            return "unfinished"
        if len(self.lines) < 2 or any(x.failed for x in self.lines):
            return "not confirmed"
        default, winner = self.lines[0], self.lines[1]
        promised = default.predicted - winner.predicted
        kept = default.peak - winner.peak >= SAVING_KEPT * promised - BYTES_LEAST
        if not kept or not all(x.bytes_agree for x in self.lines if x.role != "ladder"):
            return "not confirmed"
        quick = winner.high is not None and winner.high <= SLOWER
        ranked = self.tau is None or self.tau >= TAU
        # Kernels of a stand-in do nothing, so that its times decide nothing.
        return "confirmed" if ranked and (quick or self.stand_in) else "bytes only"


def abba(names: Sequence[str], runs: int) -> list[str]:
    """Return names in the order A B C C B A A B C ..., each `runs` times."""
    out: list[str] = []
    for k in range(runs):
        out += names if k % 2 == 0 else list(reversed(names))
    return out


def step_time(answer: dict[str, Any]) -> float:
    """Median nanoseconds of a step; the first two of more than four are not counted."""
    steps = answer["steps"]
    if len(steps) < 3:
        return float(answer["ended"] - answer["begun"])
    return float(np.median(np.diff(steps)[2 if len(steps) > 4 else 0 :]))


def ratio_interval(
    ours: Sequence[float], theirs: Sequence[float], seed: int = SEED
) -> tuple[float, float | None, float | None]:
    """Return the ratio of median step times and its 95 % bootstrap interval, if it has one."""
    from scipy.stats import bootstrap

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    a, b = np.asarray(ours, float), np.asarray(theirs, float)
    middle = float(ratio(a, b))
    if len(a) < 2 or len(b) < 2:
        return middle, None, None
    found = bootstrap(
        (a, b), ratio, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return middle, float(found.low), float(found.high)


def choose(predicted: dict[str, int]) -> dict[str, str]:
    """Return line -> role: the default, the two best that differ from it, the worst, the rest."""
    ranked = sorted((peak, len(conf), conf) for conf, peak in predicted.items() if conf)
    roles = {"": "default", ranked[0][2]: "winner", ranked[-1][2]: "worst"}
    different = [conf for peak, _, conf in ranked if peak != ranked[0][0] and conf not in roles]
    if different:
        roles[different[0]] = "runner-up"
    order = ("default", "winner", "runner-up", "worst")
    named = dict(sorted(roles.items(), key=lambda item: order.index(item[1])))
    return named | {conf: "ladder" for conf in predicted if conf not in named}


def run_workload(
    command: Sequence[str],
    machine: Machine,
    folder: Path,
    clock: Clock | None = None,
    runs: int = RUNS,
    tell: Callable[[str], None] = lambda _: None,
) -> WorkloadResult:
    """Carry V3 out; what is finished is not done again.

    The discarded first run, under the default, is recorded, and what it asked for is the program
    that all lines are predicted for.

    Raises:
        VerificationError: the program does not run, or never uses CUDA.
    """
    clock = clock or Clock(None)
    # The script's text too: what an earlier text of it did says nothing of this one.
    text = origin_of("", "", command).script_sha256
    pieces = Pieces(folder, machine.stand_in, repr(tuple(command)), text)
    first = _run(command, machine, pieces, "", "record", clock)
    if first is not None and "error" in first:
        pieces.path("", "record").unlink()
        raise VerificationError(f"verify: the program failed under the default: {first['error']}")
    if first is None:
        return WorkloadResult([], None, SEED, machine.stand_in, False)
    recorded = pieces.path("", "record", ".npz")
    if not recorded.is_file():
        _keep(pieces.path("", "record", ".pickle"), recorded, first, command, machine)
    (subject,) = load_subjects(recorded)
    predicted = predict(subject, release(first["torch"]), first["total"])
    roles = choose(predicted)
    named = [conf for conf, role in roles.items() if role != "ladder"]
    wanted: list[tuple[str, int]] = [(conf, 0) for conf in named]
    counts = dict.fromkeys(named, 0)
    for conf in abba(named, runs):
        counts[conf] += 1
        wanted.append((conf, counts[conf]))
    wanted += [(conf, 1) for conf, role in roles.items() if role == "ladder"]
    answers: dict[str, list[dict[str, Any]]] = {conf: [] for conf in roles}
    failed: dict[str, list[str]] = {conf: [] for conf in roles}
    finished = True
    for conf, number in wanted:
        tell(f"run {number} under {conf or '(default)'}")
        if failed[conf]:
            continue  # it would only fail again, and its verdict is known
        answer = _run(command, machine, pieces, conf, f"run{number}", clock)
        finished &= answer is not None
        if answer is not None and "error" in answer:
            failed[conf].append(answer["error"])
        elif answer is not None and number:
            answers[conf].append(answer)
    lines = [
        Measured(
            conf, role, predicted[conf],
            [a["stats"]["reserved_bytes.all.peak"] for a in answers[conf]],
            [step_time(a) for a in answers[conf]],
            sum(a["stats"]["num_alloc_retries"] for a in answers[conf]),
            failed[conf],
            sm_mhz=[a.get("sm_mhz", 0) for a in answers[conf]],
        )
        for conf, role in roles.items() if answers[conf] or failed[conf]
    ]  # fmt: skip
    facts = {key: first.get(key, "") for key in ("gpu", "total", "torch", "cuda", "driver")}
    facts["recording_sha256"] = sha256_of(recorded)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return replace(judge(lines, machine.stand_in, finished), facts=facts, date=date)


def judge(lines: list[Measured], stand_in: str, finished: bool) -> WorkloadResult:
    """Work the intervals and the rank correlation out."""
    from scipy.stats import kendalltau

    base = next((x.step_ns for x in lines if x.role == "default"), [])
    done = [
        replace(x, **dict(zip(("ratio", "low", "high"), ratio_interval(x.step_ns, base),
                              strict=True)))
        if base and x.step_ns else x
        for x in lines
    ]  # fmt: skip
    tau = None
    known = [x for x in done if x.peaks]
    if len({x.predicted for x in known}) > 2:
        result: Any = kendalltau([x.predicted for x in known], [x.peak for x in known])
        tau = float(result.statistic)
    return WorkloadResult(done, tau, SEED, stand_in, finished)


def predict(subject: Subject, rules: Release, total: int) -> dict[str, int]:
    """Peak reserved bytes of the default and each line of the ladder that the release accepts."""
    predicted = {}
    for conf in ("", *LADDER):
        try:
            settings = parse_settings(conf, rules)
        except PolicyError:
            continue
        run = replay_native(subject.anew, settings, rules, Device(total))
        predicted[conf] = run.stats["reserved_bytes.all.peak"]
    return predicted


def _run(
    command: Sequence[str], machine: Machine, pieces: Pieces, conf: str, piece: str, clock: Clock
) -> dict[str, Any] | None:
    """Run the program once; None = the time is up."""
    answer = pieces.get(conf, piece)
    kind = f"run of {command[-1]}"
    if answer is not None or not clock.fits(kind):
        return answer
    with tempfile.TemporaryDirectory(prefix="tightfit-workload-") as scratch:
        shutil.copyfile(HOOK, Path(scratch) / "sitecustomize.py")
        own = machine.environment(conf)
        own["PYTHONPATH"] = os.pathsep.join(filter(None, [scratch, own.get("PYTHONPATH", "")]))
        own["TIGHTFIT_WORKLOAD"] = str(pieces.path(conf, piece).resolve())
        if piece == "record":
            own["TIGHTFIT_WORKLOAD_SNAPSHOT"] = str(pieces.path(conf, piece, ".pickle").resolve())
        if machine.libraries:
            own["TIGHTFIT_WORKLOAD_LIBRARIES"] = str(machine.libraries)
        try:
            with clock.timing(kind):
                status, errors = run_whole(command, own, clock.left)
        except subprocess.TimeoutExpired:
            return None
    answer = pieces.get(conf, piece)
    # A signal after the answer came while the interpreter was torn down: seen with threads of
    # PyTorch's on the stand-in. What the program did was whole by then.
    if answer is None or status > 0:
        said = (errors.strip().splitlines() or ["it never used CUDA"])[-1]
        answer = {"error": f"status {status}: {said[:300]}"}
        with replacing(pieces.path(conf, piece)) as out:
            out.write(json.dumps(answer).encode())
    return answer


def _keep(
    dumped: Path, target: Path, answer: dict[str, Any], command: Sequence[str], machine: Machine
) -> None:
    """Keep the recording in our own format."""
    recording = read_snapshot(dumped.read_bytes(), target.name)
    gpu = {"name": answer["gpu"], "total_bytes": answer["total"], "stats": answer["stats"]}
    told = {"torch": answer["torch"], "cuda": answer["cuda"], "conf": "", "devices": {"0": gpu},
            "reason": "exit"}  # fmt: skip
    mode = "stand-in" if machine.stand_in else "gpu"
    put_origin(recording, origin_of(mode, machine.stand_in, command), told)
    save(recording, target)
    dumped.unlink()

"""Put a trace's predictions to a device, stage by stage; what is finished is not done again."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...sim.device import Device
from ...sim.release import release
from ...traces.errors import ConfigError, PolicyError, VerificationError
from ...traces.load import load
from ...traces.program import Program
from ...traces.provenance import origin_of, put_origin
from ...traces.recording import Recording
from ...traces.snapshot import read_snapshot
from ...traces.store import save
from ..release_fit import find_release
from ..subject import load_subjects
from .budget import compare_budget, next_limits
from .counters import compare_counters
from .lines import Line, sha256_of
from .machine import Machine
from .pieces import Clock, Pieces
from .placement import compare_placement, told_run
from .prediction import Prediction
from .replayable import replayable, write_steps
from .sheet import Sheet
from .verdict import LineResult

REPEATS = 3


class NoDevice(VerificationError):
    """Nobody answered: there is no GPU, or no PyTorch that can use it."""


def check_trace(
    trace: Path,
    lines: Sequence[Line],
    machine: Machine,
    folder: Path,
    clock: Clock | None = None,
    device: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
    faults: dict[str, dict[str, str]] | None = None,
) -> Sheet:
    """Carry out V0, V1, V2 and V2b for each line.

    Args:
        trace: the recording.
        lines: the lines.
        machine: where the real allocator runs.
        folder: for the pieces; a second call goes on from what is there.
        clock: start nothing that does not fit; None = there is time.
        device: which device of the recording.
        tell: is told what is being done.
        faults: piece -> variables of its process alone; tests break the stand-in by them.

    Raises:
        TraceError, ConfigError: the recording cannot be used.
        NoDevice: there is none, or nothing runs on it.
    """
    clock = clock or Clock(None)
    subjects = load_subjects(trace, device)
    if len(subjects) > 1:
        found = ", ".join(str(s.device) for s in subjects)
        raise ConfigError(f"{trace.name}: has devices {found}; choose one with --device")
    find_release(subjects, None)  # it settles when blocks went that vanished without a free
    wanted = replayable(subjects[0].program)
    digest = sha256_of(trace)
    facts = probe(machine, Pieces(folder, machine.stand_in), clock)
    pieces = Pieces(folder, digest, machine.stand_in, facts["torch"], facts["gpu"])
    results: list[LineResult] = []
    with TemporaryDirectory(prefix="tightfit-verify-") as scratch:
        steps = Path(scratch) / "steps.npz"
        write_steps(wanted.program, steps)
        for line in lines:
            tell(f"{trace.name}: {line.conf or '(default)'}")
            check = _Check(wanted.program, line, machine, pieces, clock, steps, facts, faults or {})
            results.append(check.result())
    return Sheet(
        trace=trace.name,
        trace_sha256=digest,
        program_notes=list(wanted.notes),
        steps=wanted.program.n_ops,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        stand_in=machine.stand_in,
        facts=facts,
        repeats=REPEATS,
        lines=results,
    )


def probe(machine: Machine, pieces: Pieces, clock: Clock) -> dict[str, Any]:
    """Return what the device says of itself.

    Raises:
        NoDevice: there is none.
    """
    task = {"mode": "probe", "answer": str(pieces.path("", "probe"))}
    facts = pieces.get("", "probe")
    why = ""
    if facts is None or "error" in facts:
        why = machine.carry_out([task], "", clock.left)
        facts = pieces.get("", "probe")
    if facts is None or "error" in facts:
        pieces.path("", "probe").unlink(missing_ok=True)
        said = facts["error"] if facts else why or "no answer"
        raise NoDevice(f"verify: no device answered ({said}); --stand-in h100-80g rehearses it")
    return facts


class _Check:
    """One line of one trace."""

    def __init__(
        self,
        program: Program,
        line: Line,
        machine: Machine,
        pieces: Pieces,
        clock: Clock,
        steps: Path,
        facts: dict[str, Any],
        faults: dict[str, dict[str, str]],
    ) -> None:
        self.program, self.line, self.machine = program, line, machine
        self.pieces, self.clock, self.steps = pieces, clock, steps
        self.facts, self.faults = facts, faults

    def result(self) -> LineResult:
        conf = self.line.conf
        if self.pieces.get(conf, "accept") is None and not self.clock.fits("line"):
            return LineResult(self.line.role, conf)  # to predict it takes a while as well
        rules = release(self.facts["torch"])
        gpu = Device(self.facts["total"], self.facts["total"] - self.facts["free"])
        prediction = Prediction(self.program, conf, rules, gpu)
        try:
            peak = prediction.run.stats["reserved_bytes.all.peak"]
        except PolicyError as error:  # the line, or a call of the program under it
            return LineResult(self.line.role, conf, refused=f"by the simulator: {error}")
        tries: dict[int, dict[str, Any]] = {}
        first = next_limits(prediction.smallest_limit, peak, {})
        told = prediction.needs_addresses
        self.ask(
            "line",
            [("accept", {"mode": "probe"}), self.play("place", True)]
            + [self.play(f"count{k}", told, witness=prediction.peak_op) for k in range(REPEATS)]
            + [self.play(f"limit{limit}", told, limit=limit) for limit in first if limit > 0],
        )
        accepted = self.pieces.get(conf, "accept")
        if accepted is not None and "error" in accepted:
            return LineResult(self.line.role, conf, refused=f"by PyTorch: {accepted['error']}")
        died: dict[str, str] = {}
        placed = self.good("place", "V1", died)
        counted = [self.good(f"count{k}", "V2", died) for k in range(REPEATS)]
        limits = first
        while limits:
            for limit in limits:
                answer = self.good(f"limit{limit}", "V2b", died)
                if answer is None:
                    break
                tries[limit] = answer
            else:
                done = {limit: a["oom"] is None for limit, a in tries.items()}
                limits = next_limits(prediction.smallest_limit, peak, done)
                self.ask("limits", [self.play(f"limit{x}", told, limit=x) for x in limits])
                continue
            break
        known = [answer for answer in counted if answer is not None]
        runs = limited = None
        if told:
            runs = [told_run(prediction, answer, self.recording(f"count{k}", answer))
                    for k, answer in enumerate(counted) if answer is not None]  # fmt: skip
            limited = {limit: told_run(prediction, a, self.recording(f"limit{limit}", a), limit)
                       for limit, a in tries.items()}  # fmt: skip
        return LineResult(
            self.line.role,
            conf,
            placement=compare_placement(prediction, placed, self.recording("place", placed))
            if placed
            else None,
            counters=compare_counters(prediction, known, runs) if len(known) == REPEATS else None,
            budget=compare_budget(prediction, tries, limited) if not limits else None,
            died=died,
            predicted_peak_bytes=peak,
        )

    def play(self, piece: str, history: bool, **more: int) -> tuple[str, dict[str, Any]]:
        """Return a piece and the worker's task for it, with history on if addresses are wanted."""
        if not history:
            return piece, {"mode": "count", **more}
        snapshot = self.pieces.path(self.line.conf, piece, ".pickle")
        return piece, {"mode": "place", "snapshot": str(snapshot), **more}

    def recording(self, piece: str, answer: dict[str, Any]) -> Recording:
        """Return what a process recorded; it is kept in our own format, a tenth of the size."""
        path = self.pieces.path(self.line.conf, piece, ".npz")
        dumped = self.pieces.path(self.line.conf, piece, ".pickle")
        if not path.is_file():
            recording = read_snapshot(dumped.read_bytes(), path.name)
            mode = "stand-in" if self.machine.stand_in else "gpu"
            origin = origin_of(mode, self.machine.stand_in, ["tightfit verify"])
            gpu = {"name": answer["gpu"], "total_bytes": answer["total"], "stats": answer["stats"]}
            told = {name: answer[name] for name in ("torch", "cuda")}
            told |= {"conf": self.line.conf, "devices": {"0": gpu}, "reason": "asked"}
            told["settings_calls"] = answer.get("settings_calls", [])
            put_origin(recording, origin, told)
            save(recording, path)
        dumped.unlink(missing_ok=True)
        return load(path)

    def good(self, piece: str, stage: str, died: dict[str, str]) -> dict[str, Any] | None:
        """Return a piece's answer; note it if its process ended badly."""
        answer = self.pieces.get(self.line.conf, piece)
        if answer is not None and "error" in answer:
            died.setdefault(stage, answer["error"])
            return None
        return answer

    def ask(self, kind: str, asked: list[tuple[str, dict[str, Any]]]) -> None:
        """Have the pieces carried out that are not there yet, as far as time allows."""
        tasks = [
            {
                **task,
                "answer": str(self.pieces.path(self.line.conf, piece)),
                "steps": str(self.steps),
                "environment": self.faults.get(piece, {}),
            }
            for piece, task in asked
            if self.pieces.get(self.line.conf, piece) is None
        ]
        if tasks and self.clock.left > 0:
            with self.clock.timing(kind):
                why = self.machine.carry_out(tasks, self.line.conf, self.clock.left)
            first = Path(tasks[0]["answer"])
            if why and not first.is_file() and why != "the time was up":
                # PyTorch could not even be imported under this line.
                first.write_text(json.dumps({"error": why}), encoding="utf-8")

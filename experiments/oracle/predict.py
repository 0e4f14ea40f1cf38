"""Predictions held against reality: recorded under A, replayed under B, really run under B.

The real allocator runs a program under A; what it answered is written as the snapshot PyTorch
would dump, and read back, lifted and replayed under B by the code behind `tightfit replay`. Then
the real allocator runs the same program under B, and everything must be the same.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...sim.release import Release
from ...sim.run import Run
from ...traces.errors import TightfitError
from ...traces.event import Action
from ...traces.program import Program
from ..release_fit import find_release
from ..replay import Replayed, replay_subject, result_of
from ..subject import Subject, load_subjects
from ..unseen_notes import unseen_notes
from .commands import HANDLE, Case
from .compare import ORDER_OF_FREES, RELEASING, compare, layout_differences, simulate
from .defects import Defect
from .recordable import write_recording
from .run import Answer
from .translate import translate
from .triples import Dead, Reality, Triple
from .unseen import NOTHING, Told, Unseen, differ_in_order, find_unseen, recorded_failure

# How often all streams were waited for is in no recording: a wait that frees nothing shows nothing.
UNKNOWABLE = ("num_sync_all_streams",)
ROW = ("action", "addr", "size", "stream")


@dataclass
class Prediction:
    """How a triple ended.

    Attributes:
        differences: what was predicted wrongly, in words; empty if nothing.
        defect: an upstream defect that the real allocator ran into; nothing was compared.
        unseen: what the recording does not show and mattered before the program ended, at its
            first out-of-memory error if there is one; everything before was compared.
        unseen_going_on: the same for a program that drops what fails and goes on.
        events: trace entries of B that were compared.
        ends_early: memory ran out under A, and the recording ends there.
        fails: memory ran out under B.
    """

    differences: list[str] = field(default_factory=list)
    defect: Defect | None = None
    unseen: Unseen | None = None
    unseen_going_on: Unseen | None = None
    events: int = 0
    ends_early: bool = False
    fails: bool = False


def predict(triple: Triple, reality: Reality | Dead, rules: Release) -> Prediction:
    """Predict B from the recording made under A, and compare with what B did.

    Args:
        triple: the question.
        reality: what the real allocator did.
        rules: the release of both.
    """
    if isinstance(reality, Dead):
        _, defect, differences = _retell(reality.case, reality.answer, rules)
        if defect is None and not differences:
            differences = ["the real allocator did not answer"]
        return Prediction(defect=defect, differences=[] if defect else differences)
    told: list[Told] = []
    for case, answer in ((reality.recorded, reality.a), (reality.program, reality.whole)):
        retold, defect, differences = _retell(case, answer, rules)
        if defect is not None:
            return Prediction(defect=defect)
        if differences:  # the simulator is wrong already when told everything
            return Prediction([f"the simulator itself: {differences[0]}"])
        told.append(retold)
    out = Prediction(ends_early=recorded_failure(reality) is not None, fails=reality.failed >= 0)
    if not len(reality.a.trace):  # rejected, or ended, at its first request; there is no history
        return replace(out, unseen=Unseen(NOTHING, 0))
    try:
        subject = _read_back(reality, rules)
    except TightfitError as error:
        return replace(out, differences=[f"the recording is refused: {error}"])
    several = len(told[1].translated.side_streams) > 1
    left_open = ORDER_OF_FREES if several or differ_in_order(reality) else ()
    for keep_going in (False, True)[: 1 + out.fails]:
        answer = reality.whole if keep_going else reality.ended
        run, line, _ = replay_subject(
            subject, triple.conf, rules, triple.device, keep_going, whole=True
        )
        said = result_of(subject, run, line, rules, triple.device)
        found = _differences(reality, answer, subject, run, said, left_open)
        n, first = len(answer.trace), None
        if found:
            unseen = find_unseen(reality, rules, told[0], told[1], subject.program)
            last = len(reality.program.commands) if keep_going else reality.failed
            mattered = [u for u in unseen if not out.fails or u.command <= last]
            if mattered:
                notes = {f.kind for f in unseen_notes(subject, rules, run)}
                equal = [u for u in mattered if u.command == mattered[0].command]
                first = next((u for u in equal if u.note in notes), None)
                if first is None:
                    return replace(out, differences=[f"replay has no note {equal[0].note}"])
                n = int((answer.trace["command"] < first.command).sum())
                found = _event_differences(reality, answer, subject.program, run, n)
        out.differences += [f"{'going on' if keep_going else 'ending'}: {d}" for d in found]
        out.events += n
        if keep_going:
            out.unseen_going_on = first
        else:
            out.unseen = first
    return out


def _retell(case: Case, answer: Answer, rules: Release) -> tuple[Told, Defect | None, list[str]]:
    """Simulate a case with everything known, as the fuzzer does."""
    translated = translate(case, answer, rules)
    run = simulate(case, rules, translated)
    verdict = compare(case, answer, rules, translated, run)
    return Told(translated, run), verdict.defect, verdict.differences


def _read_back(reality: Reality, rules: Release) -> Subject:
    """Write the recording and read it as `tightfit replay` does.

    Raises:
        TightfitError: it is refused.
    """
    with tempfile.TemporaryDirectory(prefix="tightfit-") as folder:
        path = Path(folder) / "recorded.pickle"
        write_recording(path, reality.recorded, reality.a, rules)
        subjects = load_subjects(path)
        find_release(subjects, rules.name)
    return subjects[0]


def _differences(
    reality: Reality,
    answer: Answer,
    subject: Subject,
    run: Run,
    said: Replayed,
    left_open: tuple[str, ...],
) -> list[str]:
    program = subject.program
    stats = answer.stats
    guessed = recorded_failure(reality) is not None
    failures = stats["num_ooms"] + stats.get("num_oom_rejections", 0)
    real = {
        "peak_reserved_bytes": stats["reserved_bytes.all.peak"],
        "peak_allocated_bytes": stats["allocated_bytes.all.peak"],
        "peak_active_bytes": stats["active_bytes.all.peak"],
        "peak_requested_bytes": stats["requested_bytes.all.peak"],
        "final_reserved_bytes": stats["reserved_bytes.all.current"],
        "device_allocs": stats["num_device_alloc"],
        "device_frees": stats["num_device_free"],
        "alloc_retries": stats["num_alloc_retries"],
        "ooms": failures,
        "first_oom_event": _entry_of_failure(reality) if reality.failed >= 0 else None,
    }
    oom = answer.trace[answer.trace["action"] == Action.OOM]
    if len(oom) and int(oom["command"][0]) == reality.failed:
        real["first_oom_bytes"] = int(oom["size"][0])
    if guessed:  # the request that failed under A is known as A rounded it
        del real["peak_requested_bytes"]
    out = [
        f"{name}: real {value}, predicted {getattr(said, name)}"
        for name, value in real.items()
        if getattr(said, name) != value
    ]
    for name, value in stats.items():
        if (
            name in UNKNOWABLE
            or name in left_open
            or (guessed and name.startswith("requested_bytes"))
        ):
            continue
        if run.stats.get(name) != value:
            out.append(f"{name}: real {value}, predicted {run.stats.get(name)}")
    out += _event_differences(reality, answer, program, run, len(answer.trace))
    if not out and len(run.events) != len(answer.trace):
        out.append(f"events: real {len(answer.trace)}, predicted {len(run.events)}")
    return out + layout_differences(answer, _in_real_numbers(run, program))


def _entry_of_failure(reality: Reality) -> int:
    """Return the recorded entry of the request that failed first under B."""
    trace = reality.a.trace
    served = np.isin(trace["action"], (Action.ALLOC, Action.OOM))
    return int(np.flatnonzero(served & (trace["command"] == reality.failed))[0])


def _event_differences(
    reality: Reality, answer: Answer, program: Program, run: Run, n: int
) -> list[str]:
    """Return the first of the first n events that differs, in words."""
    rows = answer.trace[:n]
    theirs = np.stack([rows[c].astype(np.int64) for c in ROW], axis=1)
    failed = recorded_failure(reality)
    if failed is not None:  # known as A rounded it
        last = rows["command"] >= len(reality.recorded.commands) - 1
        last &= np.isin(
            rows["action"], (Action.ALLOC, Action.FREE_REQUESTED, Action.FREE_COMPLETED)
        )
        own = int(reality.recorded.commands["size"][-1])
        theirs[last & (theirs[:, 2] == own), 2] = failed
    ours = np.stack([run.events[c][:n].astype(np.int64) for c in ROW], axis=1)
    ours[:, 3] = program.streams[ours[:, 3]]
    theirs, ours = _in_any_order(theirs), _in_any_order(ours)
    m = min(len(theirs), len(ours))
    wrong = np.flatnonzero((theirs[:m] != ours[:m]).any(axis=1))
    if not len(wrong) and m == len(theirs):
        return []
    at = int(wrong[0]) if len(wrong) else m
    return [f"event {at} of {n}: real {_word(theirs, at)}, predicted {_word(ours, at)}"]


def _in_any_order(rows: np.ndarray) -> np.ndarray:
    """Sort each run of returning memory; in which order it returns, PyTorch leaves to hashes."""
    releasing = np.isin(rows[:, 0], RELEASING)
    group = np.cumsum(~releasing) * 2 + releasing
    order = np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0], group))
    return rows[order]


def _word(rows: np.ndarray, i: int) -> str:
    if i >= len(rows):
        return "nothing"
    action, addr, size, stream = rows[i].tolist()
    return f"{Action(action).name.lower()} of {size} at {addr:#x} on stream {stream:#x}"


def _in_real_numbers(run: Run, program: Program) -> Run:
    """Return a run whose layout has the driver's numbers of streams and pools."""
    assert run.layout is not None
    segments = dict(run.layout.segments)
    segments["stream"] = program.streams[segments["stream"]] // HANDLE
    segments["pool"] = np.array([max(p) for p in program.pools])[segments["pool"]]
    return replace(run, layout=replace(run.layout, segments=segments))

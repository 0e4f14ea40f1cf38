"""Differential fuzzing: random cases through the real allocator and through the simulator."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ...sim.release import release
from .build import build_driver
from .commands import Case, case_to_text
from .compare import Verdict, judge, kind
from .programs import random_case
from .run import Answer, run_cases
from .shrink import shrink
from .wheels import find_wheel

BATCH = 50  # cases; each batch is one process of the driver
MOST_DIFFERENCES = 3  # then a release is given up: more of the same teaches nothing


@dataclass(frozen=True)
class Difference:
    """A case about which the simulator and the real allocator disagree.

    Attributes:
        name: of the case as it was found.
        words: the differences of the smallest case.
        case: the smallest case, as one line of JSON.
    """

    name: str
    words: list[str]
    case: str


@dataclass
class Proof:
    """What was compared with one release.

    Attributes:
        torch: full version.
        seed, programs: cases number seed .. seed + programs - 1 were run.
        events, mallocs, ooms: trace entries compared, and the requests behind them.
        differences: empty if there are none.
        excluded: programs that ran into a known defect of PyTorch, compared up to there, by name.
        seconds: wall time.
        failure: why the release could not be compared, or not to the end; "" if it could.
    """

    torch: str
    seed: int
    programs: int = 0
    events: int = 0
    mallocs: int = 0
    ooms: int = 0
    differences: list[Difference] = field(default_factory=list)
    excluded: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    failure: str = ""


def fuzz(
    proof: Proof,
    *,
    seconds: float | None,
    events: int | None,
    wheels: Path | None,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Compare until the time is over or enough events were compared; fills in `proof`.

    `proof` is complete after every case, so that an interruption loses nothing.

    Args:
        proof: says which release, and with which case to begin.
        seconds, events: when to stop; None = no bound.
        wheels: where to look for the release's libraries.
        advance: called with the number of events after each case.

    Raises:
        VerificationError: the release cannot be had, built or run.
    """
    rules = release(proof.torch)
    driver = build_driver(find_wheel(proof.torch, wheels))

    def answers(first: int) -> tuple[list[Case], list[Answer]]:
        cases = [random_case(proof.torch, rules, first + k) for k in range(BATCH)]
        return cases, run_cases(driver, cases)

    def again(case: Case) -> Verdict:
        return judge(case, run_cases(driver, [case])[0], rules)

    with ThreadPoolExecutor(1) as ahead:  # the driver works while the simulator does
        batch: Future[tuple[list[Case], list[Answer]]] = ahead.submit(answers, proof.seed)
        cases, given = batch.result()
        judge(cases[0], given[0], rules)  # a first run compiles; that is not the time to measure
        start = time.monotonic()
        while True:
            cases, given = batch.result()
            batch = ahead.submit(answers, proof.seed + proof.programs + len(cases))
            for case, answer in zip(cases, given, strict=True):
                verdict = judge(case, answer, rules)
                proof.programs += 1
                proof.events += verdict.events
                proof.mallocs += verdict.mallocs
                proof.ooms += verdict.ooms
                if verdict.defect is not None:
                    proof.excluded[verdict.defect.name] += 1
                proof.seconds = time.monotonic() - start
                advance(verdict.events)
                if verdict.differences:
                    same = kind(verdict)
                    small = shrink(case, rules, lambda c, same=same: kind(again(c)) == same)
                    words = again(small).differences
                    proof.differences.append(
                        Difference(case.name, words or verdict.differences, case_to_text(small))
                    )
                if (
                    len(proof.differences) >= MOST_DIFFERENCES
                    or (seconds is not None and proof.seconds >= seconds)
                    or (events is not None and proof.events >= events)
                ):
                    return

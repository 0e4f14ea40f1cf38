"""`tightfit prove --predictions N`: many triples, and what became of each."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...sim.release import Release, release
from ..screen import Column, progress, say, table
from .build import build_driver
from .commands import Case
from .fuzz import Difference
from .predict import Prediction, predict
from .releases import answer, prove_each, say_difference, say_failures
from .run import Answer, run_cases
from .shrink import shrink
from .triples import Ask, Triple, random_triple, run_triples, triple_to_text
from .wheels import find_wheel

BATCH = 25  # triples; each batch is a few processes of the driver
MOST_DIFFERENCES = 3  # then a release is given up: more of the same teaches nothing


@dataclass
class Predictions:
    """What was predicted for one release.

    Attributes:
        torch: full version.
        seed, triples: triples number seed .. seed + triples - 1 were run.
        compared: those predicted in full, with everything the same.
        events: trace entries of the second runs that were compared.
        out_of_memory: those of them in which memory ran out under B, as predicted; the program
            ends there.
        went_on: those of them predicted as well if the program drops what fails and goes on.
        unseen: triples compared up to where something mattered that no recording shows, by name.
        defects: triples that ran into a defect of PyTorch, by name; not compared.
        differences: empty if there are none.
        seconds: wall time.
        failure: why the release could not be compared; "" if it could.
    """

    torch: str
    seed: int
    triples: int = 0
    compared: int = 0
    events: int = 0
    out_of_memory: int = 0
    went_on: int = 0
    unseen: Counter[str] = field(default_factory=Counter)
    defects: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)
    seconds: float = 0.0
    failure: str = ""


def prove_predictions(
    proof: Predictions,
    n: int,
    wheels: Path | None,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Predict n triples; fills in `proof`, which is complete after every triple.

    Args:
        proof: says which release, and with which triple to begin.
        n: number of triples.
        wheels: where to look for the release's libraries.
        advance: called with 1 after each triple.

    Raises:
        VerificationError: the release cannot be had, built or run.
    """
    rules = release(proof.torch)
    driver = build_driver(find_wheel(proof.torch, wheels))

    def ask(cases: Sequence[Case]) -> list[Answer]:
        return run_cases(driver, cases) if cases else []

    start = time.monotonic()
    while proof.triples < n:
        first = proof.seed + proof.triples
        size = min(BATCH, n - proof.triples)
        triples = [random_triple(proof.torch, rules, first + k) for k in range(size)]
        for triple, reality in zip(triples, run_triples(ask, triples), strict=True):
            count(proof, predict(triple, reality, rules), triple, rules, ask)
            proof.seconds = time.monotonic() - start
            advance(1)
            if len(proof.differences) >= MOST_DIFFERENCES:
                return


def count(proof: Predictions, found: Prediction, triple: Triple, rules: Release, ask: Ask) -> None:
    """Add one prediction to a proof; a wrong one is made as small as it gets first."""
    proof.triples += 1
    proof.events += found.events
    if found.differences:
        small = smallest(triple, found, rules, ask)
        words = _again(small, rules, ask).differences or found.differences
        proof.differences.append(Difference(triple.name, words, triple_to_text(small)))
    elif found.defect is not None:
        proof.defects[found.defect.name] += 1
    elif found.unseen is not None:
        proof.unseen[found.unseen.name] += 1
    else:
        proof.compared += 1
        proof.out_of_memory += found.fails
        proof.went_on += found.fails and found.unseen_going_on is None


def smallest(triple: Triple, found: Prediction, rules: Release, ask: Ask) -> Triple:
    """Return a smallest triple that is predicted wrongly in the same manner."""
    same = kind(found)

    def differs(candidate: Triple) -> bool:
        return kind(_again(candidate, rules, ask)) == same

    while True:
        before = triple

        def with_b(case: Case, of: Triple = triple) -> Triple:
            return replace(of, a=of.a.with_commands(case.commands), conf=case.conf)

        whole = replace(triple.a, conf=triple.conf)
        triple = with_b(shrink(whole, rules, lambda c, f=with_b: differs(f(c))))

        def with_a(case: Case, of: Triple = triple) -> Triple:
            return replace(of, a=case)

        triple = with_a(shrink(triple.a, rules, lambda c, f=with_a: differs(f(c))))
        if len(triple_to_text(triple)) == len(triple_to_text(before)):
            return triple


def kind(found: Prediction) -> str:
    """Return what sort of error a prediction is, without its figures; "" if it is right."""
    words = found.differences[0] if found.differences else ""
    return re.sub(r"0x[0-9a-f]+|\d+", "#", ":".join(words.split(":")[:2]))


def _again(triple: Triple, rules: Release, ask: Ask) -> Prediction:
    return predict(triple, run_triples(ask, [triple])[0], rules)


def run_predictions(
    versions: list[str], n: int, seed: int, wheels: Path | None, as_json: bool
) -> None:
    """Predict n triples in all, spread over the releases, and report.

    Raises:
        typer.Exit: as releases.answer does.
    """
    share = {v: n // len(versions) + (k < n % len(versions)) for k, v in enumerate(versions)}

    def prove(proof: Predictions) -> None:
        with progress(share[proof.torch], f"torch {proof.torch}, triples") as advance:
            prove_predictions(proof, share[proof.torch], wheels, advance)

    proofs, interrupted = prove_each([Predictions(version, seed) for version in versions], prove)
    answer(proofs, interrupted, _verdict, _show, as_json)


def _verdict(proofs: Sequence[Predictions]) -> str:
    triples = sum(p.triples for p in proofs)
    wrong = sum(len(p.differences) for p in proofs)
    if not triples:
        return "NOTHING PREDICTED"
    compared = sum(p.compared for p in proofs)
    unseen = sum(p.unseen.total() for p in proofs)
    releases = sum(p.triples > 0 for p in proofs)
    what = (
        f"of {triples:,} predictions on {releases} releases, {compared:,} in full and {unseen:,} "
        "up to what no recording shows"
    )
    return f"WRONG: {wrong} {what}" if wrong else f"RIGHT: none differs {what}"


def _show(proofs: Sequence[Predictions]) -> None:
    table(
        "",
        [
            "torch", "seed", "triples", "in full", "out of memory", "and went on", "up to a point",
            "defects", "wrong", "events", Column("time", "s"),
        ],
        [
            [
                p.torch, p.seed, p.triples, p.compared, p.out_of_memory, p.went_on,
                p.unseen.total(), p.defects.total(), len(p.differences), p.events, p.seconds,
            ]
            for p in proofs
        ],
    )  # fmt: skip
    triples = max(1, sum(p.triples for p in proofs))
    for name, n in sum((p.unseen for p in proofs), Counter[str]()).most_common():
        say(f"compared up to a point, {n} ({n / triples:.1%}): no recording shows {name}")
    for name, n in sum((p.defects for p in proofs), Counter[str]()).most_common():
        say(f"not compared, {n} ({n / triples:.1%}): a known defect of PyTorch: {name}")
    say_failures(proofs)
    for proof in proofs:
        for found in proof.differences:
            say_difference(proof.torch, found.name, found.words, "triple", found.case)

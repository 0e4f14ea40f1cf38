"""Triples kept as a file, with what the real allocator did under A and under B.

Small ones that were predicted in full, chosen so that each release has some in which memory runs
out, private pools and other streams. Written with the other golden files, by
`golden.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from ...sim.release import release
from .build import build_driver
from .commands import Case, Code
from .golden import answer_from_json, answer_to_json
from .predict import predict
from .run import Answer, run_cases
from .triples import (
    Ask,
    Reality,
    Triple,
    first_failure,
    random_triple,
    run_triples,
    triple_from_json,
    triple_to_json,
)
from .wheels import RELEASES, find_wheel

NAME = "predictions.json"
SHORT = 62  # commands


def write_predictions(folder: Path) -> Path:
    """Write the file.

    Raises:
        VerificationError: a release cannot be had, built or run.
    """
    lines = []
    names: dict[str, list[str]] = {}
    for version in RELEASES:
        driver = build_driver(find_wheel(version))

        def ask(cases: Sequence[Case], driver: Path = driver) -> list[Answer]:
            return run_cases(driver, cases) if cases else []

        for triple, reality in _chosen(version, ask):
            names[version] = list(reality.a.stats)
            answers = [reality.a, reality.whole, *[reality.ended] * (reality.failed >= 0)]
            kept = {
                "torch": version,
                **triple_to_json(triple),
                "answers": [answer_to_json(a, with_pools=True) for a in answers],
            }
            lines.append(json.dumps(kept, separators=(",", ":")))
    path = folder / NAME
    head = json.dumps(names, separators=(",", ":"))
    path.write_text(f'{{"stats":{head},"triples":[\n' + ",\n".join(lines) + "\n]}\n")
    return path


def read_predictions(path: Path) -> list[tuple[str, Triple, Reality]]:
    """Return (release, triple, what the real allocator did) of each kept triple."""
    kept = json.loads(path.read_text())
    out = []
    for value in kept["triples"]:
        triple, version = triple_from_json(value), value["torch"]
        # Those are kept whose recording holds the whole program.
        program = triple.under_b(triple.a.commands)
        cases = [triple.a, program]
        given = value["answers"]
        a, whole = (
            answer_from_json(case, answer, kept["stats"][version])
            for case, answer in zip(cases, given, strict=False)
        )
        failed, ended = first_failure(program, whole), whole
        if failed >= 0:
            cut = program.with_commands(program.commands[: failed + 1])
            ended = answer_from_json(cut, given[2], kept["stats"][version])
        out.append((version, triple, Reality(triple.a, a, program, whole, failed, ended)))
    return out


def _chosen(version: str, ask: Ask) -> Iterator[tuple[Triple, Reality]]:
    """Yield the first short triples that are predicted in full, a different kind each."""
    rules = release(version)
    wanted = ["scope", "stream", "fails"]
    for seed in count():
        triple = random_triple(version, rules, seed)
        if len(triple.a.commands) > SHORT or triple.a.scattered:
            continue
        (reality,) = run_triples(ask, [triple])
        if not isinstance(reality, Reality) or reality.recorded is not triple.a:
            continue
        code = triple.a.commands["code"]
        shows = {
            "scope": bool((code == Code.SCOPE_BEGIN).any() | (code == Code.CAPTURE_BEGIN).any()),
            "stream": bool((code == Code.RECORD).any()),
            "fails": reality.failed >= 0,
        }
        kind = next((k for k in wanted if shows[k]), None)
        if kind is None or (code == Code.MALLOC).sum() < 10:
            continue
        found = predict(triple, reality, rules)
        if found.differences or found.defect or found.unseen or found.unseen_going_on:
            continue
        wanted.remove(kind)
        yield triple, reality
        if not wanted:
            return

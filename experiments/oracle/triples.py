"""Triples (program, A, B): a program recorded under A and predicted, and really run, under B."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...sim.device import Device
from ...sim.release import Release
from ...traces.event import Action
from ...traces.units import GiB, MiB
from .commands import CHANGES, Case, Code, case_from_json, case_to_json, commands_of, fraction_of
from .lines import random_line
from .programs import random_case
from .run import Answer

AMPLE = 64 * GiB
Ask = Callable[[Sequence[Case]], list[Answer]]


@dataclass(frozen=True)
class Triple:
    """A program and two sets of conditions.

    Attributes:
        name: where it came from.
        a: the program under the conditions it is recorded under.
        conf, device: the conditions B it is predicted for.
    """

    name: str
    a: Case
    conf: str
    device: Device

    def under_b(self, commands: np.ndarray) -> Case:
        """Return commands under the conditions B."""
        return Case(self.name, self.conf, self.device, commands)


@dataclass(frozen=True)
class Reality:
    """What the real allocator did with a triple.

    A program ends at its first out-of-memory error, as programs do: under A the recording ends
    there, and what it holds is the whole program. Under B it ends, too, or, as `whole` shows,
    drops the allocation and goes on.

    Attributes:
        recorded, a: the program as far as it got under A, and the answer.
        program: the same commands for B; a request that failed under A is freed at once.
        whole: the answer under B, failed requests dropped.
        failed: the MALLOC that failed first under B; -1 = none.
        ended: the answer under B if the program ends there; `whole` if nothing failed.
    """

    recorded: Case
    a: Answer
    program: Case
    whole: Answer
    failed: int
    ended: Answer


@dataclass(frozen=True)
class Dead:
    """A triple that the real allocator did not survive.

    Attributes:
        case, answer: under which conditions, and as far as it came.
    """

    case: Case
    answer: Answer


def random_triple(release_name: str, rules: Release, seed: int) -> Triple:
    """Return triple number `seed` of a release."""
    case = random_case(release_name, rules, seed)
    rng = random.Random(f"prediction {release_name}/{seed}")
    conf = random_line(rng, rules)
    limits = case.commands[case.commands["code"] == Code.FRACTION]
    # Conditions that change are in no recording.
    commands = case.commands[~np.isin(case.commands["code"], CHANGES)]
    if len(limits):
        # Whoever predicts states a limit in the line, where there is a key for it.
        share = fraction_of(int(limits["size"][0]))
        if rules.version >= (2, 10) and "per_process" not in conf and "throw" not in conf:
            conf = ",".join(filter(None, [conf, f"per_process_memory_fraction:{share}"]))
    # `tightfit replay` knows devices that hand out pages of 2 MiB.
    device = replace(case.device, granularity=2 * MiB)
    ample = rng.random() < 0.75
    a = replace(case, commands=commands, lines=(), device=Device(AMPLE) if ample else case.device)
    return Triple(case.name, a, conf, device)


def first_failure(case: Case, answer: Answer) -> int:
    """Return the first MALLOC that was not served; -1 if all were."""
    failed = (case.commands["code"] == Code.MALLOC) & (answer.returned == 0)
    failed[answer.reached :] = False
    return int(failed.argmax()) if failed.any() else -1


def run_triples(ask: Ask, triples: Sequence[Triple]) -> list[Reality | Dead]:
    """Ask the real allocator about triples.

    Args:
        ask: runs cases.

    Returns:
        For each what happened.
    """
    firsts = ask([t.a for t in triples])
    recorded = []
    for triple, answer in zip(triples, firsts, strict=True):
        end = first_failure(triple.a, answer)
        recorded.append(triple.a if end < 0 else _until(triple.a, answer, end))
    again = [k for k, t in enumerate(triples) if recorded[k] is not t.a]
    answers_a = list(firsts)
    for k, answer in zip(again, ask([recorded[k] for k in again]), strict=True):
        answers_a[k] = answer
    programs = [
        t.under_b(_with_free(case.commands, answer))
        for t, case, answer in zip(triples, recorded, answers_a, strict=True)
    ]
    wholes = ask(programs)
    failed = [first_failure(p, w) for p, w in zip(programs, wholes, strict=True)]
    ended = list(wholes)
    again = [k for k, at in enumerate(failed) if at >= 0]
    cuts = [p.with_commands(p.commands[: failed[k] + 1]) for k in again for p in [programs[k]]]
    for k, answer in zip(again, ask(cuts), strict=True):
        ended[k] = answer
    out: list[Reality | Dead] = []
    for k in range(len(triples)):
        dead = [
            Dead(case, answer)
            for case, answer in (
                (recorded[k], answers_a[k]), (programs[k], wholes[k]), (programs[k], ended[k]),
            )
            if answer.status or not answer.stats
        ]  # fmt: skip
        real = Reality(recorded[k], answers_a[k], programs[k], wholes[k], failed[k], ended[k])
        out.append(dead[0] if dead else real)
    return out


def _until(case: Case, answer: Answer, end: int) -> Case:
    """Return a program that ends at its first failure, with what a recording knows of it.

    An out-of-memory error has an entry; a request that throw_on_cudamalloc_oom rejects has none.
    """
    rows = answer.trace
    is_told = bool(((rows["action"] == Action.OOM) & (rows["command"] == end)).any())
    return case.with_commands(case.commands[: end + is_told])


def _with_free(commands: np.ndarray, answer: Answer) -> np.ndarray:
    """Return a program whose last request, if it failed, is freed as soon as it is served."""
    if not len(commands) or commands["code"][-1] != Code.MALLOC or answer.returned[-1]:
        return commands
    free = commands_of([(Code.FREE, int(commands["id"][-1]), 0, 0)])
    return np.concatenate([commands, free])


def triple_to_json(triple: Triple) -> dict[str, Any]:
    """Return a triple as JSON values."""
    device = triple.device
    b = [triple.conf, device.capacity_bytes, device.other_bytes]
    return {"a": case_to_json(triple.a), "b": b}


def triple_from_json(value: dict[str, Any]) -> Triple:
    """Read what `triple_to_json` wrote."""
    a = case_from_json(value["a"])
    conf, capacity, other = value["b"]
    return Triple(a.name, a, conf, Device(capacity, other))


def triple_to_text(triple: Triple) -> str:
    """Return a triple as one line of JSON, for bug reports."""
    return json.dumps(triple_to_json(triple), separators=(",", ":"))

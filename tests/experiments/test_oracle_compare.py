"""Comparing with the real allocator: a spoilt answer, or another release's, must be noticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tightfit.experiments.oracle.compare import compare, judge, kind, simulate
from tightfit.experiments.oracle.run import Answer
from tightfit.experiments.oracle.translate import translate
from tightfit.sim.release import NEWEST, release
from tightfit.traces.event import Action
from tightfit.traces.program import Op

from .test_oracle_golden import golden


def spoil(answer: Answer, what: str) -> Answer:
    spoilt = replace(answer)
    if what == "returned":
        spoilt.returned = answer.returned + (answer.returned != 0).astype(np.uint64) * 512
    elif what == "stats":
        spoilt.stats = answer.stats | {"requested_bytes.small_pool.freed": -1}
    elif what == "error":
        spoilt.errors = [(0, "INTERNAL ASSERT FAILED")]
    elif what == "death":
        spoilt.status = 11
    else:
        table, column = what.split(".")
        rows = getattr(answer, table).copy()
        rows[column][-1] += 1
        setattr(spoilt, table, rows)
    return spoilt


@pytest.mark.parametrize(
    "what",
    [
        "returned", "stats", "error", "death", "trace.action", "trace.addr", "trace.size",
        "segments.addr", "segments.size", "segments.pool", "segments.flags", "blocks.addr",
        "blocks.size", "blocks.flags",
    ],
)  # fmt: skip
def test_a_difference_in_any_place_is_found(what: str) -> None:
    rules = release(NEWEST)
    case, answer = golden(NEWEST)["32 reused, first 16 free"]
    assert judge(case, answer, rules).differences == []
    assert len(judge(case, spoil(answer, what), rules).differences) > 0


@pytest.mark.parametrize("version", ["2.11.0", "2.12.1"])
def test_the_rules_of_another_release_are_found_out(version: str) -> None:
    """Releases order equal blocks differently; some kept case must show it."""
    found = [
        case.name
        for case, answer in golden(version).values()
        for program in [translate(case, answer, release(version))]
        for run in [simulate(case, release(NEWEST), program)]
        if compare(case, answer, release(version), program, run).differences
    ]
    assert found


def test_frees_complete_when_the_real_trace_says() -> None:
    cases = golden(NEWEST).items()
    case, answer = next(c for name, c in cases if name.startswith("recovery waits"))
    translated = translate(case, answer, release(NEWEST))
    # The busy block's free is left to the simulator: it completes while everything is waited for.
    later = int(Op.FREE_LATER)
    assert translated.program.op.tolist().count(later) == 1
    assert int(Op.COMPLETE) not in translated.program.op
    assert translated.side_streams == {40}


def test_a_free_that_completes_elsewhere_is_a_difference() -> None:
    """Behind a defect PyTorch frees a block at another address than it handed out."""
    rules = release(NEWEST)
    completes = (
        (case, answer)
        for case, answer in golden(NEWEST).values()
        if int(Op.COMPLETE) in translate(case, answer, rules).program.op
    )
    case, answer = next(completes)
    trace = answer.trace.copy()
    trace["addr"][trace["action"] == Action.FREE_COMPLETED] += 512
    assert len(judge(case, replace(answer, trace=trace), rules).differences) > 0


def test_kinds_forget_figures() -> None:
    rules = release(NEWEST)
    case, answer = golden(NEWEST)["32 reused, first 16 free"]
    verdict = judge(case, spoil(answer, "stats"), rules)
    assert kind(verdict) == "requested_bytes.small_pool.freed"
    assert kind(judge(case, answer, rules)) == ""

"""The simulator against what twelve releases' own compiled allocators answered, kept in files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tightfit.experiments.oracle.commands import Case
from tightfit.experiments.oracle.compare import judge, simulate
from tightfit.experiments.oracle.golden import read_golden
from tightfit.experiments.oracle.regressions import regressions
from tightfit.experiments.oracle.run import Answer
from tightfit.experiments.oracle.scenarios import scenarios
from tightfit.experiments.oracle.translate import translate
from tightfit.experiments.oracle.wheels import RELEASES
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import release
from tightfit.traces.event import Action
from tightfit.traces.units import MiB

from ..sim.agreement import differences

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
DRIVER = (
    Action.SEGMENT_ALLOC,
    Action.SEGMENT_FREE,
    Action.SEGMENT_MAP,
    Action.SEGMENT_UNMAP,
)


@cache
def golden(version: str) -> dict[str, tuple[Case, Answer]]:
    torch, cases = read_golden(GOLDEN / f"allocator-{version}.json")
    assert torch == version
    return {case.name: (case, answer) for case, answer in cases}


@pytest.mark.parametrize("version", RELEASES)
def test_the_simulator_answers_as_the_real_allocator_did(version: str) -> None:
    cases = golden(version)
    assert set(scenarios()) < set(cases)
    for name, (case, answer) in cases.items():
        verdict = judge(case, answer, release(version))
        assert (name, verdict.differences, verdict.defect) == (name, [], None)
        assert verdict.events == len(answer.trace) > 0


@pytest.mark.parametrize("version", RELEASES)
def test_so_does_the_reference(version: str) -> None:
    rules = release(version)
    for case, answer in golden(version).values():
        translated = translate(case, answer, rules)
        first, *later = case.conditions(rules)
        reference = replay_reference(
            translated.program,
            first.settings,
            rules,
            first.device,
            limit_fraction=first.limit_fraction,
            later=later,
            stop_at_oom=False,
            recorded_driver=case.scattered,
        )
        assert differences(simulate(case, rules, translated), reference) == []


def test_the_files_hold_the_scenarios_as_they_are_written_now() -> None:
    for version in RELEASES:
        kept = golden(version)
        now = scenarios() | regressions(release(version))
        assert set(now) < set(kept)
        for name, case in now.items():
            assert np.array_equal(kept[name][0].commands, case.commands)
            assert (kept[name][0].conf, kept[name][0].device) == (case.conf, case.device)
            assert kept[name][0].lines == case.lines


def layout(answer: Answer) -> list[list[str]]:
    """The final snapshot as "16A": MiB, and A allocated, I inactive, P pending."""
    starts = answer.segments["addr"].tolist()
    ends = (answer.segments["addr"] + answer.segments["size"].astype(np.uint64)).tolist()
    return [
        [
            f"{b['size'] / MiB:g}{'IAP'[b['flags']]}"
            for b in answer.blocks
            if start <= b["addr"] < end
        ]
        for start, end in zip(starts, ends, strict=True)
    ]


def driver_calls(answer: Answer, command: int) -> list[tuple[str, float]]:
    """What was asked of the driver during a command: action and MiB."""
    return [
        (Action(e["action"]).name.lower(), e["size"] / MiB)
        for e in answer.trace
        if e["command"] == command and e["action"] in DRIVER
    ]


# Final layouts, with the memory reserved in MiB.
LAYOUTS = {
    "32 after its request": ([["32A"]], 32),
    "32 reused by 16 and 16": ([["16A", "16A"]], 32),
    "32 reused, first 16 free": ([["16I", "16A"]], 32),
    "32 reused, both free": ([["32I"]], 32),
    "off: 8 of 16, then 4 of 32": ([["16I"]] * 8 + [["32A"]] * 4, 256),
    "off: 4 of 32, then 8 of 16": ([["16A", "16A"]] * 4, 128),
    "on: 1 of 16": ([["16A", "4I"]], 20),
    "on: 2 of 16": ([["16A", "16A", "8I"]], 40),
    "on: 3 of 16": ([["16A"] * 3 + ["12I"]], 60),
    "on: 4 of 16": ([["16A"] * 4 + ["16I"]], 80),
    "on: 5 of 16": ([["16A"] * 5], 80),
    "on: 6 of 16": ([["16A"] * 6 + ["4I"]], 100),
    "on: 7 of 16": ([["16A"] * 7 + ["8I"]], 120),
    "on: 8 of 16": ([["16A"] * 8 + ["12I"]], 140),
    "on: 8 of 16, all free": ([["140I"]], 140),
    "on: 8 of 16, then 4 of 32": ([["32A"] * 4 + ["12I"]], 140),
    "on: holes of 16 after 4 of 16": ([["16A"] * 4 + ["16I"]], 80),
    "on: holes of 16 after two frees": ([["16I", "16A", "16I", "16A", "16I"]], 80),
    "on: holes of 16, then 32": ([["16I", "16A", "16I", "16A", "32A", "4I"]], 100),
    "on: holes of 16, all free": ([["100I"]], 100),
    "on: holes of 16, 32 again": ([["32A", "68I"]], 100),
    "off: 2, then a half": ([["20I"], ["0.5A", "1.5I"]], 22),
    "on: 2, then a half": ([["20I"], ["0.5A", "1.5I"]], 22),
    "off: 3 of 20": ([["3A", "17I"]], 20),
    "recovery waits for a busy stream": ([["150A"]], 150),
    "oversize release, smallest last": ([["250A"]], 250),
    "out of memory keeps a segment in use": ([["3I", "3A", "14I"]], 20),
    "on: empty_cache unmaps whole pages": ([["30A", "10I"], ["30A", "60A", "10I"]], 140),
}
# Which of equal free blocks serves a request: the number of the one it follows.
EQUALS = {
    "equal segments, addresses scattered": lambda v: 3 if v <= (2, 11) else 1,
    "equal pieces of a segment": lambda v: 2 if v == (2, 12) else 0,
}


# What the driver was asked during one command of a scenario.
CALLS = {
    ("off: 3 of 20", 0): [("segment_alloc", 20)],
    ("on: 5 of 16", 4): [],
    ("on: holes of 16, then 32", 6): [("segment_map", 20)],
    ("recovery waits for a busy stream", 7): [
        ("segment_free", 30),
        ("segment_free", 50),
        ("segment_free", 100),
        ("segment_alloc", 150),
    ],
    ("oversize release, smallest last", 8): [
        ("segment_free", 82),
        ("segment_free", 78),
        ("segment_free", 74),
        ("segment_free", 70),  # 234 MiB were not enough
        ("segment_alloc", 250),
    ],
    ("out of memory keeps a segment in use", 3): [],
    ("on: empty_cache unmaps whole pages", 0): [("segment_map", 40)],
    ("on: empty_cache unmaps whole pages", 1): [("segment_map", 20)],
    ("on: empty_cache unmaps whole pages", 2): [("segment_map", 40)],
    ("on: empty_cache unmaps whole pages", 4): [("segment_unmap", 20)],
    ("on: empty_cache unmaps whole pages", 5): [("segment_map", 60)],
}
COUNTS = {
    "recovery waits for a busy stream": {"num_alloc_retries": 1, "num_sync_all_streams": 1},
    "oversize release, smallest last": {"num_alloc_retries": 0, "num_sync_all_streams": 0},
    "out of memory keeps a segment in use": {"num_ooms": 1, "num_alloc_retries": 1},
}


@pytest.mark.parametrize("version", RELEASES)
def test_the_real_allocator_plays_the_scenarios_so(version: str) -> None:
    cases = golden(version)
    for name, (expected, reserved) in LAYOUTS.items():
        answer = cases[name][1]
        assert (name, layout(answer)) == (name, expected)
        assert answer.stats["reserved_bytes.all.current"] == reserved * MiB
    for (name, command), expected in CALLS.items():
        assert (name, driver_calls(cases[name][1], command)) == (name, expected)
    for name, counts in COUNTS.items():
        assert counts.items() <= cases[name][1].stats.items()
    for name, choice in EQUALS.items():
        returned = cases[name][1].returned
        given = returned[returned != 0].tolist()
        assert given.index(given[-1]) == choice(release(version).version), name
    oom = cases["out of memory keeps a segment in use"][1].trace[-1]
    assert (oom["action"], oom["addr"], oom["size"]) == (Action.OOM, 180 * MiB, 190 * MiB)


def test_what_was_found_out_by_chance_stays_so() -> None:
    """What the real allocator does in the kept cases, in figures."""
    asked = {"2.6.0": 130 * MiB, "2.10.0": 130 * MiB, "2.11.0": 210 * MiB, "2.15.0": 210 * MiB}
    for version, reserved in asked.items():
        answer = golden(version)["a line set at run time leaves max_non_split_rounding out"][1]
        assert answer.stats["reserved_bytes.all.current"] == reserved, version
    for version in ("2.12.1", "2.15.0"):
        cases = golden(version)
        for name, counts in {
            "rejected, then served once everything was released": (1, 0, 1, 192 * MiB),
            "rejected, and then the driver refuses": (1, 0, 1, 0),
            "rejected twice": (1, 0, 2, 0),
            "rejected during a capture": (0, 0, 1, 0),
        }.items():
            stats = cases[name][1].stats
            names = ("num_alloc_retries", "num_ooms", "num_oom_rejections")
            assert (*(stats[n] for n in names), stats["allocated_bytes.all.current"]) == counts


def test_every_scenario_is_claimed() -> None:
    """Here, or by name in test_golden_vectors.py: those in a pool, those of graphs."""
    elsewhere = {n for n in scenarios() if n.startswith("pool, ") or "graphs of" in n}
    elsewhere |= {"off: 2, then 2", "on: 2, then 2", "on: 16 on each of two streams"}
    assert set(LAYOUTS) | set(EQUALS) == set(scenarios()) - elsewhere

"""The golden vectors and the devlog's demonstrations, each by name, as the real allocator plays it.

Vectors: one stream; MiB; A = allocated, I = inactive. The devlog is Edward Yang's of 2026-06-01,
"When does fragmentation occur in the CUDA caching allocator?"; it plays in private pools.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tightfit.experiments.oracle.compare import judge
from tightfit.experiments.oracle.scenarios import IN_A_POOL, scenarios
from tightfit.experiments.oracle.wheels import RELEASES
from tightfit.sim.release import release
from tightfit.traces.event import Action
from tightfit.traces.units import MiB

from .test_oracle_golden import driver_calls, golden, layout


@dataclass(frozen=True)
class State:
    """What a scenario ends in.

    Attributes:
        scenario: its name.
        segments: the final snapshot.
        reserved: MiB.
    """

    scenario: str
    segments: list[list[str]]
    reserved: int


HOLES = ["16I", "16A", "16I", "16A"]
VECTORS = {
    "32; free; 16,16; free first; free second": [
        State("32 after its request", [["32A"]], 32),
        State("32 reused by 16 and 16", [["16A", "16A"]], 32),
        State("32 reused, first 16 free", [["16I", "16A"]], 32),
        State("32 reused, both free", [["32I"]], 32),
    ],
    "off: 8x16; free; 4x32": [
        State("off: 8 of 16, then 4 of 32", [["16I"]] * 8 + [["32A"]] * 4, 256)
    ],
    "off: 4x32; free; 8x16": [State("off: 4 of 32, then 8 of 16", [["16A", "16A"]] * 4, 128)],
    "on: 8x16": [
        State(f"on: {n} of 16", [["16A"] * n + ([f"{tail}I"] if tail else [])], 16 * n + tail)
        for n, tail in enumerate((4, 8, 12, 16, 0, 4, 8, 12), start=1)
    ],
    "on: then free all; 4x32": [
        State("on: 8 of 16, all free", [["140I"]], 140),
        State("on: 8 of 16, then 4 of 32", [["32A"] * 4 + ["12I"]], 140),
    ],
    "on: 4x16; free #0,#2; 32": [
        State("on: holes of 16 after 4 of 16", [["16A"] * 4 + ["16I"]], 80),
        State("on: holes of 16 after two frees", [[*HOLES, "16I"]], 80),
        State("on: holes of 16, then 32", [[*HOLES, "32A", "4I"]], 100),
        State("on: holes of 16, all free", [["100I"]], 100),
        State("on: holes of 16, 32 again", [["32A", "68I"]], 100),
    ],
    "on / off: 2; free; 0.5": [
        State("off: 2, then a half", [["20I"], ["0.5A", "1.5I"]], 22),
        State("on: 2, then a half", [["20I"], ["0.5A", "1.5I"]], 22),
    ],
    "off: 3 MiB of 20": [State("off: 3 of 20", [["3A", "17I"]], 20)],
    "capacity 200, off: 100,50*,30; free all; 150": [
        State("recovery waits for a busy stream", [["150A"]], 150)
    ],
    "capacity 360, max_split 64: 70,74,78,82; free all; 250": [
        State("oversize release, smallest last", [["250A"]], 250)
    ],
    "capacity 200, off: 3,3; free first; 190": [
        State("out of memory keeps a segment in use", [["3I", "3A", "14I"]], 20)
    ],
    "capacity 200, on: 30,30,30; free 2nd; empty_cache; 60": [
        State("on: empty_cache unmaps whole pages", [["30A", "10I"], ["30A", "60A", "10I"]], 140)
    ],
}
# What each asks of the driver: (scenario, command) -> calls.
CALLS = {
    "on: 8x16": [("on: 8 of 16", k, [] if k == 4 else [("segment_map", 20)]) for k in range(8)],
    "on: 4x16; free #0,#2; 32": [("on: holes of 16, then 32", 6, [("segment_map", 20)])],
    "off: 3 MiB of 20": [("off: 3 of 20", 0, [("segment_alloc", 20)])],
    "capacity 200, off: 100,50*,30; free all; 150": [
        (
            "recovery waits for a busy stream",
            7,
            [*(("segment_free", n) for n in (30, 50, 100)), ("segment_alloc", 150)],
        )
    ],
    "capacity 360, max_split 64: 70,74,78,82; free all; 250": [
        (
            "oversize release, smallest last",
            8,
            [*(("segment_free", n) for n in (82, 78, 74, 70)), ("segment_alloc", 250)],
        )
    ],
    "capacity 200, on: 30,30,30; free 2nd; empty_cache; 60": [
        ("on: empty_cache unmaps whole pages", 0, [("segment_map", 40)]),
        ("on: empty_cache unmaps whole pages", 1, [("segment_map", 20)]),
        ("on: empty_cache unmaps whole pages", 2, [("segment_map", 40)]),
        ("on: empty_cache unmaps whole pages", 4, [("segment_unmap", 20)]),
        ("on: empty_cache unmaps whole pages", 5, [("segment_map", 60)]),
    ],
}
COUNTS = {
    "recovery waits for a busy stream": {"num_alloc_retries": 1, "num_sync_all_streams": 1},
    "oversize release, smallest last": {"num_alloc_retries": 0, "num_sync_all_streams": 0},
    "out of memory keeps a segment in use": {"num_ooms": 1},
}
DEVLOG = {
    "a block is split, and its halves merge again": VECTORS[
        "32; free; 16,16; free first; free second"
    ][1:],
    "order matters without expandable segments": [
        State("off: 8 of 16, then 4 of 32", [["16I"]] * 8 + [["32A"]] * 4, 256),
        State("off: 4 of 32, then 8 of 16", [["16A", "16A"]] * 4, 128),
        State("off: graphs of 8 of 16, then 4 of 32", [["16I"]] * 8 + [["32A"]] * 4, 256),
        State("off: graphs of 4 of 32, then 8 of 16", [["16A", "16A"]] * 4, 128),
    ],
    "one expandable segment for each pool and stream": [
        State("on: 16 on each of two streams", [["16A", "4I"], ["16A", "4I"]], 40)
    ],
    "pages of 20 are mapped as 8 of 16 grow": VECTORS["on: 8x16"],
    "order stops mattering if everything is freed": [
        State("on: 8 of 16, then 4 of 32", [["32A"] * 4 + ["12I"]], 140),
        State("on: graphs of 8 of 16, then 4 of 32", [["32A"] * 4 + ["12I"]], 140),
        State("on: graphs of 4 of 32, then 8 of 16", [["16A"] * 8 + ["12I"]], 140),
    ],
    "live blocks pin holes that expandable segments do not cure": VECTORS[
        "on: 4x16; free #0,#2; 32"
    ],
    "a request of up to 1 MiB shares nothing with larger ones": [
        State(f"{way}: {kind}2, then {what}", segments, reserved)
        for way in ("off", "on")
        for kind in ("", "graphs of ")
        for what, segments, reserved in (
            ("a half", [["20I"], ["0.5A", "1.5I"]], 22),
            ("2", [["2A", "18I"]], 20),
        )
    ],
}


def check(state: State, version: str, prefix: str = "") -> None:
    """The real allocator ended so, and the simulator does."""
    case, answer = golden(version)[prefix + state.scenario]
    assert (case.name, layout(answer)) == (case.name, state.segments)
    assert answer.stats["reserved_bytes.all.current"] == state.reserved * MiB
    assert judge(case, answer, release(version)).differences == []


def plays_in_a_pool(state: State, version: str) -> bool:
    """Whether a vector, measured with 2.15, holds for private pools of a release."""
    rules = release(version)
    name = state.scenario
    return name in IN_A_POOL and (rules.expandable_private_pools or not name.startswith("on"))


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("vector", VECTORS)
def test_golden_vector(vector: str, version: str) -> None:
    for state in VECTORS[vector]:
        check(state, version)
        answer = golden(version)[state.scenario][1]
        counts = COUNTS.get(state.scenario, {})
        assert {name: answer.stats[name] for name in counts} == counts
    for scenario, command, calls in CALLS.get(vector, []):
        assert (command, driver_calls(golden(version)[scenario][1], command)) == (command, calls)


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("vector", VECTORS)
def test_golden_vector_in_a_private_pool(vector: str, version: str) -> None:
    played = [s for s in VECTORS[vector] if plays_in_a_pool(s, version)]
    for state in played:
        check(state, version, "pool, ")
    if not played:
        pytest.skip("private pools do not expand until 2.4, and their memory is not given back")


def test_the_failed_request_is_reported_with_its_size_and_what_is_left() -> None:
    for version in RELEASES:
        answer = golden(version)["out of memory keeps a segment in use"][1]
        last = answer.trace[-1]
        assert (last["action"], last["addr"], last["size"]) == (Action.OOM, 180 * MiB, 199_229_440)


def test_maps_fall_where_the_vector_says() -> None:
    """Offsets in the reservation: a map at 80; an unmap at 40, a map at 100, a block at 90."""
    for version in RELEASES:
        holes = golden(version)["on: holes of 16, then 32"][1]
        first = int(holes.segments["addr"][0])
        mapped = holes.trace[holes.trace["action"] == Action.SEGMENT_MAP]["addr"]
        assert int(mapped[-1]) - first == 80 * MiB
        unmap = golden(version)["on: empty_cache unmaps whole pages"][1]
        first = int(unmap.segments["addr"][0])
        gone = unmap.trace[unmap.trace["action"] == Action.SEGMENT_UNMAP]["addr"]
        again = unmap.trace[unmap.trace["action"] == Action.SEGMENT_MAP]["addr"]
        assert [(int(a) - first) // MiB for a in (gone[0], again[-1])] == [40, 100]
        assert (int(unmap.returned[-1]) - first) // MiB == 90


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("point", DEVLOG)
def test_devlog_demonstration(point: str, version: str) -> None:
    expands = release(version).expandable_private_pools
    for state in DEVLOG[point]:
        is_pool = "graphs" in state.scenario
        if expands or not (is_pool and state.scenario.startswith("on")):
            check(state, version)
        if plays_in_a_pool(state, version):
            check(state, version, "pool, ")


def test_every_scenario_in_a_pool_is_claimed() -> None:
    claimed = {s.scenario for states in (*VECTORS.values(), *DEVLOG.values()) for s in states}
    assert set(IN_A_POOL) <= claimed
    assert {f"pool, {name}" for name in IN_A_POOL} <= set(scenarios())

"""Driver time: every call is counted, every figure has a source, and the sum is worked out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tightfit.policies.catalogue import MECHANISMS
from tightfit.policies.native import replay_native
from tightfit.sim.costs import (
    CALLS,
    KINDS,
    WAIT,
    Cost,
    costs_words,
    driver_seconds,
    read_costs,
    shipped_costs,
)
from tightfit.sim.device import Device
from tightfit.sim.mechanism_replay import replay_mechanism
from tightfit.sim.packing import pack
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.errors import ConfigError
from tightfit.traces.units import MiB

from ..strategies import Script, random_program

pytestmark = pytest.mark.interpreted
RULES = release("2.15")
FREE = {"call_us": 1, "mib_us": 0, "kind": "measured", "source": "a test"}


def test_every_shipped_figure_has_a_source_and_a_kind() -> None:
    costs = shipped_costs()
    assert set(costs) == {*CALLS, WAIT}
    for cost in costs.values():
        assert cost.kind in KINDS and len(cost.source.split()) > 5
        assert cost.call_us > 0
    assert "literature" in costs_words()


def test_seconds_are_calls_and_mib_times_their_costs() -> None:
    costs = {name: Cost(0, 0, "measured", "a test") for name in (*CALLS, WAIT)}
    costs["cudaMalloc"] = Cost(10, 2, "measured", "a test")
    costs[WAIT] = Cost(100, 0, "measured", "a test")
    work = {name: 0 for name in (*CALLS, WAIT)} | {f"{name}_bytes": 0 for name in CALLS}
    work |= {"cudaMalloc": 3, "cudaMalloc_bytes": 50 * MiB, WAIT: 2}
    assert driver_seconds(work, costs) == pytest.approx((3 * 10 + 50 * 2 + 2 * 100) / 1e6)


def test_segments_are_cudamallocs_and_frees_that_wait() -> None:
    script = Script()
    script.free(*script.mallocs(15 * MiB, 1000))
    script.empty_cache()
    work = replay_native(pack(script.program()), Settings(), RULES).work
    assert (work["cudaMalloc"], work["cudaMalloc_bytes"]) == (2, 18 * MiB)
    assert (work["cudaFree"], work["cudaFree_bytes"]) == (2, 18 * MiB)
    assert work[WAIT] == 2 + 1  # one in each cudaFree, one of the cache's own
    assert sum(work[c] for c in CALLS if c.startswith("cuMem")) == 0


def test_expandable_memory_is_created_and_mapped_page_by_page() -> None:
    # 45 MiB: three pages of 20 MiB, created and mapped one by one, made accessible at once
    script = Script()
    script.free(script.malloc(45 * MiB))
    script.empty_cache()
    work = replay_native(pack(script.program()), Settings(expandable_segments=True), RULES).work
    assert (work["cuMemCreate"], work["cuMemMap"], work["cuMemSetAccess"]) == (3, 3, 1)
    assert (work["cuMemUnmap"], work["cuMemRelease"]) == (3, 3)
    assert work["cuMemCreate_bytes"] == work["cuMemRelease_bytes"] == 60 * MiB
    assert work["cudaMalloc"] == work["cudaFree"] == 0


@pytest.mark.parametrize("expandable", [False, True])
def test_bytes_obtained_are_bytes_returned_and_reserved(expandable: bool) -> None:
    for seed in range(4):
        packed = pack(random_program(seed, 300, streams=2, pools=1))
        settings = Settings(expandable_segments=expandable)
        run = replay_native(packed, settings, RULES, Device(600 * MiB), stop_at_oom=False)
        w = run.work
        got = w["cudaMalloc_bytes"] + w["cuMemCreate_bytes"]
        gone = w["cudaFree_bytes"] + w["cuMemRelease_bytes"]
        assert got - gone == run.stats["reserved_bytes.all.current"]


@pytest.mark.parametrize("name", MECHANISMS)
def test_every_mechanism_counts_what_it_obtains(name: str) -> None:
    packed = pack(random_program(7, 300, streams=2))
    run = replay_mechanism(packed, MECHANISMS[name], device=Device(700 * MiB), stop_at_oom=False)
    w = run.work
    got = w["cudaMalloc_bytes"] + w["cuMemCreate_bytes"]
    gone = w["cudaFree_bytes"] + w["cuMemRelease_bytes"]
    assert got - gone == run.stats["reserved_bytes.all.current"]
    assert driver_seconds(w) > 0


def row(**other: object) -> dict[str, object]:
    """A row of a table of costs, with some cells changed."""
    return {"call_us": 1, "mib_us": 0, "kind": "measured", "source": "here, today", **other}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cudaMaloc": {}}, "did you mean 'cudaMalloc'"),
        ({"cudaMalloc": 3}, "found 3, expected an object with call_us, mib_us, kind, source"),
        ({"wait": None}, "expected an object with call_us"),
        ({"wait": {"call_us": 1, "kind": "measured"}}, "found no mib_us, source"),
        ({"wait": {"call_uss": 1}}, "found 'call_uss'"),
        ({"wait": row(call_us="7")}, "found '7', expected microseconds"),
        ({"wait": row(mib_us=float("nan"))}, "found nan, expected microseconds"),
        ({"wait": row(source=" ")}, "expected who says so"),
        (
            {"cudaFree": {"call_us": -1, "mib_us": 0, "kind": "measured", "source": "x"}},
            "0 or more",
        ),
        (
            {"cudaFree": {"call_us": 1, "mib_us": 0, "kind": "guessed", "source": "x"}},
            "kind: found 'guessed'",
        ),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, change: dict, said: str) -> None:
    file = tmp_path / "costs.json"
    table = {k: vars(v) for k, v in shipped_costs().items()}
    file.write_text(json.dumps(table | change))
    with pytest.raises(ConfigError) as error:
        read_costs(file)
    assert said in str(error.value) and "costs.json" in str(error.value)
    for content in ("[", "[" * 100_000):
        file.write_text(content)
        with pytest.raises(ConfigError, match="not JSON"):
            read_costs(file)
    text = json.dumps(table)
    for old, new in (('"wait":', '"cudaMalloc":'), ('"mib_us":', '"call_us":')):
        file.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=f"costs.json: found '{new[1:-2]}' twice"):
            read_costs(file)
    file.write_text(json.dumps({"wait": table["wait"]}))
    with pytest.raises(ConfigError, match="found no row for cudaMalloc"):
        read_costs(file)
    with pytest.raises(ConfigError, match="No such file"):
        read_costs(tmp_path / "none.json")

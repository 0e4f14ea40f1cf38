"""The benchmark's yardstick gives the kernel's answers; its programs are what they claim to be."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightfit.experiments.bench import scaling
from tightfit.experiments.bench.cases import RECORDINGS, RULES, recordings
from tightfit.experiments.bench.command import measure_all
from tightfit.experiments.bench.compiled import can_time, driver_reason, time_compiled
from tightfit.experiments.bench.page import page_of
from tightfit.experiments.bench.set_simulator import CompilerMissing, library, simulate
from tightfit.experiments.bench.targets import expandable_costs, growth
from tightfit.experiments.bench.tiling import repeatable_part, tile
from tightfit.experiments.bench.timing import Speed, make_case, measure
from tightfit.experiments.cli import main
from tightfit.policies.native import replay_native, requests_of
from tightfit.sim.device import Device
from tightfit.sim.packing import pack
from tightfit.sim.release import Release, release
from tightfit.sim.settings import Settings
from tightfit.traces.errors import TraceError
from tightfit.traces.history import lift
from tightfit.traces.load import load
from tightfit.traces.program import Op, Program
from tightfit.traces.synthetic import PATTERNS
from tightfit.traces.units import GiB, KiB, MiB

from .. import strategies as make

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
# The longer recordings add minutes and nothing else.
FILES = [p for p in sorted(RECORDINGS.glob("*.npz")) if p.stat().st_size < 64 * KiB]


def differences(
    program: Program, settings: Settings, rules: Release, device: Device, stop: bool = True
) -> list[str]:
    """Where the C++ simulator and the kernel disagree: addresses, counters, where they ended."""
    packed = pack(program)
    ours = replay_native(packed, settings, rules, device, stop_at_oom=stop, events=True)
    requests = requests_of(program, settings, rules, device)
    theirs = simulate(packed, requests, device, stop_at_oom=stop, addresses=True)
    took = np.flatnonzero(program.op[: theirs.n_events] == Op.MALLOC)
    addr = np.zeros(len(program.request), np.uint64)
    addr[program.arg[took]] = theirs.addresses[took]
    out = [f"{k}: {ours.stats[k]} {v}" for k, v in theirs.stats.items() if ours.stats[k] != v]
    if ours.n_ops != theirs.n_events:
        out.append(f"ended after {ours.n_ops} and {theirs.n_events} ops")
    if not np.array_equal(addr, ours.addr):
        out.append(f"addresses: first at {np.flatnonzero(addr != ours.addr)[0]}")
    return out


@needs_compiler
@pytest.mark.parametrize("expandable", [False, True])
@pytest.mark.parametrize("name", PATTERNS)
def test_the_yardstick_gives_the_kernels_addresses_on_every_pattern(
    name: str, expandable: bool
) -> None:
    program = PATTERNS[name](20_000)
    settings = Settings(expandable_segments=expandable)
    free = replay_native(pack(program), settings, RULES).stats["reserved_bytes.all.peak"]
    for device in (Device(), Device(free // 100 * 97 + 40 * MiB)):
        assert differences(program, settings, RULES, device, stop=False) == []


@needs_compiler
@pytest.mark.parametrize("seed", range(60))
def test_the_yardstick_gives_the_kernels_addresses_on_random_programs(seed: int) -> None:
    rng = random.Random(seed)
    rules = release(rng.choice(make.RELEASES))
    program = make.random_program(
        seed, rng.choice([30, 100, 400]), streams=rng.choice([1, 2, 3]), pools=rng.choice([0, 1, 2])
    )
    settings = Settings(
        expandable_segments=rng.random() < 0.5,
        roundup_divisions=(rng.choice([0, 2, 8]),) * 16,
    )
    device = Device(rng.choice([None, 80 * GiB, rng.randrange(30, 900) * MiB]))
    assert differences(program, settings, rules, device, stop=rng.random() < 0.5) == []


@needs_compiler
def test_a_yardstick_with_other_rules_is_noticed() -> None:
    """The comparison can fail: two releases that break ties otherwise."""
    program = PATTERNS["random"](60_000)
    packed = pack(program)
    ours = replay_native(packed, Settings(), release("2.15"), events=True)
    requests = requests_of(program, Settings(), release("2.12"), Device())
    theirs = simulate(packed, requests, addresses=True)
    took = program.op == Op.MALLOC
    assert (ours.addr[program.arg[took]] != theirs.addresses[took].astype(np.uint64)).any()


@pytest.mark.parametrize("expandable", [False, True])
@pytest.mark.parametrize("name", PATTERNS)
def test_the_timed_allocator_of_pytorch_does_what_the_kernel_does(
    name: str, expandable: bool
) -> None:
    if driver_reason():
        pytest.skip(driver_reason())
    packed = pack(PATTERNS[name](20_000))
    settings = Settings(expandable_segments=expandable)
    ours = replay_native(packed, settings, RULES, track=True).stats
    real = time_compiled(packed, settings)
    assert real.nanoseconds > 0
    assert real.stats.items() <= ours.items()


def test_only_mallocs_and_frees_in_default_pools_are_timed() -> None:
    assert can_time(PATTERNS["serve"](2_000))
    plain, pools, empties = make.Script(), make.Script(pools=1), make.Script()
    plain.free(plain.malloc(512))
    assert can_time(plain.program())
    pools.malloc(512, pool=1)
    assert not can_time(pools.program())
    empties.empty_cache()
    assert not can_time(empties.program())
    assert not can_time(make.random_program(1, 50, start_ops=50))


def test_without_a_compiler_the_column_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    library.cache_clear()
    with pytest.raises(CompilerMissing, match="g\\+\\+"):
        library()
    case = make_case("serve", PATTERNS["serve"](2000), Settings(), RULES)
    speed = measure(case, RULES, runs=1, slow=False)
    assert speed.cpp_set_ns is None and speed.ratio is None
    assert speed.tightfit_ns > 0


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_a_valid_program_and_always_the_same(name: str) -> None:
    program, again = PATTERNS[name](40_000), PATTERNS[name](40_000)
    assert np.array_equal(program.arg, again.arg)
    assert np.array_equal(program.req_size, again.req_size)
    assert program.n_ops >= 40_000
    assert_valid(program)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_tiled_recording_repeats_what_can_be_repeated(path: object) -> None:
    recording = load(path)  # type: ignore[arg-type]
    program = lift(recording, min(recording.devices))
    i, j = repeatable_part(program)
    tiled = tile(program, 3 * program.n_ops)
    assert tiled.n_ops >= 3 * program.n_ops
    assert_valid(tiled)
    assert np.array_equal(tiled.op[:j], program.op[:j])
    assert np.array_equal(tiled.arg[:j], program.arg[:j])
    part = requests_of_ops(tiled, i, j)
    for start in range(j, tiled.n_ops, j - i):
        assert np.array_equal(tiled.op[start : start + j - i], program.op[i:j])
        assert np.array_equal(requests_of_ops(tiled, start, start + j - i), part)


def test_tiling_follows_allocations_across_the_seam() -> None:
    script = make.Script()
    a = script.malloc(512)
    for _ in range(2):
        b = script.malloc(512)
        script.free(a)
        a = b
    tiled = tile(script.program(), 9)
    # whatever is freed is the older one of two
    assert tiled.op.tolist() == [0, 0, 1, 0, 1, 0, 1, 0, 1]
    assert tiled.arg.tolist() == [0, 1, 0, 2, 1, 3, 2, 4, 3]


def test_what_only_grows_cannot_be_tiled() -> None:
    script = make.Script()
    script.mallocs(512, 1024, 2048)
    with pytest.raises(TraceError, match="what it began with"):
        tile(script.program(), 10)


def assert_valid(program: Program) -> None:
    """Allocations are numbered as they come, and freed once, after they came."""
    born = 0
    for op, arg in zip(program.op.tolist(), program.arg.tolist(), strict=True):
        if op == Op.MALLOC:
            assert arg == born
            born += 1
        elif op in (Op.FREE, Op.FREE_LATER):
            assert arg < born
    ends = program.arg[np.isin(program.op, (Op.FREE, Op.FREE_LATER))]
    assert len(np.unique(ends)) == len(ends)
    assert len(program.request) == born


def requests_of_ops(program: Program, start: int, end: int) -> np.ndarray:
    """Request of each op that concerns an allocation."""
    op, arg = program.op[start:end], program.arg[start:end]
    return program.request[arg[op <= Op.COMPLETE]]


@pytest.mark.slow
def test_the_report_has_every_figure_and_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    # Processes whose start is timed compile nothing here, and replay what is short without that.
    # Not by this process's environment: Numba would notice, and stop compiling in it.
    run = subprocess.run

    def interpreted(words: list[str], **more: Any) -> Any:
        env = (more.pop("env", None) or os.environ) | {"NUMBA_DISABLE_JIT": "1"}
        return run(words, env=env, **more)

    monkeypatch.setattr(subprocess, "run", interpreted)
    monkeypatch.setattr(scaling, "COMMAND_TRACE", "oom.default.npz")
    report = measure_all(2000, quick=True)
    assert set(report["patterns"]) == {n + x for n in PATTERNS for x in ("", "_expandable")}
    assert set(report["recorded"]) == {path.stem for path in recordings(quick=True)}
    assert report["compile_s"] == report["first_replay_s"]["cold"] > 0
    assert min(report["first_replay_s"]["warm"], *report["command_s"].values()) > 0
    for key, count in (("live_blocks", "live"), ("free_blocks", "free"), ("length", "events")):
        counts = [row[count] for row in report[key]]
        assert len(counts) > 1 and counts == sorted(set(counts)), key
    page = page_of(report)
    assert all(f"| {name} |" in page for name in report["patterns"])
    assert "Expandable segments cost most on" in page
    assert ("logarithmic steps |" in page) == (shutil.which("g++") is not None)


def test_what_expandable_segments_cost_is_told_of_each_simulator() -> None:
    def speed(ours: float, theirs: float | None) -> Speed:
        return Speed(1, ours, ours, theirs, None, None, 0)

    patterns = {
        "a": speed(10, 100), "a_expandable": speed(15, 120),
        "b": speed(10, None), "b_expandable": speed(8, 90), "c": speed(1, 1),
    }  # fmt: skip
    assert expandable_costs(patterns, "tightfit_ns") == {"a": 1.5, "b": 0.8}
    assert expandable_costs(patterns, "cpp_set_ns") == {"a": 1.2}
    assert expandable_costs(patterns, "pytorch_ns") == {}


def test_growth_is_of_the_last_row_over_the_first() -> None:
    rows = [{"ours": x, "theirs": y} for x, y in ((8.0, None), (9.0, 60.0), (20.0, 90.0))]
    assert growth(rows, "ours") == 2.5
    assert growth(rows, "theirs") is None


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--quick", "--write", str(tmp_path / "none" / "page.md")]) == 2
    assert "there is no folder" in capsys.readouterr().err

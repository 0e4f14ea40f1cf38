"""A long trace gives every answer that the same program in memory gives."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tightfit.experiments.bench.tiling import tile
from tightfit.experiments.long_made import write_pattern, write_program
from tightfit.policies.catalogue import POLICIES
from tightfit.policies.live_bytes import peak_live_bytes
from tightfit.policies.native import replay_native
from tightfit.policies.playing import play_policy
from tightfit.sim.device import Device
from tightfit.sim.packing import Packed, pack, packed_long
from tightfit.sim.period import find_period
from tightfit.sim.release import Release, release
from tightfit.sim.settings import Settings
from tightfit.traces.history import lift
from tightfit.traces.load import load
from tightfit.traces.long_read import open_long
from tightfit.traces.program import Program
from tightfit.traces.synthetic import PATTERNS
from tightfit.traces.units import MiB

from .. import strategies as make
from .agreement import differences
from .test_steady import eager, repeated  # noqa: F401 (a fixture)

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"


def long_of(program: Program, folder: Path, keep_start: bool, piece: int) -> Packed:
    path = folder / "some.events"
    write_program(path, program, True, {}, {}, piece)
    return packed_long(open_long(path), keep_start)


def assert_same(
    program: Program,
    folder: Path,
    settings: Settings,
    rules: Release,
    device: Device,
    piece: int,
    keep_start: bool = True,
    **options: Any,
) -> None:
    whole, long = pack(program, keep_start), long_of(program, folder, keep_start, piece)
    for track in (True, False):
        asked: dict[str, Any] = {"track": track, "layout": True, **options}
        a = replay_native(long, settings, rules, device, **asked)
        b = replay_native(whole, settings, rules, device, **asked)
        b.addr = a.addr  # a long trace has no room for them
        assert differences(a, b) == []
        assert a.work == b.work
        if b.first_oom_op >= 0:
            assert long.program.entry_of(b.first_oom_op) == program.entry_of(b.first_oom_op)
    assert peak_live_bytes(long) == peak_live_bytes(whole)


@given(data=st.data())
@hypothesis_settings(max_examples=150, deadline=None)
def test_random_programs_cut_anywhere(data: st.DataObject, tmp_path_factory: Any) -> None:
    rules = data.draw(make.releases())
    program = data.draw(make.programs())
    assert_same(
        program,
        tmp_path_factory.mktemp("long"),
        data.draw(make.settings(rules)),
        rules,
        data.draw(make.devices()),
        data.draw(st.integers(1, 40)),
        keep_start=data.draw(st.booleans()),
        stop_at_oom=data.draw(st.booleans()),
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.usefixtures("eager")
def test_repetitions_are_skipped_in_a_long_trace_too(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    program = repeated(seed, 30)
    settings = Settings(expandable_segments=rng.random() < 0.5)
    device = Device(rng.choice([None, rng.randrange(100, 1500) * MiB]))
    assert_same(program, tmp_path, settings, release("2.15"), device, rng.randint(1, 500))


@pytest.mark.parametrize("name", ["fsdp_rank0of4", "serve_growing_kv.default", "oom.default"])
def test_shipped_recordings(name: str, tmp_path: Path) -> None:
    recording = load(DATA / f"{name}.npz")
    program = lift(recording, min(recording.devices))
    peak = replay_native(pack(program), Settings(), release("2.15")).stats[
        "reserved_bytes.all.peak"
    ]
    for device in (Device(), Device(peak * 9 // 10)):
        for settings in (Settings(), Settings(expandable_segments=True)):
            assert_same(program, tmp_path, settings, release("2.15"), device, 1000)


def test_a_state_that_grows_at_the_edge_of_a_piece(tmp_path: Path) -> None:
    """More blocks than the state has room for at first, wherever the pieces end."""
    script = make.Script()
    held = script.mallocs(*(512 * (1 + k % 7) for k in range(12_000)))
    script.free(*held[::2])
    for piece in (64, 4096, 4097):
        assert_same(script.program(), tmp_path, Settings(), release("2.15"), Device(), piece)


@pytest.mark.parametrize("name", ["train", "train_var", "serve"])
def test_the_period_of_a_long_trace_is_that_of_its_events(name: str, tmp_path: Path) -> None:
    program = PATTERNS[name](150_000)
    long = long_of(program, tmp_path, True, 5000)
    assert long.period == find_period(pack(program).events)
    assert (long.period is not None) == (name == "train")


def test_every_policy_that_is_told_nothing_gives_the_same(tmp_path: Path) -> None:
    recording = load(DATA / "fsdp_rank0of4.npz")
    program = lift(recording, min(recording.devices))
    whole, long = pack(program, False), long_of(program, tmp_path, False, 700)
    rules = release("2.15")
    for name in ("best_fit", "bfc", "buddy", "tlsf", "lifetime_classes"):
        policy = POLICIES[name]
        if policy.honours.knows:
            continue
        for device in (Device(), Device(whole.program.req_size.max() * 4 // MiB * MiB)):
            a = play_policy(long, policy, None, device, rules)
            b = play_policy(whole, policy, None, device, rules)
            assert (a.stats, a.work, a.n_ops) == (b.stats, b.work, b.n_ops)
            assert (a.first_oom_op, a.first_oom_bytes) == (b.first_oom_op, b.first_oom_bytes)


def test_ops_that_are_not_in_memory_are_never_packed(tmp_path: Path) -> None:
    """Compiled code checks no index: it would read what lies behind the arrays."""
    long = long_of(make.random_program(1, 50), tmp_path, True, 10)
    with pytest.raises(ValueError, match="no ops in memory"):
        pack(long.program)


def test_events_of_a_long_trace_are_refused(tmp_path: Path) -> None:
    long = long_of(make.random_program(1, 50), tmp_path, True, 10)
    with pytest.raises(ValueError, match="long trace"):
        replay_native(long, Settings(), release("2.15"), events=True)


@pytest.mark.parametrize("name", ["train_var", "serve"])
def test_memory_does_not_grow_with_the_trace(name: str, tmp_path: Path) -> None:
    """A process that replays eight times as many events needs hardly more memory."""
    import subprocess
    import sys

    look = (
        "import sys, resource\n"
        "from tightfit.experiments.subject import load_subjects\n"
        "from tightfit.experiments.replay import replay_subject\n"
        "from tightfit.sim.device import Device\n"
        "from tightfit.sim.release import release\n"
        "from pathlib import Path\n"
        "subject, = load_subjects(Path(sys.argv[1]))\n"
        "replay_subject(subject, None, release('2.15'), Device())\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for n in (2_000_000, 16_000_000):
        path = tmp_path / f"{n}.events"
        write_pattern(path, name, n, 1, lambda _: None)
        done = subprocess.run(
            [sys.executable, "-c", look, path], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) * 1024)
        path.unlink()
    assert peaks[1] - peaks[0] < 32 * MiB, peaks  # 112 MiB more of events


def test_a_tiled_recording_in_small_pieces(tmp_path: Path) -> None:
    recording = load(DATA / "fsdp_rank0of4.npz")
    program = lift(recording, min(recording.devices))
    program = tile(program, 8 * program.n_ops)
    assert_same(program, tmp_path, Settings(), release("2.15"), Device(), 777)

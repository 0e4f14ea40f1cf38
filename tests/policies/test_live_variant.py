"""PyTorch's allocator with other decisions, called through C functions: as in the simulation."""

from __future__ import annotations

import ctypes
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightfit.traces.jit import JIT

if not JIT:
    pytest.skip("live policies are C functions, compiled code", allow_module_level=True)

from tightfit.experiments.policy_template import write_template
from tightfit.policies.catalogue import VARIANTS
from tightfit.policies.conformance import Trial
from tightfit.policies.live import setting_of
from tightfit.policies.live_conformance import LIVE_CLAIMS, as_asked_live, difference, hammer
from tightfit.policies.live_device import CalledLive
from tightfit.policies.live_setting import Setting
from tightfit.policies.live_variant import LiveVariant
from tightfit.policies.named import native_variant
from tightfit.policies.user_file import load_user_policy
from tightfit.policies.variant import Variant
from tightfit.sim.live_hooks import malloc_of
from tightfit.sim.live_plan import MOST_BINS
from tightfit.sim.live_state import MOST_CLASSES, N_BINS, N_CLASSES
from tightfit.sim.packing import pack
from tightfit.sim.state import DRIVER_USED, NOW, SPARES, SPARES_NEEDED
from tightfit.traces.program import Op, Program
from tightfit.traces.script import Script

from ..strategies import random_program
from .test_live import STREAM, Caller, GiB, MiB

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


@pytest.fixture
def my_fit(tmp_path: Path) -> Variant:
    """What `tightfit policy new my_fit.py` writes."""
    name, _ = write_template(tmp_path / "my_fit.py", "hooks", force=False)
    policy = load_user_policy(f"{tmp_path / 'my_fit.py'}:{name}")
    assert isinstance(policy, Variant)
    return policy


def spare_large() -> Variant:
    policy = load_user_policy(str(EXAMPLES / "spare_large.py"))
    assert isinstance(policy, Variant)
    return policy


def assert_as_simulated(policy: Variant, **values: int) -> None:
    for seed, capacity in ((1, None), (2, 400 * MiB), (3, 700 * MiB), (4, None)):
        packed = pack(as_asked_live(random_program(seed, 3000, streams=3, pools=1)))
        assert difference(packed, Setting(policy, values, capacity)) == ""


def test_the_template_serves_as_simulated(my_fit: Variant) -> None:
    assert_as_simulated(my_fit)
    assert_as_simulated(my_fit, least=64 * MiB)


def test_the_example_serves_as_simulated() -> None:
    assert_as_simulated(spare_large())
    assert_as_simulated(spare_large(), least=32 * MiB, share=2)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_of_the_catalogue_serves_as_simulated(name: str) -> None:
    for values in Trial(VARIANTS[name]).ends():
        assert_as_simulated(VARIANTS[name], **values)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "expandable_segments:True",
        "expandable_segments:True,large_segment_size_mb:64",
        "max_split_size_mb:32",
        "roundup_power2_divisions:4",
        "garbage_collection_threshold:0.5,per_process_memory_fraction:0.9",
        "throw_on_cudamalloc_oom:True,per_process_memory_fraction:0.7",
    ],
)
def test_pytorchs_own_allocator_serves_as_simulated_under_any_line(line: str) -> None:
    assert_as_simulated(native_variant(line))


def odd_rounds(sizes: np.ndarray, values: Any) -> np.ndarray:
    return sizes + 7 * (sizes % 13)


def test_blocks_need_not_be_multiples_of_anything() -> None:
    assert_as_simulated(Variant("odd", "an example of no use", rounds=odd_rounds, alignment=1))


def _by_number(s: Any, q: Any, rest: Any) -> Any:
    """Split on every third event."""
    return rest > 0 and s.g[NOW] % 3 == 0


def test_events_are_numbered_as_simulated() -> None:
    """Of a program that does nothing but what a live allocator sees."""
    program = as_asked_live(random_program(5, 3000, streams=1, pools=0))
    seen = (program.op != Op.CAPTURE) & (program.op != Op.TRY)
    program.op, program.arg, program.entry = (
        column[seen] for column in (program.op, program.arg, program.entry)
    )
    by_number = Variant("by_number", "an example of no use", splits=_by_number)
    assert difference(pack(program), Setting(by_number, {}, None)) == ""


def _never(s: Any, q: Any, rest: Any) -> Any:
    return rest < 0


def _always(s: Any, q: Any, rest: Any) -> Any:
    return rest > 0


def test_variants_of_one_file_are_not_taken_for_each_other() -> None:
    packed = pack(as_asked_live(random_program(1, 500, streams=1, pools=0)))
    for name, splits in (("never", _never), ("always", _always)):
        policy = Variant(name, "an example of no use", splits=splits)
        assert difference(packed, Setting(policy, {}, None)) == ""


def test_a_run_that_differs_from_the_simulation_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = malloc_of(Variant("none", "never splits a block", splits=_never))
    packed = pack(as_asked_live(random_program(1, 500, streams=1, pools=0)))
    one = native_variant("")
    monkeypatch.setattr("tightfit.policies.live_variant._mallocs", {one.key: other})
    assert "simulated" in difference(packed, Setting(one, {}, None))


def growing_program(n: int, held: int, streams: int) -> Program:
    """Thousands of sizes that come one after another, on streams that begin late."""
    rng = random.Random(n)
    script = Script(streams)
    live: list[int] = []
    for i in range(n):
        if len(live) >= held:
            script.free(live.pop(rng.randrange(len(live))))
        stream = rng.randrange(1 + i * streams // n)
        live.append(script.malloc(int(2 ** rng.uniform(0, 27)), stream))
        if i % 700 == 699:
            script.empty_cache()
    return script.program()


@pytest.mark.parametrize(
    ("line", "capacity"), [("", None), ("", 2 * GiB), ("expandable_segments:True", None)]
)
def test_sizes_and_streams_that_appear_late_are_served_as_if_they_had_been_known(
    line: str, capacity: int | None
) -> None:
    program = growing_program(8000, 400, 6)
    assert len(np.unique(program.req_size)) > 5000
    assert difference(pack(program), Setting(native_variant(line), {}, capacity)) == ""


def test_a_full_table_of_requests_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    describe = LiveVariant.describe

    def begin_all_but_full(core: LiveVariant, word: np.ndarray, at: int) -> None:
        describe(core, word, at)
        word[N_CLASSES] = MOST_CLASSES - 500  # as a quarter of a million sizes would leave it

    monkeypatch.setattr(LiveVariant, "describe", begin_all_but_full)
    program = growing_program(2000, 50, 2)
    assert len(program.req_size) > 1000
    assert difference(pack(program), Setting(native_variant(""), {}, None)) == ""


def test_threads_find_their_memory_as_they_left_it(my_fit: Variant) -> None:
    for policy in (my_fit, spare_large(), native_variant("expandable_segments:True")):
        LIVE_CLAIMS[1].try_on(Trial(policy, 60_000))


def test_a_thread_with_the_interpreters_lock_waits_for_nobody_who_wants_it() -> None:
    """New sizes on all threads at once, one of which keeps the lock while it is in the C code."""
    with called(native_variant("")) as live, ThreadPoolExecutor(3) as pool:
        jobs = [
            pool.submit(hammer, live.alloc, live.free, live.live.device, STREAM, n + 1, 20_000)
            for n in range(3)
        ]
        takes = (ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p)
        alloc = ctypes.PYFUNCTYPE(ctypes.c_void_p, *takes)(live.alloc)
        free = ctypes.PYFUNCTYPE(None, ctypes.c_void_p, *takes)(live.free)
        for k in range(1, 5000):
            free(alloc(700 * k, live.live.device, 0), 700 * k, live.live.device, 0)
        assert [job.result(60) for job in jobs] == [(0, 0)] * 3
        assert live.live.stats()["live_blocks"] == 0


def called(policy: Variant, capacity: int | None = None) -> CalledLive:
    return CalledLive(Setting(policy, {}, capacity))


def test_out_of_memory_is_null_after_cached_segments_were_returned(my_fit: Variant) -> None:
    with called(my_fit, 100 * MiB) as live:
        c = Caller(live)
        c.free(c.alloc(60 * MiB))
        held = c.alloc(90 * MiB)  # the 60 MiB that are cached must go first
        assert held is not None
        assert (c.stat("num_alloc_retries"), c.stat("num_ooms")) == (1, 0)
        assert c.alloc(60 * MiB) is None
        c.free(held)
        assert c.alloc(95 * MiB) is not None
        assert (c.stat("num_ooms"), c.stat("live_blocks")) == (1, 1)
        assert c.stat("mapped_bytes.current") <= 100 * MiB


def test_a_stream_has_its_own_blocks_and_waits_for_none() -> None:
    with called(native_variant("")) as live:
        c = Caller(live)
        first = c.alloc(MiB)
        c.free(first)
        other = c.alloc(MiB, STREAM)
        assert other != first and c.alloc(MiB) == first
        assert (c.stat("stream_waits"), c.stat("streams")) == (0, 2)


def test_a_block_that_another_stream_used_is_freed_after_a_wait() -> None:
    with called(native_variant("")) as live:
        c = Caller(live)
        held = c.alloc(MiB)
        c.record_stream(held, STREAM)
        c.free(held)
        assert c.stat("num_sync_all_streams") == 1
        assert c.alloc(MiB) == held


@pytest.mark.parametrize("line", ["", "expandable_segments:True"])
def test_no_more_is_mapped_than_the_policy_holds_of_its_driver(line: str) -> None:
    rng = random.Random(6)
    with called(native_variant(line), 150 * MiB) as live:
        c = Caller(live)
        held: list[int] = []
        for step in range(1500):
            if held and rng.random() < 0.48:
                c.free(held.pop(rng.randrange(len(held))))
            else:
                address = c.alloc(int(2 ** rng.uniform(6, 25)), rng.randrange(2))
                if address is not None:
                    held.append(address)
            if step % 400 == 399:
                c.empty_cache()
            assert c.stat("mapped_bytes.current") <= c.live.counters[DRIVER_USED] <= 150 * MiB
        assert c.stat("num_ooms") > 0


def test_full_tables_refuse_and_do_not_crash() -> None:
    with called(native_variant("")) as live:
        c = Caller(live)
        held = c.alloc(1000)
        spares = int(c.live.counters[SPARES])
        c.live.counters[SPARES] = c.live.counters[SPARES_NEEDED]  # as a million blocks would
        assert c.alloc(1000) is None
        c.live.counters[SPARES] = spares
        assert c.stat("refused_blocks") == 1
        c.free(held)
        assert c.alloc(1000) == held
        served = [c.alloc(512, 16 + k) for k in range(260)]
        assert sum(address is None for address in served) == c.stat("refused_streams") == 5


def test_sizes_beyond_the_most_are_refused() -> None:
    with called(native_variant("")) as live:
        c = Caller(live)
        held = c.alloc(1000)
        live.live.fields["word"][N_BINS] = MOST_BINS - 10
        assert c.alloc(5 * MiB) is None  # the first large one: its lane has no bins yet
        served = [c.alloc(512 * k) for k in range(1, 120)]
        assert sum(address is None for address in served) > 0
        assert c.stat("refused_sizes") == 1 + sum(address is None for address in served)
        for address in (held, *served):
            c.free(address)
        c.empty_cache()
        assert c.stat("reserved_bytes.all.current") == c.stat("unknown_frees") == 0


def test_a_rounding_that_fails_is_an_end_of_memory_and_said(capfd: Any) -> None:
    def rounds(sizes: np.ndarray, values: Any) -> np.ndarray:
        if sizes[0] == 3 * MiB:
            raise ValueError("no such size")
        return sizes

    with called(Variant("picky", "an example of no use", rounds=rounds, alignment=1)) as live:
        c = Caller(live)
        assert c.alloc(3 * MiB) is None
        assert c.stat("refused_sizes") == 1
        assert c.alloc(4 * MiB) is not None
    said = capfd.readouterr().err
    assert said.startswith("tightfit: 3,145,728 bytes: ") and "no such size" in said


def test_ctrl_c_while_a_size_is_made_known_comes_after_the_call(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    served: list[int | None] = []
    # A test run that was started in the background has it switched off.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with called(native_variant("")) as live, pytest.raises(KeyboardInterrupt):
        row, pressed = LiveVariant._row, iter([True])

        def interrupted(core: LiveVariant, size: int) -> tuple[int, ...]:
            if next(pressed, False):
                raise KeyboardInterrupt
            return row(core, size)

        monkeypatch.setattr(LiveVariant, "_row", interrupted)
        served.append(Caller(live).alloc(5 * MiB))
        time.sleep(20)
    assert served[0]


def test_peaks_begin_again_when_asked() -> None:
    with called(native_variant("")) as live:
        c = Caller(live)
        c.free(c.alloc(50 * MiB))
        held = c.alloc(3 * MiB)
        c.live.reset_peaks()
        assert c.stat("allocated_bytes.all.peak") == c.stat("allocated_bytes.large_pool.peak")
        assert c.stat("allocated_bytes.all.peak") == c.stat("allocated_bytes.all.current")
        assert c.stat("reserved_bytes.all.peak") == 50 * MiB  # still held
        assert c.stat("active.all.peak") == 1
        c.free(held)


def test_a_settings_line_and_parameters_are_read(tmp_path: Path) -> None:
    native = setting_of("pytorch:expandable_segments:True,roundup_power2_divisions:4", 5)
    assert isinstance(native.policy, Variant) and native.capacity_bytes == 5
    assert native.policy.line == "expandable_segments:True,roundup_power2_divisions:4"
    named = setting_of("expandable").policy
    assert isinstance(named, Variant) and named.line == "expandable_segments:True"
    mine = setting_of(f"{EXAMPLES / 'spare_large.py'}:SpareLarge:share=16")
    assert mine.policy.name == "spare_large" and mine.values["share"] == 16

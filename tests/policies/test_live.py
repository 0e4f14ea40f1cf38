"""Policies called through C functions: the simulation's addresses, and memory that is theirs."""

from __future__ import annotations

import ctypes
import random
from typing import Any

import pytest

from tightfit.traces.jit import JIT

if not JIT:
    pytest.skip("live policies are C functions, compiled code", allow_module_level=True)

from tightfit.policies.catalogue import MECHANISMS, POLICIES
from tightfit.policies.conformance import Broken, Trial
from tightfit.policies.live import install, setting_of
from tightfit.policies.live_conformance import LIVE_CLAIMS, as_asked_live, difference
from tightfit.policies.live_device import CalledLive, the_root
from tightfit.policies.live_mechanism import calls_of
from tightfit.policies.live_region import CudaRegion, StandInRegion
from tightfit.policies.live_setting import Setting
from tightfit.policies.runs_live import live_fault, live_names
from tightfit.sim.ground import new_block
from tightfit.sim.ground_driver import driver_malloc
from tightfit.sim.mechanism import Mechanism
from tightfit.sim.packing import pack
from tightfit.sim.state import DRIVER_USED, SPARES, SPARES_NEEDED
from tightfit.traces.errors import ConfigError, PolicyError

from ..strategies import random_program

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30
STREAM = 0x1234


class Caller:
    """A live policy as a C program sees it."""

    def __init__(self, called: CalledLive) -> None:
        self.live, self.device = called.live, called.live.device
        takes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p)
        self._alloc = ctypes.CFUNCTYPE(ctypes.c_void_p, *takes[1:])(called.alloc)
        self._free = ctypes.CFUNCTYPE(None, *takes)(called.free)
        self.empty_cache = ctypes.CFUNCTYPE(None)(called.empty_cache)
        self.record_stream = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(
            the_root().functions["record_stream"]
        )

    def alloc(self, size: int, stream: int = 0) -> int | None:
        return self._alloc(size, self.device, stream)

    def free(self, address: int | None, size: int = 1, stream: int = 0) -> None:
        self._free(address, size, self.device, stream)

    def stat(self, name: str) -> int:
        return self.live.stats()[name]


def setting(name: str, capacity: int | None = None, **values: int) -> Setting:
    return Setting(POLICIES[name], values, capacity)


@pytest.mark.parametrize("name", live_names())
def test_every_address_and_statistic_is_the_simulations(name: str) -> None:
    for seed, capacity in ((1, None), (2, 400 * MiB)):
        packed = pack(as_asked_live(random_program(seed, 3000, streams=1, pools=0)))
        assert difference(packed, setting(name, capacity)) == ""


@pytest.mark.parametrize("name", ["cupy_pool", "arena"])
def test_streams_that_are_kept_apart_are_so_as_simulated(name: str) -> None:
    program = random_program(4, 3000, streams=4, pools=0)
    # How long other streams use a block is not known live.
    assert difference(pack(as_asked_live(program)), setting(name)) == ""


def test_a_run_that_differs_from_the_simulation_is_noticed() -> None:
    packed = pack(as_asked_live(random_program(1, 500, streams=1, pools=0)))
    one, calls = setting("best_fit"), calls_of(MECHANISMS["best_fit"])
    kept = calls["allocate"]
    calls["allocate"] = calls_of(MECHANISMS["worst_fit"])["allocate"]
    try:
        assert "simulated at" in difference(packed, one)
    finally:
        calls["allocate"] = kept
    assert difference(packed, one) == ""


def test_threads_find_their_memory_as_they_left_it() -> None:
    for name in ("best_fit", "cupy_pool"):
        for claim in LIVE_CLAIMS[1:]:
            claim.try_on(Trial(POLICIES[name], 200_000))


def _twice(m: Any, size: Any, lane: Any) -> Any:
    """Blocks of any size, 8 KiB apart."""
    b = new_block(m)
    if m.own[0] == 0:
        m.own[0] = driver_malloc(m, 64 * MiB)
    m.addr[b] = m.own[0] + m.own[1]
    m.size[b] = size
    m.own[1] = (m.own[1] + 8 * KiB) % (32 * MiB)
    return b


def _forget(m: Any, b: Any) -> None:
    pass


TWICE = Mechanism("twice", "nobody would publish this one", _twice, _forget, own=lambda v, n: 2)


def test_memory_that_is_handed_out_twice_is_noticed() -> None:
    with pytest.raises(Broken, match="words were changed by others"):
        LIVE_CLAIMS[1].try_on(Trial(TWICE, 40_000))


def test_a_block_that_goes_to_another_stream_waits_for_the_device() -> None:
    with CalledLive(setting("best_fit")) as called:
        c = Caller(called)
        c.free(c.alloc(MiB))
        again = c.alloc(MiB)  # the same stream: its work comes one after the other
        assert c.stat("stream_waits") == 0
        c.free(again)
        assert c.alloc(MiB, STREAM) == again
        assert c.stat("stream_waits") == 1
        c.alloc(MiB, STREAM)
        assert c.stat("stream_waits") == 1


def test_a_block_that_another_stream_used_is_freed_after_a_wait() -> None:
    with CalledLive(setting("cupy_pool")) as called:
        c = Caller(called)
        own, shared = c.alloc(MiB, STREAM), c.alloc(MiB, STREAM)
        c.record_stream(own, STREAM)
        c.record_stream(shared, 0)
        c.record_stream(shared, STREAM)
        c.record_stream(4096, 0)
        c.free(own, stream=STREAM)
        assert c.stat("num_sync_all_streams") == 0
        c.free(shared, stream=STREAM)
        assert c.stat("num_sync_all_streams") == 1


def test_streams_kept_apart_wait_for_nothing() -> None:
    with CalledLive(setting("cupy_pool")) as called:
        c = Caller(called)
        for _ in range(5):
            for stream in (0, STREAM):
                c.free(c.alloc(3 * MiB, stream), stream=stream)
        assert c.stat("stream_waits") == 0
        assert c.stat("streams") == 2


def test_what_is_returned_is_unmapped_and_comes_back_empty() -> None:
    with CalledLive(setting("best_fit")) as called:
        c = Caller(called)
        first = c.alloc(3 * MiB)
        assert first is not None
        ctypes.memset(first, 7, 3 * MiB)
        c.free(first)
        assert c.stat("mapped_bytes.current") == 4 * MiB
        c.empty_cache()
        assert c.stat("mapped_bytes.current") == c.stat("reserved_bytes.all.current") == 0
        again = c.alloc(3 * MiB)
        assert again is not None and again == first
        assert ctypes.string_at(again, 3 * MiB).count(0) == 3 * MiB


@pytest.mark.parametrize("name", ["size_classes", "bfc", "arena", "tlsf", "cuda_malloc_async"])
def test_no_more_is_mapped_than_the_policy_holds_of_its_driver(name: str) -> None:
    rng = random.Random(6)
    with CalledLive(setting(name, 150 * MiB)) as called:
        c = Caller(called)
        held: list[int] = []
        for step in range(1500):
            if held and rng.random() < 0.48:
                c.free(held.pop(rng.randrange(len(held))))
            else:
                address = c.alloc(int(2 ** rng.uniform(6, 25)))
                if address is not None:
                    held.append(address)
                    ctypes.memset(address, 1, 64)
            if step % 400 == 399:
                c.empty_cache()
            assert c.stat("mapped_bytes.current") <= c.live.counters[DRIVER_USED] <= 150 * MiB
        assert c.stat("num_ooms") > 0


def test_a_request_beyond_the_capacity_gets_null_and_is_counted() -> None:
    with CalledLive(setting("best_fit", 100 * MiB)) as called:
        c = Caller(called)
        held = c.alloc(60 * MiB)
        assert c.alloc(60 * MiB) is None
        c.free(held)
        assert c.alloc(90 * MiB) is not None
        assert (c.stat("num_ooms"), c.stat("live_blocks")) == (1, 1)


def test_full_tables_refuse_and_do_not_crash() -> None:
    with CalledLive(setting("best_fit")) as called:
        c = Caller(called)
        held = c.alloc(1000)
        spares = int(c.live.counters[SPARES])
        c.live.counters[SPARES] = c.live.counters[SPARES_NEEDED]  # as a million blocks would
        assert c.alloc(1000) is None
        c.live.counters[SPARES] = spares
        assert c.stat("refused_blocks") == 1
        c.free(held)
        assert c.alloc(1000) == held


def test_streams_beyond_the_most_are_refused() -> None:
    with CalledLive(setting("cupy_pool")) as called:
        c = Caller(called)
        served = [c.alloc(512, 16 + k) for k in range(260)]
        assert sum(address is None for address in served) == 4
        assert c.stat("refused_streams") == 4


def test_the_end_of_the_addresses_is_an_end_of_memory() -> None:
    with CalledLive(setting("cupy_pool")) as called:
        c = Caller(called)
        small = StandInRegion(64 * MiB)
        small.describe(called.live.fields)
        for _ in range(8):
            c.free(c.alloc(8 * MiB))
            c.empty_cache()
        assert c.alloc(8 * MiB) is None
        assert c.stat("refused_addresses") > 0
        assert c.stat("mapped_bytes.current") == 0


def test_what_is_not_ours_is_not_freed() -> None:
    with CalledLive(setting("best_fit")) as called:
        c = Caller(called)
        held = c.alloc(1000)
        assert held is not None
        for address in (held + 512, 4096, held):
            c.free(address)
        c.free(held)
        c.free(None)
        assert c.stat("unknown_frees") == 3
        assert c.stat("allocated_bytes.all.current") == 0


def test_peaks_begin_again_when_asked() -> None:
    with CalledLive(setting("best_fit")) as called:
        c = Caller(called)
        c.free(c.alloc(50 * MiB))
        held = c.alloc(MiB)
        c.live.reset_peaks()
        assert c.stat("allocated_bytes.all.peak") == MiB
        assert c.stat("reserved_bytes.all.peak") == 50 * MiB  # still held
        c.free(held)


def test_a_device_has_one_policy() -> None:
    with (
        CalledLive(setting("best_fit")),
        pytest.raises(ConfigError, match="device 63 has a policy already"),
    ):
        CalledLive(setting("tlsf"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("planned", "is told one iteration"),
        ("lifetime_classes", "learns from a recorded program"),
        ("stitching", "at several addresses"),
        ("expandable:True", "nothing else; write 'pytorch:expandable_segments:True"),
        ("pytorch:max_split_size_mb:1", "max_split_size_mb"),
        ("best_fitt", "did you mean"),
        ("best_fit:quantum=3", "quantum"),
    ],
)
def test_a_policy_that_cannot_run_is_refused_with_its_reason(text: str, words: str) -> None:
    with pytest.raises((PolicyError, ConfigError), match=words):
        setting_of(text)


def test_parameters_and_presets_are_read() -> None:
    values = setting_of("best_fit_segmented:quantum=4096").values
    assert (values["segment"], values["quantum"]) == (20 * MiB, 4096)
    assert setting_of("tlsf", 5).capacity_bytes == 5


def test_those_that_run_are_those_with_nothing_against_them() -> None:
    assert {"best_fit", "tlsf", "cupy_pool"} <= set(live_names())
    for name, policy in POLICIES.items():
        assert (live_fault(policy) == "") == (name in live_names())


def test_a_pytorch_without_cuda_is_refused() -> None:
    torch = pytest.importorskip("torch")
    if torch.version.cuda is not None:
        pytest.skip("this PyTorch has CUDA")
    with pytest.raises(ConfigError, match="expected a build with CUDA"):
        install("best_fit")


def test_a_machine_without_a_driver_is_refused() -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(ConfigError, match="no CUDA driver"):
            CudaRegion(0)
    else:
        pytest.skip("this machine has a driver")

"""Synthetic workloads: sound, determined by their seed, of sane sizes, quick to make."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tightfit.traces.history import lift
from tightfit.traces.program import Op
from tightfit.traces.requests import FITTED, Requests
from tightfit.traces.serving import WORKLOADS, Model, make_workload
from tightfit.traces.store import read_store, save
from tightfit.traces.units import GiB
from tightfit.traces.validator import problems

# One layer, one request at a time, of 3 tokens with an answer of 2; KV: 64 bytes per token.
TINY = Model(layers=1, hidden=64, inner=128, kv_width=32, vocabulary=100, max_batch=1)
ONE = Requests(np.array([3]), np.array([2]), "one")


def workload(name, events=20_000, seed=1, model=None, requests=None):
    drawn = requests or FITTED["conversation"].draw(200, seed)
    return make_workload(name, drawn, events, seed, model)


def kv_of_tiny(name, events=200):
    """Bytes of the KV tensors that a tiny server makes, in order; with what frees them."""
    program = lift(workload(name, events, model=TINY, requests=ONE), 0)
    size = program.req_size[program.request[program.arg]]
    kv = [
        (Op(op).name, int(s) // 64)
        for op, s in zip(program.op.tolist(), size.tolist(), strict=True)
        # Hidden states have multiples of 128 bytes and those of logits of 200.
        if s % 64 == 0 and s % 128
    ]
    return kv


def test_concatenation_makes_every_tensor_anew_one_token_longer():
    """A prompt of 3, then 4 and 5 tokens. Multiples of 128 bytes (4 tokens) are not seen here."""
    seen = kv_of_tiny("kv_cat")
    assert seen[:2] == [("MALLOC", 3)] * 2
    # K: 3 tokens freed after 4 are made; then 5 after 4; both leave with the request.
    assert seen[2:8] == [("FREE", 3)] * 2 + [("MALLOC", 5)] * 2 + [("FREE", 5)] * 2


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_is_sound_and_complete(name):
    recording = workload(name)
    assert {f.kind for f in problems(recording)} <= {"lost_free"}, "what is live at the end"
    program = lift(recording, 0)
    assert program.complete and program.n_start == 0 and program.n_ops == 20_000
    assert set(program.op.tolist()) == {Op.MALLOC, Op.FREE}


@pytest.mark.parametrize("name", WORKLOADS)
def test_equal_seeds_make_equal_workloads_and_others_do_not(name, tmp_path):
    for path, seed in (("a", 1), ("b", 1), ("c", 2)):
        save(workload(name, seed=seed), tmp_path / f"{path}.npz")
    a, b, c = ((tmp_path / f"{x}.npz").read_bytes() for x in "abc")
    assert a == b != c


@pytest.mark.parametrize("name", WORKLOADS)
def test_sizes_are_sane(name):
    """Weights of 2.3 GiB, KV of 32 KiB per token for at most 131,072 tokens, and activations."""
    program = lift(workload(name, 200_000), 0)
    size = program.req_size[program.request[program.arg]]
    live = np.cumsum(np.where(program.op == Op.MALLOC, size, -size))
    assert size.min() > 0 and size.max() <= 4 * GiB
    assert 2 * GiB < live.max() < 11 * GiB
    largest = int(size[0])
    assert largest == 128_256 * 2048 * 2, "the embedding comes first"


def test_only_the_paged_one_has_no_kv_that_comes_and_goes():
    """A paged server takes 4 GiB once; the others' KV changes hands all the time."""
    size = {}
    for name in WORKLOADS:
        program = lift(workload(name, 100_000), 0)
        size[name] = program.req_size[program.request[program.arg]]
    assert (size["kv_paged"] == 4 * GiB).sum() == 1
    assert len(np.unique(size["kv_cat"])) > 2 * len(np.unique(size["kv_doubling"]))


def test_it_says_what_it_is_and_keeps_saying_so(tmp_path):
    recording = workload("kv_cat", seed=7)
    save(recording, tmp_path / "x.npz")
    kept = read_store(tmp_path / "x.npz")
    assert kept.extra["synthetic"] == recording.extra["synthetic"]
    made = kept.extra["synthetic"]
    assert (made["workload"], made["seed"], made["events"]) == ("kv_cat", 7, 20_000)
    assert made["model"]["layers"] == 16 and "Azure" in made["requests"]
    assert {"synthetic", "no_driver"} <= {f.kind for f in kept.findings}
    assert kept.settings == {"synthetic": "kv_cat, seed 7, 20,000 events"}


def test_requests_that_are_too_long_or_too_few_are_reported():
    few = Requests(np.array([40_000, 5]), np.array([3, 3]), "two")
    found = {f.kind: f.count for f in workload("kv_paged", requests=few).findings}
    assert found["cut_requests"] == 1 and found["repeated"] > 0


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_million_events_take_less_than_a_second(name):
    requests = FITTED["conversation"].draw(4000, 0)
    make_workload(name, requests, 1000, 0)  # compiled
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        make_workload(name, requests, 1_000_000, 0)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1

"""The packing problem of a program is as high as what the program holds at once, and no less."""

from __future__ import annotations

import numpy as np
import pytest

from tightfit.policies import packing_skyline
from tightfit.policies.live_bytes import peak_live_bytes
from tightfit.policies.packing import pack as pack_buffers
from tightfit.policies.packing_bound import peak_live
from tightfit.policies.packing_of_program import UNIT, buffers_of
from tightfit.policies.packing_validator import packing_fault
from tightfit.sim.packing import pack

from ..strategies import Script, random_program
from .playing import MiB


def test_a_request_is_there_from_its_malloc_to_its_free() -> None:
    script = Script(2)
    a, b = script.mallocs(1000, 2000)
    script.free_later(a)
    script.free(b)
    script.attempt(3 * MiB)
    script.complete(a)
    buffers = buffers_of(pack(script.program()))
    rows = zip(buffers.lower.tolist(), buffers.upper.tolist(), buffers.size.tolist(), strict=True)
    assert sorted(rows) == [(1, 6, 1024), (2, 4, 2048), (5, 6, 3 * MiB)]


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_no_packing_is_lower_than_what_is_live_at_once(seed: int, keep: bool) -> None:
    program = random_program(seed, 300, streams=2, pools=1, start_ops=80)
    program.op[program.op == 5] = 7  # an empty_cache would end a wait early
    program.arg[program.op == 7] = 0
    rounded = program
    rounded.req_size = -(-program.req_size // UNIT) * UNIT
    packed = pack(rounded, keep_start=keep)
    buffers = buffers_of(packed)
    assert peak_live(buffers) == peak_live_bytes(packed)
    found = pack_buffers(buffers, seconds=0.2)
    assert found.height >= found.bound >= peak_live(buffers)
    lower, upper, size = (c.tolist() for c in (buffers.lower, buffers.upper, buffers.size))
    assert packing_fault(lower, upper, size, found.offsets.tolist(), found.height) == ""


def test_an_empty_program_needs_nothing() -> None:
    assert len(buffers_of(pack(Script().program()))) == 0
    assert pack_buffers(buffers_of(pack(Script().program()))).height == 0
    assert np.array_equal(buffers_of(pack(Script().program())).size, [])


def test_what_is_packed_in_pieces_is_packed_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    first = np.sort(rng.integers(0, 60, 200))
    last = first + rng.integers(1, 20, 200)
    size, priority = 512 * rng.integers(1, 99, 200), rng.permutation(200) + 1
    packed = []
    for steps in (1 << 30, 7, 1):
        monkeypatch.setattr(packing_skyline, "STEPS", steps)
        found = packing_skyline.fill_skyline(first, last, size, priority, int(last.max()))
        packed.append(found.tolist())
    assert packed[0] == packed[1] == packed[2]
    height = int((np.array(packed[0]) + size).max())
    assert packing_fault(first.tolist(), last.tolist(), size.tolist(), packed[0], height) == ""

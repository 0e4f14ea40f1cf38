"""A plan that grows: whatever is asked for when, best fit is the best fit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tightfit.sim import index, live_plan
from tightfit.sim.assumed import nothing
from tightfit.sim.live_plan import LANE_CELLS, MASK, RANK_BITS
from tightfit.sim.live_state import KNOWN_WORDS, MOST_CLASSES, N_BINS, N_CLASSES, Live
from tightfit.sim.spares import new_id
from tightfit.sim.state import (
    BIN_SHIFT,
    BINS,
    CELL_BITS,
    CELL_ZEROS,
    CLASS_WORDS,
    FRONTIER,
    LANE_WORDS,
    PLAN,
    POOL_WORDS,
    SPARES,
    STATE,
    TABLE_UNITS,
    TOP_UNITS,
    USED,
)
from tightfit.sim.state_memory import dimensions_of, open_state
from tightfit.sim.view import view
from tightfit.traces.jit import kernel

pytestmark = pytest.mark.interpreted

BLOCKS, ROOM_OF_BINS = 200, 2000
LARGEST = 3 << 40  # bytes; beyond the end of the rank table


# What is inlined cannot be called from outside once it is compiled.
@kernel
def add(state, plan, p, size, number, need):
    s = view(state, plan, nothing())
    return live_plan.add_class(s, p, size, number, need, 0, 0, 0, 1)


@kernel
def find_class(p, size, number):
    return live_plan.find_class(p, size, number)


@kernel
def find(state, plan, klass):
    return index.find(view(state, plan, nothing()), klass * CLASS_WORDS)


@kernel
def rank(state, plan, size):
    return index.rank(view(state, plan, nothing()), 0, size)


@kernel
def put_block(state, plan, size, is_free):
    """A block of its own in lane 0, behind the last one."""
    s = view(state, plan, nothing())
    b = new_id(s)
    s.size[b] = size
    s.addr[b] = b << 20
    g = index.rank(s, np.int64(0), s.size[b])
    s.tag[b] = g << BIN_SHIFT | USED
    if is_free:
        index.insert(s, b, g)
    return b


class Growing:
    """A state and a plan with one lane, and the sizes that were asked for."""

    def __init__(self) -> None:
        self.state = STATE.new(**dimensions_of(BLOCKS, 1, ROOM_OF_BINS, 1, 2 * POOL_WORDS, 0))
        self.fields = STATE.views(self.state)
        table = self.fields["table"].copy()
        open_state(self.fields, table, np.zeros((2, POOL_WORDS), np.int64), BLOCKS, 1, 0)
        self.plan = PLAN.new(
            classes=MOST_CLASSES * CLASS_WORDS, lanes=LANE_WORDS, bins=ROOM_OF_BINS,
            cells=LANE_CELLS, script=1,
        )  # fmt: skip
        self.lane = PLAN.views(self.plan)["lanes"]
        self.lane[CELL_BITS], self.lane[CELL_ZEROS] = RANK_BITS, 63 - RANK_BITS
        self.lane[TOP_UNITS] = TABLE_UNITS
        nobody = np.zeros(1, np.int64)
        known = np.zeros((MASK + 1) * KNOWN_WORDS, np.int64)
        fields: dict[str, Any] = dict.fromkeys(Live._fields, nobody)
        self.live = Live(**{**fields, "word": np.zeros(64, np.int64), "known": known})
        self.live.word[N_BINS] = self.live.word[N_CLASSES] = 1
        self.needs: list[int] = []
        self.sizes: dict[int, int] = {}  # of free blocks
        self.used: dict[int, int] = {}

    def ask(self, need: int) -> bool:
        """Make a request known for blocks of `need` bytes; whether there was room."""
        done = bool(add(self.state, self.plan, self.live, need - 1, 0, need))
        if done:
            self.needs.append(need)
        return done

    def put(self, size: int, is_free: bool) -> None:
        b = int(put_block(self.state, self.plan, size, is_free))
        (self.sizes if is_free else self.used)[b] = size

    def bin_of(self, size: int) -> int:
        return int(self.lane[BINS]) + sum(need <= size for need in set(self.needs))

    def assert_as_known_beforehand(self, sizes: list[int]) -> None:
        for size in sizes:
            assert rank(self.state, self.plan, size) == self.bin_of(size)
        for b, size in (self.sizes | self.used).items():
            assert self.fields["tag"][b] >> BIN_SHIFT == self.bin_of(size)
        for need in self.needs:
            klass = find_class(self.live, need - 1, 0)
            assert klass > 0
            fitting = [(size, b) for b, size in self.sizes.items() if size >= need]
            assert find(self.state, self.plan, klass) == min(fitting, default=(0, 0))[1]


def near(rng: random.Random) -> int:
    """A size, often close to others."""
    return rng.choice([rng.randrange(1, 1 << 16), 512 * rng.randrange(1, 300), 40 << 20, LARGEST])


@pytest.mark.parametrize("seed", range(3))
def test_every_size_takes_its_place_whenever_it_comes(seed: int) -> None:
    rng = random.Random(seed)
    g = Growing()
    assert g.ask(700)
    for _ in range(50):
        need = near(rng)
        if find_class(g.live, need - 1, 0) == 0:
            assert g.ask(need)
        for _ in range(2):
            g.put(near(rng) + rng.randrange(3), rng.random() < 0.7)
        sizes = [need + d for d in (-1, 0, 1) if need + d > 0]
        g.assert_as_known_beforehand([*sizes, near(rng), 4 * LARGEST])


def test_a_lane_that_has_no_room_left_moves() -> None:
    g = Growing()
    places = set()
    for k in range(150):
        assert g.ask(512 * (150 - k))
        places.add(int(g.lane[BINS]))
    g.put(100_000, True)
    g.assert_as_known_beforehand([511, 512, 40_000, 76_800, 1 << 20])
    assert len(places) == 3  # 64, 128 and 256 bins
    assert g.lane[FRONTIER] == g.lane[BINS] + 151


def test_a_size_for_which_there_is_no_room_changes_nothing() -> None:
    g = Growing()
    while len(g.needs) < 62:  # with two bins more, all 64
        assert g.ask(4096 - len(g.needs))
        g.put(4096 - len(g.needs) // 2, True)
    g.live.word[N_BINS] = live_plan.MOST_BINS - 100
    assert not g.ask(10)
    g.assert_as_known_beforehand([9, 10, 11, 4000, 4096])
    assert add(g.state, g.plan, g.live, 7, 0, 4050)  # of a need that has its bin
    assert g.fields["g"][SPARES] == BLOCKS - 1 - 62


def test_requests_of_equal_need_share_their_bins() -> None:
    g = Growing()
    for size in (700, 701, 702):
        assert add(g.state, g.plan, g.live, size, 0, 1024)
    assert add(g.state, g.plan, g.live, 700, 0, 1024)
    assert g.live.word[N_CLASSES] == 5
    assert g.lane[FRONTIER] - g.lane[BINS] == 2
    assert find_class(g.live, 700, 1) == find_class(g.live, 703, 0) == 0

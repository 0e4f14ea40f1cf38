"""A variant of PyTorch's allocator as the allocator of one device: state, growing plan, statistics.

The kernel is the simulation's. What the program asks for is made known to it when it is first asked
for: Python works out what the policy decides about that request, its own `rounds` included.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import weakref
from dataclasses import replace
from typing import Any

import numpy as np

from ..sim.apart import place_of, without_doors
from ..sim.blame import blaming
from ..sim.costs import work_of
from ..sim.device import Device
from ..sim.live_hooks import hook_functions, malloc_of
from ..sim.live_plan import LANE_CELLS, MOST_BINS, RANK_BITS
from ..sim.live_state import (
    ALLOCATE,
    FREE,
    GIVE_BACK,
    KEEP,
    KEEPS_STREAMS,
    MOST_BLOCKS,
    MOST_CLASSES,
    MOST_LANES,
    PAGE,
    PLAN_AT,
    PREPARE,
    REFUSED_SIZES,
    SERVE,
    STATE_AT,
    TAKE_BACK,
    TRIM,
)
from ..sim.plan import ceiling_of
from ..sim.requests import Requests
from ..sim.start import set_options
from ..sim.state import (
    ALLOCATED,
    CELL_BITS,
    CELL_ZEROS,
    CELLS,
    CLASS_WORDS,
    END_LANE,
    EXPANDS,
    FIRST_LANE,
    GC_BYTES,
    HUGE,
    IS_SMALL,
    LANE_WORDS,
    LATEST_PEAK,
    MAX_SPLIT,
    NOW,
    PEAK_ACTIVE,
    PEAK_ALLOCATED,
    PEAK_REQUESTED,
    PEAK_RESERVED,
    PENDING,
    PLAN,
    POOL,
    POOL_WORDS,
    REQUESTED,
    RESERVED,
    SPARES_NEEDED,
    START_PAGE,
    STATE,
    TABLE_UNITS,
    TOP_UNITS,
)
from ..sim.state import PAGE as LANE_PAGE
from ..sim.state_memory import dimensions_of, open_state, spares_needed
from ..sim.stats import N_STATS, VALUES, flat_stats
from ..traces.script import Script
from .live_setting import Setting
from .playing import DEFAULT_RULES
from .variant import Variant

AGAIN_SECONDS = 0.05  # after which Ctrl-C comes again that came where it could not be heard
_PREPARE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_LEARN = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 8)
_mallocs: dict[str, Any] = {}


def prepared(policy: Variant) -> tuple[Any, np.ndarray, list[Any]]:
    """What is compiled of a variant, or found on disk.

    Returns:
        Its malloc as a C function; the table of addresses that it needs; and what must be kept as
        long as those are used.

    Raises:
        PolicyError: its hooks cannot be compiled.
    """
    with blaming(policy):
        if policy.key not in _mallocs:
            _mallocs[policy.key] = malloc_of(policy)
        return _mallocs[policy.key], *without_doors(policy.addresses())


class LiveVariant:
    """A variant on one device.

    Args:
        policy: its decisions.
        setting: its parameters and capacity.

    Attributes:
        counters: those of its state.

    Raises:
        PolicyError: a value is out of its range, or the policy's own file is at fault.
    """

    def __init__(self, policy: Variant, setting: Setting) -> None:
        values = policy.checked(setting.values)
        self.policy = policy
        self.values = dict(zip(policy.defaults, values, strict=True))
        self.device = Device(setting.capacity_bytes, granularity=PAGE)
        self.malloc, table, self.kept = prepared(policy)
        self.functions = hook_functions()
        self.learn = _LEARN(self.functions["learn"].address)
        self.prepare = _callback(self)
        self.lock = threading.Lock()
        self.rows: dict[int, tuple[int, ...]] = {}  # what learn() is told of each size so far
        self.at = 0
        self.request = Script().program()  # of one size, which changes
        requests = self._requests(1)
        options = requests.options
        self.max_split = options.get(MAX_SPLIT, HUGE)
        self.plan = _empty_plan(requests)
        self.state = STATE.new(
            **dimensions_of(MOST_BLOCKS, 1, MOST_BINS, 2 * MOST_LANES, 2 * POOL_WORDS, 0)
        )
        self.fields = STATE.views(self.state)
        open_state(self.fields, table, _empty_pools(), MOST_BLOCKS, 1, 0)
        self.fields["param"][: len(values)] = values
        set_options(
            self.fields, requests, self.device, 1, 2 * MOST_LANES, track=True, stop_at_oom=False,
            script_rows=-1, ages=options.get(GC_BYTES, 0) != 0, bound=HUGE,
        )  # fmt: skip
        self.counters = self.fields["g"]
        self.counters[NOW] = -1  # the first event is number 0, as in a replay
        self.counters[SPARES_NEEDED] = spares_needed(MOST_BLOCKS, bool(requests.expands.any()))

    def describe(self, word: np.ndarray, at: int) -> None:
        """Write into a LIVE buffer's words, which lies at an address, what serves and where."""
        self.at = at
        for place, name in (
            (SERVE, "serve"), (TAKE_BACK, "take_back"), (GIVE_BACK, "give_back"),
            (KEEP, "keep_blocks"),
        ):  # fmt: skip
            word[place] = self.functions[name].address
        table = self.fields["table"]
        word[ALLOCATE] = self.malloc.address
        word[FREE] = table[place_of("free_tried")]
        word[TRIM] = table[place_of("release_everything")]
        word[PREPARE] = ctypes.cast(self.prepare, ctypes.c_void_p).value or 0
        word[STATE_AT], word[PLAN_AT] = self.state.ctypes.data, self.plan.ctypes.data
        word[KEEPS_STREAMS] = 1
        self.word = word

    def _requests(self, size: int) -> Requests:
        """What the policy decides about a request of so many bytes."""
        none = np.zeros(1, np.int32)
        program = replace(
            self.request, req_size=np.array([size], np.int64), req_stream=none, req_pool=none
        )
        return self.policy.requests(program, self.values, self.device, DEFAULT_RULES, False)

    def _row(self, size: int) -> tuple[int, ...]:
        row = self.rows.get(size)
        if row is None:
            r = self._requests(size)
            columns = (r.need, r.segment, r.least_rest, ceiling_of(r), r.is_small)
            row = tuple(int(column[0]) for column in columns)
            if len(self.rows) >= MOST_CLASSES:
                self.rows.clear()
            self.rows[size] = row
        return row

    def _prepare(self, size: int, stream: int) -> int:
        """A size is asked for on a stream for the first time: 1 = it is known by now, 0 = never."""
        try:
            with self.lock, blaming(self.policy):
                row = self._row(size)
            return self.learn(self.at, size, stream, *row)
        except KeyboardInterrupt:
            # It cannot pass through the C code that called, which asks once more.
            main = threading.main_thread().ident or 0
            threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, signal.SIGINT)).start()
            return 1
        except Exception as error:
            print(f"tightfit: {size:,} bytes: {error}", file=sys.stderr, flush=True)
            self.word[REFUSED_SIZES] += 1
            return 0

    def stats(self) -> dict[str, int]:
        """Its statistics now: all of a replay's that keeps the full ones."""
        max_split = -1 if self.max_split >= HUGE else self.max_split
        return flat_stats(self.fields["stat"], self.counters.tolist(), max_split)

    def work(self) -> dict[str, int]:
        """Calls of the driver and their bytes, as in Run.work."""
        return work_of(self.counters.tolist())

    def reset_peaks(self) -> None:
        """Let every peak begin again at what is held now."""
        g, stat = self.counters, self.fields["stat"]
        g[PEAK_ALLOCATED] = g[ALLOCATED]
        g[PEAK_ACTIVE] = g[ALLOCATED] + g[PENDING]
        g[LATEST_PEAK] = g[ALLOCATED]
        g[PEAK_REQUESTED], g[PEAK_RESERVED] = g[REQUESTED], g[RESERVED]
        values = stat[:N_STATS].reshape(-1, len(VALUES))
        values[:, VALUES.index("peak")] = values[:, VALUES.index("current")]


def _callback(core: LiveVariant) -> Any:
    """A variant's _prepare as a C function.

    It does not keep the variant alive, whose memory would wait until Python looks for garbage.
    """
    weak = weakref.ref(core)

    def prepare(size: int, stream: int) -> int:
        there = weak()
        return 0 if there is None else there._prepare(size, stream)

    return _PREPARE(prepare)


def _empty_plan(requests: Requests) -> np.ndarray:
    """A plan of lanes without sizes: first those of small requests, then those of large ones."""
    n = 2 * MOST_LANES
    plan = PLAN.new(
        classes=MOST_CLASSES * CLASS_WORDS, lanes=n * LANE_WORDS, bins=MOST_BINS,
        cells=n * LANE_CELLS, script=1,
    )  # fmt: skip
    lanes = PLAN.views(plan)["lanes"][: n * LANE_WORDS].reshape(n, LANE_WORDS)
    is_small = np.arange(n) < MOST_LANES
    lanes[:, POOL] = ~is_small
    lanes[:, IS_SMALL] = is_small
    lanes[:, LANE_PAGE] = np.where(is_small, requests.small_page, requests.large_page)
    lanes[:, START_PAGE] = lanes[:, LANE_PAGE]
    lanes[:, EXPANDS] = requests.expands.any()
    lanes[:, CELLS] = np.arange(n) * LANE_CELLS
    lanes[:, CELL_BITS], lanes[:, CELL_ZEROS] = RANK_BITS, 63 - RANK_BITS
    lanes[:, TOP_UNITS] = TABLE_UNITS
    return plan


def _empty_pools() -> np.ndarray:
    """Pool table of the default pools; their lanes are opened one after another."""
    pools = np.zeros((2, POOL_WORDS), np.int64)
    pools[1, FIRST_LANE] = pools[1, END_LANE] = MOST_LANES
    return pools

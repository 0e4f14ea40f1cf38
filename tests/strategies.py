"""Programs, settings and devices to test with: written by hand, by chance or by hypothesis."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from tightfit.sim.conditions import Conditions
from tightfit.sim.device import Device
from tightfit.sim.reference import replay_reference
from tightfit.sim.reference_allocator import round_size
from tightfit.sim.release import Release, release
from tightfit.sim.settings import OFF, Settings
from tightfit.traces.program import Layout, Op, Program
from tightfit.traces.units import GiB, KiB, MiB

# Releases with rules of their own that move memory, and the newest.
RELEASES = ("2.4", "2.5", "2.9", "2.10", "2.11", "2.12", "2.13", "2.15")

# Sizes on, just below and just above everything the allocator compares a size with.
EDGES = sorted(
    {
        max(1, edge + shift)
        for edge in (512, 4 * KiB, 600 * KiB, MiB, 2 * MiB, 10 * MiB, 20 * MiB, 32 * MiB, 64 * MiB)
        for shift in (-512, -1, 0, 1, 512)
    }
    | {m * MiB for m in (3, 5, 9, 11, 16, 19, 21, 30, 40, 44, 52, 75, 83, 84, 100, 130)}
)


class Script:
    """A program written step by step; every method appends ops.

    Streams have the handles 0, 1, ...; pools are numbered from 0, the default ones.
    """

    def __init__(self, streams: int = 1, pools: int = 0, start: Layout | None = None) -> None:
        """Begin with nothing, or with a layout whose allocations are numbered in block order."""
        self.streams, self.pools = streams, pools
        self.start = start or Layout()
        self.ops: list[tuple[int, int]] = []
        self.requests: dict[tuple[int, int, int], int] = {}  # (size, stream, pool) -> number
        self.of_alloc: list[int] = []
        for i in range(len(self.start.segments["address"])):
            s = {name: int(column[i]) for name, column in self.start.segments.items()}
            for row in range(s["first_block"], s["first_block"] + s["n_blocks"]):
                if self.start.blocks["alloc"][row] >= 0:
                    size = int(self.start.blocks["requested_size"][row])
                    self.of_alloc.append(self._request(size, s["stream"], s["pool"]))

    def _request(self, size: int, stream: int, pool: int) -> int:
        return self.requests.setdefault((size, stream, pool), len(self.requests))

    def _each(self, op: Op, args: Iterable[int]) -> None:
        self.ops += [(op, arg) for arg in args]

    def malloc(self, size: int, stream: int = 0, pool: int = 0) -> int:
        """Ask for `size` bytes; returns the allocation's number."""
        self.of_alloc.append(self._request(size, stream, pool))
        self.ops.append((Op.MALLOC, len(self.of_alloc) - 1))
        return len(self.of_alloc) - 1

    def mallocs(self, *sizes: int, stream: int = 0, pool: int = 0) -> list[int]:
        """Ask for several sizes; returns the numbers of the allocations."""
        return [self.malloc(size, stream, pool) for size in sizes]

    def attempt(self, size: int, stream: int = 0, pool: int = 0) -> None:
        """Ask for `size` bytes as a request that failed when recorded."""
        self.ops.append((Op.TRY, self._request(size, stream, pool)))

    def free(self, *allocs: int) -> None:
        self._each(Op.FREE, allocs)

    def free_later(self, *allocs: int) -> None:
        self._each(Op.FREE_LATER, allocs)

    def complete(self, *allocs: int) -> None:
        self._each(Op.COMPLETE, allocs)

    def empty_cache(self, pool: int = 0) -> None:
        self._each(Op.EMPTY_CACHE, [pool])

    def release_pool(self, pool: int) -> None:
        self._each(Op.RELEASE_POOL, [pool])

    def capture(self, on: bool) -> None:
        self._each(Op.CAPTURE, [on])

    def program(self) -> Program:
        """Return what was written so far."""
        requests = np.array(list(self.requests), np.int64).reshape(-1, 3)
        ops = np.array(self.ops, np.int64).reshape(-1, 2)
        return Program(
            device=0,
            op=ops[:, 0].astype(np.uint8),
            arg=ops[:, 1].astype(np.int32),
            entry=np.full(len(ops), -1, np.int64),
            request=np.array(self.of_alloc, np.int32),
            req_size=requests[:, 0].copy(),
            req_stream=requests[:, 1].astype(np.int32),
            req_pool=requests[:, 2].astype(np.int32),
            streams=np.arange(self.streams, dtype=np.int64),
            pools=[(0, 0), *((0, k + 1) for k in range(self.pools))],
            start=self.start,
            addr=np.zeros(len(self.of_alloc), np.uint64),
        )


def as_start(layout: Layout) -> Layout:
    """Return a final layout as one a program can start from: allocations numbered anew."""
    blocks = {name: column.copy() for name, column in layout.blocks.items()}
    used = blocks["alloc"] >= 0
    blocks["alloc"][used] = np.arange(used.sum())
    return Layout(layout.segments, blocks)


@dataclass(frozen=True)
class Step:
    """One step of a random program; what it refers to is looked up modulo what there is.

    Attributes:
        kind: 0..99; see `write`.
        size: bytes of a request.
        which: picks the allocation, stream and pool.
    """

    kind: int
    size: int
    which: int


def write(script: Script, steps: Iterable[Step]) -> None:
    """Append random steps to a script so that it stays a program that could have been recorded."""
    used = script.start.blocks["alloc"] >= 0
    pends = script.start.blocks["state"][used] == 2
    live = [int(a) for a in np.flatnonzero(~pends)]
    pending = [int(a) for a in np.flatnonzero(pends)]
    capturing = False
    for step in steps:
        stream = step.which // 7 % script.streams
        pool = step.which // 31 % (script.pools + 1)
        if step.kind < 48 or step.kind < 82 and not live:
            live.append(script.malloc(step.size, stream, pool))
        elif step.kind < 76:
            script.free(live.pop(step.which % len(live)))
        elif step.kind < 82:
            pending.append(live.pop(step.which % len(live)))
            script.free_later(pending[-1])
        elif step.kind < 90:
            if pending:
                script.complete(pending.pop(step.which % len(pending)))
        elif step.kind < 92:
            script.attempt(round_size(step.size, Settings()), stream, pool)
        elif step.kind < 95:
            script.empty_cache(pool if step.which % 2 else 0)
        elif step.kind < 98:
            if pool:
                script.release_pool(pool)
        else:
            capturing = not capturing
            script.capture(capturing)


def random_size(rng: random.Random) -> int:
    """Return a size near a threshold or, as often, of any magnitude up to 128 MiB."""
    if rng.random() < 0.5:
        return rng.choice(EDGES)
    return int(2 ** rng.uniform(0, 27))


def random_program(
    seed: int,
    n_ops: int,
    *,
    streams: int = 2,
    pools: int = 1,
    start_ops: int = 0,
    start_settings: Settings | None = None,
    sizes: list[int] | None = None,
) -> Program:
    """Return a program that depends on nothing but the arguments.

    Args:
        seed: chooses the program.
        n_ops: number of steps; a few of them write nothing.
        streams, pools: number of streams and of private pools.
        start_ops: if not 0, the program starts from where a random program of so many steps ends.
        start_settings: the settings under which it got there.
        sizes: sizes to choose from; by default anything up to 128 MiB, thresholds preferred.
    """
    rng = random.Random(seed)

    def steps(n: int) -> list[Step]:
        return [
            Step(
                rng.randrange(100),
                rng.choice(sizes) if sizes else random_size(rng),
                rng.randrange(1 << 16),
            )
            for _ in range(n)
        ]

    start = None
    if start_ops:
        prefix = Script(streams, pools)
        write(prefix, steps(start_ops))
        start = where_it_ends(prefix.program(), start_settings or Settings())
    script = Script(streams, pools, start)
    write(script, steps(n_ops))
    return script.program()


def where_it_ends(program: Program, settings: Settings) -> Layout:
    """Return the layout a program ends in, as a start for another one."""
    layout = replay_reference(program, settings, release("2.15")).layout
    assert layout is not None
    return as_start(layout)


def sizes() -> st.SearchStrategy[int]:
    """Requests in bytes: thresholds, and everything between."""
    return st.one_of(
        st.sampled_from(EDGES),
        st.integers(0, 27).flatmap(lambda k: st.integers(1 << k, (2 << k) - 1)),
    )


@st.composite
def programs(draw: st.DrawFn, max_ops: int = 60, warm: bool | None = None) -> Program:
    """Valid programs of 1 to 3 streams and up to 2 private pools.

    Args:
        draw: hypothesis.
        max_ops: number of steps, in the program and in the prefix that makes a start layout.
        warm: whether to start from a layout; None = either.
    """
    streams, pools = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    steps = st.lists(
        st.builds(Step, st.integers(0, 99), sizes(), st.integers(0, 1023)), max_size=max_ops
    )
    start = None
    if warm or (warm is None and draw(st.booleans())):
        prefix = Script(streams, pools)
        write(prefix, draw(steps))
        start = where_it_ends(prefix.program(), Settings(expandable_segments=draw(st.booleans())))
    script = Script(streams, pools, start)
    write(script, draw(steps))
    return script.program()


def changed(program: Program, places: list[int]) -> Program:
    """Return a program with a CHANGE in front of each of the given ops, modulo their number."""
    at = np.sort(np.array(places, np.int64) % (program.n_ops + 1))
    return replace(
        program,
        op=np.insert(program.op, at, int(Op.CHANGE)),
        arg=np.insert(program.arg, at, np.arange(1, len(at) + 1)),
        entry=np.insert(program.entry, at, -1),
    )


def releases() -> st.SearchStrategy[Release]:
    """The releases whose rules differ."""
    return st.sampled_from(RELEASES).map(release)


@st.composite
def settings(draw: st.DrawFn, rules: Release) -> Settings:
    """Settings that the release's own parser can produce (and, before 2.10, a fraction by call)."""
    large = 20 * MiB
    if rules.version >= (2, 11):
        large = draw(st.sampled_from([20, 20, 12, 32, 64])) * MiB
    bound = max(large, 21 * MiB)
    lengths = st.sampled_from([bound, bound + MiB, 64 * MiB, 75 * MiB, 120 * MiB])
    rounding = 20 * MiB
    if rules.version >= (2, 6):
        rounding = draw(st.one_of(st.just(max(large, 20 * MiB)), lengths))
    reserve_fraction, reserve_bytes = None, None
    if rules.version >= (2, 15):
        reserve_fraction = draw(st.sampled_from([None, None, 0.25, 1.0]))
        if reserve_fraction is None:
            reserve_bytes = draw(st.sampled_from([None, None, 60 * MiB, 1 * GiB]))
    scalar = st.sampled_from([0, 0, 1, 2, 4, 8, 16]).map(lambda d: (d,) * 16)
    table = st.tuples(*[st.sampled_from([0, 1, 2, 4, 8])] * 16)
    return Settings(
        large_segment_size=large,
        max_split_size=draw(st.one_of(st.just(OFF), lengths)),
        max_non_split_rounding=rounding,
        garbage_collection_threshold=draw(st.sampled_from([0.0, 0.0, 0.05, 0.5, 0.8, 0.99])),
        roundup_divisions=draw(st.one_of(scalar, table)),
        expandable_segments=draw(st.booleans()),
        per_process_memory_fraction=draw(st.sampled_from([1.0, 1.0, 0.0, 0.3, 0.7, 0.999])),
        throw_on_cudamalloc_oom=rules.version >= (2, 12) and draw(st.booleans()),
        reserve_fraction=reserve_fraction,
        reserve_bytes=reserve_bytes,
    )


@st.composite
def later(draw: st.DrawFn, rules: Release, first: Settings, device: Device) -> list[Conditions]:
    """Up to three changes: a line parsed at run time, a limit set by a call, others' memory."""
    return [
        Conditions(
            replace(draw(settings(rules)), large_segment_size=first.large_segment_size),
            replace(device, other_bytes=draw(st.sampled_from([0, 7 * MiB, 90 * MiB]))),
            draw(st.sampled_from([None, 0.0, 0.5, 1.0])),
        )
        for _ in range(draw(st.integers(1, 3)))
    ]


def devices() -> st.SearchStrategy[Device]:
    """Devices that never fill up, that always do, and some between."""
    return st.builds(
        Device,
        st.one_of(
            st.sampled_from([None, 80 * GiB]), st.integers(30, 600).map(lambda mib: mib * MiB)
        ),
        st.sampled_from([0, 0, 7 * MiB, 30 * MiB + 1]),
        st.sampled_from([2 * MiB, 2 * MiB, 64 * KiB, 8 * MiB]),
    )

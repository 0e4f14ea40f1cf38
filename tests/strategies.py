"""Programs, settings and devices to test with: written by hand, by chance or by hypothesis."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from tightfit.sim.conditions import Conditions
from tightfit.sim.device import Device
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import Release, release
from tightfit.sim.settings import OFF, Settings
from tightfit.traces.jit import JIT
from tightfit.traces.program import Layout, Op, Program
from tightfit.traces.random_programs import EDGES, Step, random_steps, write
from tightfit.traces.script import Script
from tightfit.traces.units import GiB, KiB, MiB

# Releases with rules of their own that move memory, and the newest.
RELEASES = ("2.4", "2.5", "2.9", "2.10", "2.11", "2.12", "2.13", "2.15")


def tries(count: int) -> int:
    """So many random cases; a quarter of them without compiled code, where they run once more."""
    return count if JIT else count // 4


def as_start(layout: Layout) -> Layout:
    """Return a final layout as one a program can start from: allocations numbered anew."""
    blocks = {name: column.copy() for name, column in layout.blocks.items()}
    used = blocks["alloc"] >= 0
    blocks["alloc"][used] = np.arange(used.sum())
    return Layout(layout.segments, blocks)


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
    start = None
    if start_ops:
        prefix = Script(streams, pools)
        write(prefix, random_steps(rng, start_ops, sizes))
        start = where_it_ends(prefix.program(), start_settings or Settings())
    script = Script(streams, pools, start)
    write(script, random_steps(rng, n_ops, sizes))
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

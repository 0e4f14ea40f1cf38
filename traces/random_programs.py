"""Programs by chance: calls without sense, sizes around every threshold an allocator may have.

A program depends on its seed and the version of Python's random numbers only.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .program import Program
from .script import Script
from .units import KiB, MiB

ROUNDED = 512  # bytes; a request that failed is recorded rounded up to a multiple of it
# Sizes on, just below and just above everything the allocator compares a size with.
EDGES = sorted(
    {
        max(1, edge + shift)
        for edge in (512, 4 * KiB, 600 * KiB, MiB, 2 * MiB, 10 * MiB, 20 * MiB, 32 * MiB, 64 * MiB)
        for shift in (-512, -1, 0, 1, 512)
    }
    | {m * MiB for m in (3, 5, 9, 11, 16, 19, 21, 30, 40, 44, 52, 75, 83, 84, 100, 130)}
)


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
            script.attempt(-(-step.size // ROUNDED) * ROUNDED, stream, pool)
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


def random_steps(rng: random.Random, n: int, sizes: list[int] | None = None) -> list[Step]:
    """Return n random steps.

    Args:
        rng: chooses them.
        n: how many.
        sizes: sizes to choose from; by default anything up to 128 MiB, thresholds preferred.
    """
    return [
        Step(
            rng.randrange(100),
            rng.choice(sizes) if sizes else random_size(rng),
            rng.randrange(1 << 16),
        )
        for _ in range(n)
    ]


def random_program(
    seed: int, n_ops: int, *, streams: int = 2, pools: int = 1, sizes: list[int] | None = None
) -> Program:
    """Return a program that depends on nothing but the arguments.

    Args:
        seed: chooses the program.
        n_ops: number of steps; a few of them write nothing.
        streams, pools: number of streams and of private pools.
        sizes: sizes to choose from; by default anything up to 128 MiB, thresholds preferred.
    """
    script = Script(streams, pools)
    write(script, random_steps(random.Random(seed), n_ops, sizes))
    return script.program()

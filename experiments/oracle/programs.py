"""Random cases: calls without sense, and calls as training, serving and CUDA graphs make them.

A case depends on its release, its seed and the versions of Python's random numbers only.
"""

from __future__ import annotations

import random

import numpy as np

from ...sim.device import Device
from ...sim.release import Release
from ...sim.settings_line import parse_settings
from ...traces.units import KiB, MiB
from .commands import ANY_STREAM, Case
from .lines import random_line
from .script import Script

FRACTIONS = (1.0, 0.999, 0.9, 0.7, 0.3, 0.123456)  # of the device, as limits
SIDE = 40  # number of the first stream that only uses other streams' memory
# Sizes on, just below and just above what the allocator compares sizes with.
EDGES = sorted(
    {
        max(1, edge + shift)
        for edge in (512, 4 * KiB, 600 * KiB, MiB, 2 * MiB, 10 * MiB, 20 * MiB, 32 * MiB, 64 * MiB)
        for shift in (-512, -1, 0, 1, 512)
    }
    | {m * MiB for m in (3, 5, 9, 11, 16, 19, 21, 30, 40, 44, 52, 75, 83, 84, 100, 130)}
)


def random_case(release_name: str, rules: Release, seed: int) -> Case:
    """Return case number `seed` of a release."""
    rng = random.Random(f"{release_name}/{seed}")
    line = random_line(rng, rules)
    script = Script()
    expandable = "expandable_segments:True" in line
    if rng.random() < 0.2:
        script.fraction(rng.choice(FRACTIONS))
    length = rng.choice((60, 300, 1500, 1500, 6000))
    kind = rng.choices((_anything, _training, _serving, _graphs, _buffers), (6, 2, 1, 1, 1))[0]
    capacity = rng.choice((64, 200, 400, 800, 1600, 4000, 16000)) * MiB
    if kind in (_training, _serving):
        capacity *= 4
    device = Device(
        capacity + rng.choice((0, 0, 12345)),
        rng.choice((0, 0, 7 * MiB, 30 * MiB + 1)),
        rng.choice((2 * MiB, 2 * MiB, 2 * MiB, 64 * KiB, 4 * MiB, 8 * MiB)),
    )
    # A recording does not say at which of several attempts pages were mapped.
    scattered = not expandable and rng.random() < 0.25
    kind(script, rng, rules, length, expandable)
    name = f"{kind.__name__[1:]} {release_name}/{seed}"
    commands = script.commands()
    lines: list[str] = []
    if rng.random() < 0.2:
        large_mb = parse_settings(line, rules).large_segment_size // MiB
        changes = Script()
        for _ in range(rng.randint(1, 6)):
            _change(changes, rng, rules, large_mb, capacity)
        commands = _mixed(rng, commands, changes.commands())
        lines = changes.lines
        # What is obtained differs from attempt to attempt, and a recording does not say when.
        scattered &= not any("expandable_segments:True" in text for text in lines)
    return Case(name, line, device, commands, scattered, tuple(lines))


def _change(s: Script, rng: random.Random, rules: Release, large_mb: int, capacity: int) -> None:
    """Change the conditions under which a case goes on."""
    x = rng.random()
    if x < 0.5:
        s.settings(random_line(rng, rules, large_mb))
    elif x < 0.8:
        s.others(rng.choice((0, 7 * MiB, capacity // 8, capacity // 3, capacity // 2 + 12345)))
    else:
        s.fraction(rng.choice(FRACTIONS))


def _mixed(rng: random.Random, commands: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Put changes, in their order, between commands."""
    at = sorted(rng.randrange(len(commands) + 1) for _ in changes)
    return np.insert(commands, at, changes)


def _side_streams(rng: random.Random, rules: Release) -> int:
    """How many streams use other streams' memory.

    In 2.12 the order in which frees of several complete decides about later addresses, and that
    order is the one thing here that follows the slots of a hash table.
    """
    return 1 if rules.tie_break == "block" else rng.choice((1, 1, 1, 2, 3))


def _anything(s: Script, rng: random.Random, rules: Release, length: int, expandable: bool) -> None:
    """Calls in no order."""
    streams = rng.choice((1, 1, 2, 3))
    sides = _side_streams(rng, rules)
    top = rng.choice((20, 22, 25, 27, 28))
    edges = rng.choice((0.1, 0.4))
    shuffled = rng.choice((0.1, 0.7, 1.0))
    records = rng.choice((0.0, 0.1, 0.4))
    scopes = rng.choice((0.0, 0.0, 0.3, 1.0))
    # A pool released before its blocks are free runs into a defect of PyTorch if it is expandable.
    early = rng.random() < (0.3 if expandable else 0.5)
    released: set[int] = set()
    order: list[int] = []
    for _ in range(length):
        x = rng.random()
        if x < 0.5 or not order:
            size = rng.choice(EDGES) if rng.random() < edges else int(2 ** rng.uniform(0, top))
            order.append(s.malloc(size, rng.randrange(streams)))
        elif x < 0.9:
            at = rng.randrange(len(order)) if rng.random() < shuffled else -1
            if rng.random() < records:
                for side in range(rng.randint(1, sides)):
                    s.record(order[at], SIDE + side)
            s.free(order.pop(at))
        elif x < 0.96:
            s.finish(SIDE + rng.randrange(sides), rng.choice((1, 2, 5, -1)))
        elif x < 0.965:
            if s.scope is None or rng.random() < 0.3:
                s.empty()
        elif x < 0.97:
            if s.scope is None and released and rules.empties_single_pools:
                s.empty(rng.choice(sorted(released)))
        elif x < 0.98:
            if s.scope is None:
                _release_some(s, rng, early, released)
        elif rng.random() < scopes:
            if s.scope is not None:
                s.end()
            else:
                _open_scope(s, rng, streams, released)
    if s.scope is not None:
        s.end()


def _release_some(s: Script, rng: random.Random, early: bool, released: set[int]) -> None:
    """Take the last user of some pools away; unless `early`, only of those without live blocks."""
    used = set(s.live.values())
    for pool in range(1, s.pools + 1):
        if pool not in released and (early or pool not in used) and rng.random() < 0.3:
            released.add(pool)
            s.release(pool)


def _open_scope(s: Script, rng: random.Random, streams: int, released: set[int]) -> None:
    """Begin to allocate from a private pool: a new one or one in use, for a capture or not."""
    usable = [p for p in range(1, s.pools + 1) if p not in released]
    pool = rng.choice(usable) if usable and rng.random() < 0.6 else 0
    if not pool and s.pools >= 8:
        return
    if rng.random() < 0.5:
        s.begin(pool, rng.randrange(1, streams + 1), capture=True)
    else:
        s.begin(pool, rng.choice((ANY_STREAM, ANY_STREAM, rng.randrange(streams))))


def _training(s: Script, rng: random.Random, rules: Release, length: int, expandable: bool) -> None:
    """Steps of forward, backward and optimizer, with sequence lengths that vary."""
    layers, width = rng.choice((4, 12, 24)), rng.choice((256, 768, 1024))
    gathers = rng.random() < 0.4  # buffers that a communication stream still reads when freed
    for _ in range(layers):
        s.mallocs(*(width * width * f for f in (12, 16, 16)), width * 4)
    states = False
    while len(s.rows) < length:
        tokens = rng.choice((128, 512, 1000, 1024, 2048, rng.randint(1, 2048)))
        batch = s.mallocs(tokens * 8, tokens * 8)
        kept: list[list[int]] = []
        for _ in range(layers):
            weights = s.malloc(width * width * 44) if gathers else -1
            one = s.mallocs(
                tokens * width * 2, tokens * width * 6, tokens * width * 2, tokens * 12 * 4
            )
            scratch = s.malloc(tokens * tokens * 2)
            wide = s.malloc(tokens * width * 8)
            s.free(scratch)
            if gathers:
                s.record(weights, SIDE)
                s.free(weights)
                if rng.random() < 0.5:
                    s.finish(SIDE, rng.choice((1, 2, 3)))
            kept.append([*one, wide])
        logits = s.mallocs(tokens * 50257 * 2, tokens * 50257 * 4)
        s.free(logits[0])
        grads: list[int] = []
        for one in reversed(kept):
            passing = s.mallocs(tokens * width * 2, tokens * width * 8)
            for k in one:
                s.free(k)
            grads += s.mallocs(width * width * 12, width * width * 32)
            s.free(*passing)
        s.free(logits[1], *batch)
        if not states:
            for _ in range(2 * layers):
                s.mallocs(width * width * 24, width * width * 64)
            states = True
        s.free(*s.mallocs(width * 4, layers * 4, 512))
        s.free(*grads)
        if rng.random() < 0.1:
            s.empty()


def _serving(s: Script, rng: random.Random, rules: Release, length: int, expandable: bool) -> None:
    """Requests that come and go; each grows its cache by allocating anew and freeing the old."""
    token = rng.choice((4 * KiB, 48 * KiB, 160 * KiB))
    running: list[tuple[int, int]] = []  # (allocation, tokens)
    while len(s.rows) < length:
        if rng.random() < 0.15 or not running:
            tokens = int(2 ** rng.uniform(3, 11))
            running.append((s.malloc(tokens * token), tokens))
        at = rng.randrange(len(running))
        k, tokens = running.pop(at)
        if rng.random() < 0.1 or len(running) > 40:
            s.free(k)
            continue
        scratch = s.mallocs(tokens * 256, 50257 * 4, 512)
        tokens += rng.choice((1, 16, 256))
        running.append((s.malloc(tokens * token), tokens))
        s.free(k, *scratch)


def _buffers(s: Script, rng: random.Random, rules: Release, length: int, expandable: bool) -> None:
    """Large buffers of few sizes: what is missing is often exactly what some cached ones have."""
    unit = rng.choice((16, 22, 32, 64)) * MiB
    streams = rng.choice((1, 1, 2))
    order: list[int] = []
    while len(s.rows) < length:
        if rng.random() < 0.5 or not order:
            size = unit * rng.choice((1, 1, 2, 2, 3, 4, 6, 8))
            order.append(s.malloc(size, rng.randrange(streams)))
        elif rng.random() < 0.1:
            s.free(*order)
            order = []
        else:
            s.free(order.pop(rng.randrange(len(order))))


def _graphs(s: Script, rng: random.Random, rules: Release, length: int, expandable: bool) -> None:
    """Captures into one shared pool or several, with work on other streams inside."""
    others = (SIDE,) if rules.tie_break == "block" else (SIDE, 2)  # see _side_streams
    shared = rng.random() < 0.5
    pool = 0
    made: list[int] = []
    outputs: list[int] = []
    while len(s.rows) < length:
        s.free(*s.mallocs(*(int(2 ** rng.uniform(9, 25)) for _ in range(rng.randint(1, 8)))))
        if rng.random() < 0.5:
            s.empty()
        if pool and (len(made) > 6 or rng.random() < 0.2):
            for k in outputs:
                s.free(k)
            outputs = []
            for p in made:
                s.release(p)
            made, pool = [], 0
        pool = s.begin(pool if shared else 0, 1, capture=True)
        if pool not in made:
            made.append(pool)
        inside: list[int] = []
        for _ in range(rng.randint(3, 40)):
            if rng.random() < 0.6 or not inside:
                inside.append(s.malloc(int(2 ** rng.uniform(9, 24)), rng.choice((1, 1, 1, 2))))
            else:
                k = inside.pop(rng.randrange(len(inside)))
                if rng.random() < 0.3:
                    s.record(k, rng.choice(others))
                s.free(k)
        keep = [k for k in inside if rng.random() < 0.3]
        outputs += keep
        s.free(*(k for k in inside if k not in keep))
        s.end()
        s.finish(SIDE, rng.choice((1, 5, -1)))
        if rng.random() < 0.3:
            s.finish(2)

"""Small cases with a known outcome, each under a name: the allocator's rules one by one."""

from __future__ import annotations

from collections.abc import Callable

from ...sim.device import Device
from ...traces.units import GiB, MiB
from .commands import Case
from .script import Script

ON = "expandable_segments:True"
BUSY = 40  # a stream whose work does not complete by itself
# Those that are played in a private pool, too, where the devlog on fragmentation plays its own
# (Edward Yang, 2026-06-01: "When does fragmentation occur in the CUDA caching allocator?"). Memory
# of a pool in use is never given back as a whole, so what recovers by that is not among them.
IN_A_POOL = (
    "32 reused by 16 and 16", "32 reused, first 16 free", "32 reused, both free",
    "off: 8 of 16, then 4 of 32", "off: 4 of 32, then 8 of 16", "on: 8 of 16",
    "on: 8 of 16, then 4 of 32", "on: holes of 16, then 32", "on: holes of 16, 32 again",
    "off: 2, then a half", "on: 2, then a half", "off: 2, then 2", "on: 2, then 2", "off: 3 of 20",
    "oversize release, smallest last", "out of memory keeps a segment in use",
)  # fmt: skip

Write = Callable[[Script], object]


def scenarios() -> dict[str, Case]:
    """Return every scenario by name; those with "after" in the name stop half way of another."""
    cases: dict[str, Case] = {}

    def add(
        name: str, conf: str, write: Write, capacity: int = 80 * GiB, scattered: bool = False
    ) -> None:
        script = Script()
        write(script)
        cases[name] = Case(name, conf, Device(capacity), script.commands(), scattered)
        if name in IN_A_POOL:
            script = Script()
            script.begin()
            write(script)
            script.end()
            pool = f"pool, {name}"
            cases[pool] = Case(pool, conf, Device(capacity), script.commands())

    for name, steps in (
        ("32 after its request", 1),
        ("32 reused by 16 and 16", 2),
        ("32 reused, first 16 free", 3),
        ("32 reused, both free", 4),
    ):
        add(name, "", lambda s, n=steps: _halves(s, n))
    add("off: 8 of 16, then 4 of 32", "", lambda s: _exchange(s, (16,) * 8, (32,) * 4))
    add("off: 4 of 32, then 8 of 16", "", lambda s: _exchange(s, (32,) * 4, (16,) * 8))
    for n in range(1, 9):
        add(f"on: {n} of 16", ON, lambda s, n=n: _allocate(s, *(16,) * n))
    add("on: 8 of 16, all free", ON, lambda s: _exchange(s, (16,) * 8, ()))
    add("on: 8 of 16, then 4 of 32", ON, lambda s: _exchange(s, (16,) * 8, (32,) * 4))
    for name, steps in (
        ("on: holes of 16 after 4 of 16", 1),
        ("on: holes of 16 after two frees", 2),
        ("on: holes of 16, then 32", 3),
        ("on: holes of 16, all free", 4),
        ("on: holes of 16, 32 again", 5),
    ):
        add(name, ON, lambda s, n=steps: _holes(s, n))
    add("off: 2, then a half", "", _two_then_half)
    add("on: 2, then a half", ON, _two_then_half)
    add("off: 2, then 2", "", lambda s: _exchange(s, (2,), (2,)))
    add("on: 2, then 2", ON, lambda s: _exchange(s, (2,), (2,)))
    add("on: 16 on each of two streams", ON, _two_streams)
    for name, sizes in (
        ("8 of 16, then 4 of 32", ((16,) * 8, (32,) * 4)),
        ("4 of 32, then 8 of 16", ((32,) * 4, (16,) * 8)),
        ("2, then a half", ((2,), (0.5,))),
        ("2, then 2", ((2,), (2,))),
    ):
        add(f"off: graphs of {name}", "", lambda s, sizes=sizes: _graphs(s, sizes))
        add(f"on: graphs of {name}", ON, lambda s, sizes=sizes: _graphs(s, sizes))
    add("off: 3 of 20", "", lambda s: _allocate(s, 3))
    add("recovery waits for a busy stream", "", _recovery, 200 * MiB)
    add("oversize release, smallest last", "max_split_size_mb:64", _oversize, 360 * MiB)
    add("out of memory keeps a segment in use", "", _out_of_memory, 200 * MiB)
    add("on: empty_cache unmaps whole pages", ON, _unmap, 200 * MiB)
    add("equal segments, addresses scattered", "", _equal_segments, scattered=True)
    add("equal pieces of a segment", "", _equal_pieces)
    return cases


def _allocate(s: Script, *mib: float) -> list[int]:
    return s.mallocs(*(int(m * MiB) for m in mib))


def _exchange(s: Script, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    s.free(*_allocate(s, *first))
    _allocate(s, *second)


def _halves(s: Script, steps: int) -> None:
    whole = _allocate(s, 32)
    if steps > 1:
        s.free(*whole)
        first, second = _allocate(s, 16, 16)
        if steps > 2:
            s.free(first)
        if steps > 3:
            s.free(second)


def _holes(s: Script, steps: int) -> None:
    a, b, c, d = _allocate(s, 16, 16, 16, 16)
    if steps > 1:
        s.free(a, c)
    if steps > 2:
        (e,) = _allocate(s, 32)
        if steps > 3:
            s.free(b, d, e)
    if steps > 4:
        _allocate(s, 32)


def _two_then_half(s: Script) -> None:
    s.free(*_allocate(s, 2))
    _allocate(s, 0.5)


def _two_streams(s: Script) -> None:
    s.malloc(16 * MiB, 1)
    s.malloc(16 * MiB, 2)


def _graphs(s: Script, graphs: tuple[tuple[float, ...], ...]) -> None:
    """Captures that share a pool, one after the other; only the last one's blocks stay."""
    pool = 0
    for sizes in graphs:
        pool = s.begin(pool, 1, capture=True)
        s.free(*list(s.live))
        for size in sizes:
            s.malloc(int(size * MiB), 1)
        s.end()


def _recovery(s: Script) -> None:
    a, busy, c = _allocate(s, 100, 50, 30)
    s.record(busy, BUSY)
    s.free(a, busy, c)
    _allocate(s, 150)


def _oversize(s: Script) -> None:
    s.free(*_allocate(s, 70, 74, 78, 82))
    _allocate(s, 250)


def _out_of_memory(s: Script) -> None:
    a, _ = _allocate(s, 3, 3)
    s.free(a)
    _allocate(s, 190)


def _unmap(s: Script) -> None:
    _, b, _ = _allocate(s, 30, 30, 30)
    s.free(b)
    s.empty()
    _allocate(s, 60)


def _equal_segments(s: Script) -> None:
    """Four segments; the fourth has a lower address than the second and the third."""
    s.free(*_allocate(s, 32, 32, 32, 32)[1:])
    _allocate(s, 32)


def _equal_pieces(s: Script) -> None:
    """Pieces of 2 MiB; the first is cut anew, which makes it younger than the third."""
    a, b, c, _ = _allocate(s, 2, 2, 2, 2)
    s.free(a, b)
    a, b = _allocate(s, 2, 2)
    s.free(a, c)
    _allocate(s, 2)

"""Cases kept for good: what random programs found out, and its nearest neighbours.

All are about conditions that change within a program, or about a rule that no text states; the
real allocator's answers to them stand in tests/golden.
"""

from __future__ import annotations

from collections.abc import Callable

from ...sim.device import Device
from ...sim.release import Release
from ...traces.units import MiB
from .commands import Case
from .script import Script

CAPACITY = 1000 * MiB
THROW = "throw_on_cudamalloc_oom:True,max_split_size_mb:300,per_process_memory_fraction:"

Write = Callable[[Script], object]
# Name -> (first release that knows its keys, the line of the environment, the calls).
FOUND: dict[str, tuple[tuple[int, int], str, Write]] = {}


def regressions(rules: Release) -> dict[str, Case]:
    """Return every kept case that a release can run, by name."""
    cases = {}
    for name, (since, conf, write) in FOUND.items():
        if rules.version >= since:
            script = Script()
            write(script)
            cases[name] = Case(
                name, conf, Device(CAPACITY), script.commands(), False, tuple(script.lines)
            )
    return cases


def _found(name: str, since: tuple[int, int] = (2, 4), conf: str = "") -> Callable[[Write], Write]:
    def keep(write: Write) -> Write:
        FOUND[name] = since, conf, write
        return write

    return keep


@_found("a line set at run time leaves max_non_split_rounding out", (2, 6),
        "max_split_size_mb:40,max_non_split_rounding_mb:64")  # fmt: skip
def _rounding(s: Script) -> None:
    """Until 2.10 the rounding stays: 130 MiB serve 80. From 2.11 it is 20 MiB again."""
    s.free(*s.mallocs(130 * MiB))
    s.settings("max_split_size_mb:60")
    s.malloc(80 * MiB)


@_found("max_split_size is noted once", conf="max_split_size_mb:100")
def _noted(s: Script) -> None:
    s.settings("max_split_size_mb:200")
    s.free(*s.mallocs(150 * MiB))


@_found(
    "expandable memory is passed over when it was switched off", conf="expandable_segments:True"
)
def _switched_off(s: Script) -> None:
    s.free(*s.mallocs(30 * MiB))
    s.settings("expandable_segments:False")
    a = s.malloc(30 * MiB)
    s.settings("expandable_segments:True")
    s.free(a)
    s.malloc(16 * MiB)


@_found("others take what was free")
def _others(s: Script) -> None:
    s.free(*s.mallocs(300 * MiB))
    s.others(600 * MiB)
    s.malloc(350 * MiB)
    s.malloc(350 * MiB)
    s.others(0)
    s.malloc(350 * MiB)


@_found("more pools than allocations")
def _pools(s: Script) -> None:
    for _ in range(8):
        pool = s.begin()
        s.end()
        s.release(pool)
    s.free(s.malloc(512))


@_found("a limit set by a call outlives a line", (2, 10), "per_process_memory_fraction:0.5")
def _limit(s: Script) -> None:
    s.settings("per_process_memory_fraction:1.0")
    s.malloc(600 * MiB)
    s.fraction(1.0)
    s.malloc(600 * MiB)


@_found("a limit a quarter of a byte short")
def _short(s: Script) -> None:
    """Until 2.12 the limit is truncated, and 300 MiB are refused. From 2.13 it is rounded."""
    s.fraction((300 * MiB - 0.25) / CAPACITY)
    s.malloc(300 * MiB)


def _two_lanes(s: Script) -> None:
    s.free(*s.mallocs(512 * MiB), s.malloc(350 * MiB, 1))
    s.fraction(0.9)


@_found("rejected, then served once everything was released", (2, 12))
def _served(s: Script) -> None:
    _two_lanes(s)
    s.settings(THROW + "0.5")
    s.malloc(192 * MiB)


@_found("rejected, and then the driver refuses", (2, 12))
def _refused(s: Script) -> None:
    _two_lanes(s)
    s.settings(THROW + "0.5")
    s.others(900 * MiB)
    s.malloc(192 * MiB)


@_found("rejected twice", (2, 12))
def _rejected(s: Script) -> None:
    _two_lanes(s)
    s.settings(THROW + "0.1")
    s.malloc(192 * MiB)


@_found("rejected during a capture", (2, 12))
def _captured(s: Script) -> None:
    s.begin(stream=1, capture=True)
    s.free(s.malloc(512 * MiB, 1))
    s.fraction(0.7)
    s.settings(THROW + "0.123456")
    s.malloc(192 * MiB, 1)
    s.end()

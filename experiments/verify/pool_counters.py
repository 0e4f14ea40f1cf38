"""The counters of each private pool, worked out from a simulated run's events.

Source: torch 2.15, memory_stats, "reserved_bytes_by_private_pools".
"""

from __future__ import annotations

from collections.abc import Sequence

from ...sim.run import Run
from ...traces.event import Action
from ...traces.units import MiB

NAME = "reserved_bytes_by_private_pools"
SMALL_PAGE = 2 * MiB  # a segment, or a page of expandable memory, of the small pool
TAKEN = (int(Action.SEGMENT_ALLOC), int(Action.SEGMENT_MAP))
RETURNED = (int(Action.SEGMENT_FREE), int(Action.SEGMENT_UNMAP))


def pool_counters(run: Run, ids: Sequence[Sequence[int]]) -> dict[str, int]:
    """Return the flat counters of every private pool.

    Args:
        run: with its events.
        ids: PyTorch's id of each pool of the program, (0, 0) first.
    """
    out: dict[str, int] = {}
    for number, pool in enumerate(ids):
        if number:
            for part in ("all", "small_pool", "large_pool"):
                for what in ("current", "peak", "allocated", "freed"):
                    out[_key(pool, part, what)] = 0
    small: set[int] = set()  # addresses of small pages; nothing else is obtained in 2 MiB
    columns = (run.events[name].tolist() for name in ("action", "addr", "size", "pool"))
    for action, addr, size, number in zip(*columns, strict=True):
        if not number or action not in (*TAKEN, *RETURNED):
            continue
        if action in TAKEN and size == SMALL_PAGE:
            small.add(addr)
        part = "small_pool" if addr in small else "large_pool"
        if action in RETURNED:
            small.difference_update(range(addr, addr + size, SMALL_PAGE))
        for each in ("all", part):
            current, peak, allocated, freed = (
                _key(ids[number], each, what) for what in ("current", "peak", "allocated", "freed")
            )
            out[current] += size if action in TAKEN else -size
            out[peak] = max(out[peak], out[current])
            out[allocated if action in TAKEN else freed] += size
    return out


def _key(pool: Sequence[int], part: str, what: str) -> str:
    return f"{NAME}.{pool[0]}_{pool[1]}.{part}.{what}"

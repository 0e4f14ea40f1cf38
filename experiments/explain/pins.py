"""Who holds memory, and who pins it: blocks in use that keep free memory from being given back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .standing import Block, Segment, Unit

Where = Callable[[int], str]  # the place of an allocation


@dataclass(frozen=True)
class Holder:
    """What the blocks asked for at one place hold.

    Attributes:
        where: the place in the user's code.
        blocks: its blocks in use.
        bytes: what they were asked for.
        never_freed: how many of them the recorded program never freed; None = not known.
    """

    where: str
    blocks: int
    bytes: int
    never_freed: int | None


@dataclass(frozen=True)
class Pin:
    """What the blocks asked for at one place pin.

    A segment (of expandable memory, a page) that blocks in use reach into cannot be given back,
    and what is free in it serves only requests that fit between them.

    Attributes:
        where: the place in the user's code.
        blocks: its blocks in use beside free memory.
        bytes: their size.
        alone_bytes: free memory beside blocks of this place only.
        shared_bytes: free memory beside blocks of this and of other places.
        never_freed: how many of its blocks the recorded program never freed; None = not known.
    """

    where: str
    blocks: int
    bytes: int
    alone_bytes: int
    shared_bytes: int
    never_freed: int | None


def holders_of(segments: Iterable[Segment], where: Where, freed: np.ndarray | None) -> list[Holder]:
    """Return who holds how much, most first; arguments as of `pins_of`."""
    held: dict[str, list[Block]] = {}
    for segment in segments:
        for block in segment.blocks:
            if not block.is_free:
                held.setdefault(where(block.alloc), []).append(block)
    holders = [
        Holder(place, len(own), sum(b.asked for b in own), _never_freed(own, freed))
        for place, own in held.items()
    ]
    return sorted(holders, key=lambda h: (-h.bytes, h.where))


def pins_of(units: Iterable[Unit], where: Where, freed: np.ndarray | None) -> list[Pin]:
    """Return who pins how much, most first.

    Args:
        units: of all memory.
        where: the place of an allocation.
        freed: shape (A,) bool; whether the program frees each allocation; None = not known.
    """
    alone: dict[str, int] = {}
    shared: dict[str, int] = {}
    blocks: dict[str, dict[int, Block]] = {}
    for unit in units:
        if not unit.is_pinned:
            continue
        places = set()
        for block in unit.users:
            place = where(block.alloc)
            places.add(place)
            blocks.setdefault(place, {})[block.address] = block
        to = alone if len(places) == 1 else shared
        for place in places:
            to[place] = to.get(place, 0) + unit.free
    pins = [
        Pin(
            where=place,
            blocks=len(own),
            bytes=sum(b.size for b in own.values()),
            alone_bytes=alone.get(place, 0),
            shared_bytes=shared.get(place, 0),
            never_freed=_never_freed(own.values(), freed),
        )
        for place, own in blocks.items()
    ]
    return sorted(pins, key=lambda p: (-p.alone_bytes, -p.shared_bytes, p.where))


def _never_freed(blocks: Iterable[Block], freed: np.ndarray | None) -> int | None:
    return None if freed is None else sum(not freed[b.alloc] for b in blocks)

"""What the journal keeps of each kind, read again; ValueError where an entry has another shape."""

from __future__ import annotations

from typing import Any

from ...sim.release import KNOWN
from ..kept import has, read_back
from ..row import Row
from ..smallest import Smallest

TOLD: dict[str, Any] = {
    "torch": str, "words": str, "is_long": bool, "devices": list[dict], "notes": list[str],
}  # fmt: skip
PLACE: dict[str, Any] = {"index": int, "events": int, "is_warm": bool, "bound": dict}


def told_kept(entry: Any) -> dict[str, Any]:
    """What is to be said of a recording, and of each of its devices."""
    if not has(entry, TOLD) or entry["torch"] not in KNOWN:
        raise ValueError("found something else than what is kept of a recording")
    for place in entry["devices"]:
        if not has(place, PLACE):
            raise ValueError("found something else than what is kept of a device")
        row_kept(place["bound"])
    return entry


def row_kept(entry: Any) -> Row:
    """A run, a bound or a packing."""
    return read_back(Row, entry)


def smallest_kept(entry: Any) -> Smallest | None:
    """The smallest device; None = it runs on none."""
    return None if entry == {"value": None} else read_back(Smallest, entry)


def values_kept(entry: Any) -> str:
    """The values of a policy that a search found."""
    if not has(entry, {"value": str}):
        raise ValueError("found something else than what is kept of a search")
    return entry["value"]

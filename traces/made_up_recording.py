"""A made-up program as a recording that begins with an empty device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .foreign_rows import ALLOC, FREE, recording
from .made_up import made_up_addresses
from .recording import Finding, Recording

LACKS = (
    "this program is made up and no allocator has run it: there is nothing to check a replay "
    "against, and the settings are taken to be the defaults"
)


def made_up_recording(
    made_from: dict[str, Any],
    is_alloc: np.ndarray,
    alloc: np.ndarray,
    size: np.ndarray,
    findings_of: Callable[[int], list[Finding]],
) -> Recording:
    """Make a recording of a program on device 0 and one stream, without segments.

    Args:
        made_from: "workload", "seed" and "events", and whatever else the program follows from.
        is_alloc: shape (n,) bool; the other rows are frees.
        alloc: shape (n,) int64; allocation number of each row.
        size: shape (n,) int64; bytes of each row's allocation.
        findings_of: what to say of it, given the most bytes that were requested at any time.
    """
    events = len(is_alloc)
    name, seed = made_from["workload"], made_from["seed"]
    columns = {
        "kind": np.where(is_alloc, ALLOC, FREE).astype(np.uint8),
        "device": np.zeros(events, np.int16),
        "addr": made_up_addresses(alloc, is_alloc, size),
        "size": size,
        "stream": np.zeros(events, np.int64),
        "time": np.zeros(events, np.int64),
    }
    peak = int(np.cumsum(np.where(is_alloc, size, -size)).max(initial=0))
    out = recording(columns, f"{name}.npz", {"synthetic": made_from}, findings_of(peak), LACKS)
    out.settings = {"synthetic": f"{name}, seed {seed}, {events:,} events"}
    return out

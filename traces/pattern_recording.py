"""The patterns of synthetic.py as recordings."""

from __future__ import annotations

import numpy as np

from .foreign_rows import ALLOC, FREE, recording
from .made_up import made_up_addresses
from .program import Op
from .recording import Finding, Recording
from .serving import LACKS
from .synthetic import PATTERNS
from .units import format_bytes

DESCRIPTIONS = {
    "train": "one training iteration over and over: lifetimes like a stack, exactly periodic",
    "train_var": "the same with one of 16 sequence lengths per iteration, in random order",
    "serve": "thousands of long-lived cache blocks of three sizes, beside churn of many sizes",
    "random": "20,000 live blocks of 6,000 sizes, freed in random order",
    "pinned": "thousands of free blocks of different sizes, kept apart by small live ones",
    "kvsame": "the same with all free blocks of one size: every choice is a tie",
}


def make_pattern(name: str, events: int, seed: int) -> Recording:
    """Make a pattern as a recording that begins with an empty device.

    Args:
        name: one of PATTERNS.
        events: allocations and frees together.
        seed: another seed, another run.

    Returns:
        A recording without segments, device 0, one stream.
    """
    program = PATTERNS[name](events, seed)
    is_alloc = program.op[:events] == Op.MALLOC
    alloc = program.arg[:events].astype(np.int64)
    size = program.req_size[program.request][alloc]
    columns = {
        "kind": np.where(is_alloc, ALLOC, FREE).astype(np.uint8),
        "device": np.zeros(events, np.int16),
        "addr": made_up_addresses(alloc, is_alloc, size),
        "size": size,
        "stream": np.zeros(events, np.int64),
        "time": np.zeros(events, np.int64),
    }
    peak = int(np.cumsum(np.where(is_alloc, size, -size)).max(initial=0))
    text = (
        f"synthetic: {name} ({DESCRIPTIONS[name]}), seed {seed}; peak requested "
        f"{format_bytes(peak)}"
    )
    made_from = {"workload": name, "seed": seed, "events": events}
    findings = [Finding("synthetic", events, text)]
    out = recording(columns, f"{name}.npz", {"synthetic": made_from}, findings, LACKS)
    out.settings = {"synthetic": f"{name}, seed {seed}, {events:,} events"}
    return out

"""The patterns of synthetic.py as recordings."""

from __future__ import annotations

import numpy as np

from .made_up_recording import made_up_recording
from .program import Op
from .recording import Finding, Recording
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

    def findings(peak: int) -> list[Finding]:
        text = (
            f"synthetic: {name} ({DESCRIPTIONS[name]}), seed {seed}; peak requested "
            f"{format_bytes(peak)}"
        )
        return [Finding("synthetic", events, text)]

    made_from = {"workload": name, "seed": seed, "events": events}
    size = program.req_size[program.request][alloc]
    return made_up_recording(made_from, is_alloc, alloc, size, findings)

"""What the figures of this package depend on: what is kept between calls names it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from ..sim.costs import FILE as COSTS
from ..traces.jit import source_hash


@cache
def code_hash() -> str:
    """What changes whenever a figure might: kernels, the search and its choices, driver costs."""
    digest = hashlib.sha256(source_hash().encode())
    here = Path(__file__).parent
    for path in (*sorted(here.glob("*.py")), *sorted((here / "question").glob("*.py")), COSTS):
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()

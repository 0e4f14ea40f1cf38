"""Spare large blocks: a small request leaves a large free block whole while the driver has memory.

PyTorch's allocator with two other decisions, written from docs/policies.md.
"""

import numpy as np

from tightfit.policies.pytorch import choose as best_fit
from tightfit.policies.pytorch import from_driver as ask_driver
from tightfit.policies.variant import Variant
from tightfit.sim.index import find, remove
from tightfit.sim.param import Param
from tightfit.sim.state import NEED
from tightfit.traces.jit import inline

LEAST, SHARE = 0, 1  # places of the parameters in s.param
best_fit, ask_driver = inline(best_fit), inline(ask_driver)


def choose(s, q):
    """PyTorch's choice, but not a large block of which the request would take a small share."""
    b = best_fit(s, q)
    if s.size[b] >= s.param[LEAST] and s.size[b] > s.param[SHARE] * s.classes[q + NEED]:
        return np.int64(0)
    return b


def from_driver(s, q, retry, try_op):
    """PyTorch's way; where the driver has no more, even of a large block."""
    b = ask_driver(s, q, retry, try_op)
    if b == 0 and retry:
        b = find(s, q)
        if b != 0:
            remove(s, b)
    return b


SpareLarge = Variant(
    "spare_large",
    "an example of docs/policies.md, after the wilderness preservation of dlmalloc",
    choose=choose,
    from_driver=from_driver,
    params=(
        Param("least", 64 << 20, 32 << 20, 1 << 30, "blocks from here on are large", "bytes", True),
        Param("share", 8, 2, 64, "a request must take one of so many parts of it", log=True),
    ),
)

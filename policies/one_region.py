"""One region, reserved at the start and handed out in pages that need not lie together.

No request is ever in another's way: it fails only if too few pages are left. The price is the last,
partly filled page of each, and that nobody else gets the region. A block's pages are seen at one
contiguous range of addresses, which is never used again.

Source: vLLM's block manager (Kwon et al.: Efficient memory management for large language model
serving with PagedAttention, 2023, 4.2) and its gpu_memory_utilization, for every request instead of
the cache alone; ranges of addresses as in vAttention (Prabhu et al., 2025, 5).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..sim.ground import drop_block, new_block
from ..sim.ground_driver import driver_map, reserve_addresses
from ..sim.mechanism import Honours, Mechanism
from ..sim.param import Param
from ..sim.span import whole_pages
from ..sim.state import CAPACITY, HUGE
from ..traces.units import KiB, MiB

SHARE, PAGE = 0, 1  # parameters
FREE_BYTES, IS_RESERVED = 0, 1  # words of `own`


def own(values: Mapping[str, int], lanes: int) -> int:
    """What is left of the region, and whether there is one."""
    return 2


def allocate(m, size, lane):
    page = m.param[PAGE]
    need = (size + page - 1) // page * page
    if m.opt[CAPACITY] >= HUGE:
        if m.own[FREE_BYTES] < need:  # a device without end has no share: it takes what it lacks
            driver_map(m, need - m.own[FREE_BYTES], page)
            m.own[FREE_BYTES] = need
    elif m.own[IS_RESERVED] == 0:
        unit = whole_pages(m, page)
        hundredth, rest = m.opt[CAPACITY] // 100, m.opt[CAPACITY] % 100
        region = hundredth * m.param[SHARE] + rest * m.param[SHARE] // 100
        region = region // unit * unit
        driver_map(m, region, unit)
        m.own[FREE_BYTES] = region
        m.own[IS_RESERVED] = 1
    if m.own[FREE_BYTES] < need:
        return np.int64(0)
    m.own[FREE_BYTES] -= need
    b = new_block(m)
    m.size[b] = need
    m.addr[b] = reserve_addresses(m, need)
    return b


def free(m, b):
    m.own[FREE_BYTES] += m.size[b]
    drop_block(m, b)


ONE_REGION = Mechanism(
    "one_region",
    "vLLM: Kwon et al., PagedAttention (2023), 4.2, and its gpu_memory_utilization",
    allocate,
    free,
    params=(
        Param("share", 90, 10, 100, "share of the device that it reserves", "%"),
        Param("page", 2 * MiB, 64 * KiB, 64 * MiB, "what it hands out", "bytes", True),
    ),
    honours=Honours(
        shares=True, simulated="every request is mapped anew, at addresses never used again"
    ),
    own=own,
)

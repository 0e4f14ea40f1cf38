"""PyTorch's native policy, in every setting: best fit, thresholds, and the recovery chain.

Source: c10/cuda/CUDACachingAllocator.cpp, DeviceCachingAllocator::malloc.
"""

from __future__ import annotations

import numpy as np

from ..sim.assumed import expands, gc_bytes, is_mixed
from ..sim.expandable import best_fixed, grow_segment, prefer_reach
from ..sim.index import find
from ..sim.policy import Policy
from ..sim.reclaim import collect_garbage, release_everything, release_oversize
from ..sim.segments import new_segment
from ..sim.state import (
    ALLOC_RETRIES,
    CAPTURED,
    CEILING,
    CLOCK,
    EXPANDS,
    GC_BYTES,
    HUGE,
    IN_CAPTURE,
    LANE,
    LANE_WORDS,
    LEAST_REST,
    LIMIT,
    MAX_SPLIT,
    NEED,
    OOM_REJECTIONS,
    POOL,
    POOL_WORDS,
    REJECTED,
    RESERVED,
    SEGMENT,
    THROW_LIMIT,
)


def choose(s, q):
    """Best fit in the request's lane, or nothing if the best fit breaks a max_split_size rule.

    Source: get_free_block. Only one candidate is ever held against the rules.
    """
    lane = s.classes[q + LANE]
    need = s.classes[q + NEED]
    if gc_bytes(s) != 0:
        s.pool[s.lanes[lane * LANE_WORDS + POOL] * POOL_WORDS + CLOCK] += 1
    if expands(s) != 0:
        b = prefer_reach(s, lane, need, find(s, q))
    elif is_mixed(s) != 0:
        b = best_fixed(s, lane, need)
    else:
        b = find(s, q)
    if s.size[b] >= s.classes[q + CEILING]:  # of no block (0): 0
        # Cleared so that compiled code has a branch here instead of a choice between two values:
        # what comes does not wait for the size. Whoever asks the driver clears it anyway.
        s.g[REJECTED] = 0
        return np.int64(0)
    return b


def splits(s, q, rest):
    """Source: should_split; the least remainder per request was worked out beforehand."""
    return rest >= s.classes[q + LEAST_REST]


def before_driver(s, q):
    """Source: malloc, the call of garbage_collect_cached_blocks."""
    if s.opt[GC_BYTES] != 0:
        collect_garbage(s)


def from_driver(s, q, retry, try_op):
    """A new segment, or more pages of an expandable one, within the allocator's own limits.

    Source: alloc_block.
    """
    if retry:
        s.g[ALLOC_RETRIES] += 1
    wanted = s.g[RESERVED] + s.classes[q + SEGMENT]
    if wanted > s.opt[LIMIT]:
        return np.int64(0)
    if wanted > s.opt[THROW_LIMIT]:
        s.g[OOM_REJECTIONS] += 1
        s.g[REJECTED] = 1
        return np.int64(0)
    lane = s.classes[q + LANE]
    if s.lanes[lane * LANE_WORDS + EXPANDS] != 0:
        return grow_segment(s, q, lane, try_op)
    return new_segment(s, lane, s.classes[q + SEGMENT], try_op)


def recover(s, q, stage):
    """Give memory back after a refusal: oversize blocks first, then everything, then give up.

    Source: malloc, the chain of release_available_cached_blocks and release_cached_blocks.
    """
    if stage == 0 and s.g[REJECTED] != 0:  # a later attempt that is rejected is one that failed
        return np.int64(0)
    if stage == 0 and s.opt[MAX_SPLIT] < HUGE and release_oversize(s, q):
        return np.int64(1)
    row = s.classes[q + LANE] * LANE_WORDS
    if stage <= 1 and s.g[IN_CAPTURE] == 0 and s.lanes[row + CAPTURED] == 0:
        release_everything(s)
        return np.int64(2)
    return np.int64(0)


PYTORCH = Policy(
    "pytorch",
    "c10/cuda/CUDACachingAllocator.cpp",
    {
        "choose": choose,
        "splits": splits,
        "before_driver": before_driver,
        "from_driver": from_driver,
        "recover": recover,
    },
    recurs=True,
    traceless=True,
)

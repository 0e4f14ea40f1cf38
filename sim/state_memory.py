"""The memory of a simulation's state: made, kept for the next run, and grown."""

from __future__ import annotations

import threading

import numpy as np

from ..traces.units import MiB
from .device import FIRST_ADDRESS
from .memory import Fields
from .packing import Packed
from .plan import Plan
from .policy import Policy
from .spares import all_spare, more_spare
from .state import (
    HIGHEST_ID,
    ID_STEP,
    LOG_CAPACITY,
    LOG_WORDS,
    NEXT_ADDRESS,
    SPARES_NEEDED,
    STATE,
    TABLE_SIZE,
)
from .stats import N_STATS

MOST_KEPT = 8 * MiB  # of a state that waits for the next run of its thread
_kept = threading.local()


def new_state(policy: Policy, plan: Plan, packed: Packed, blocks: int, log_rows: int) -> Fields:
    """Return an empty state with room for `blocks` block ids and `log_rows` log rows."""
    # The loop looks ahead at an op's slot before it knows that RELEASE_POOL names a pool there.
    slots = max(packed.n_slots, len(packed.program.pools))
    dimensions = dimensions_of(
        blocks, slots, plan.n_bins, len(plan.lanes), plan.pools.size, log_rows
    )
    state = _reused(dimensions)
    if state is None:
        state = STATE.views(STATE.new(**dimensions))
    open_state(state, policy.addresses(), plan.pools, blocks, plan.n_bins, log_rows)
    return state


def dimensions_of(
    blocks: int, slots: int, n_bins: int, n_lanes: int, pool_words: int, log_rows: int
) -> dict[str, int]:
    """Dimensions of a state's buffer with room for so many of each."""
    beyond = _word_beyond(n_bins)
    return dict(
        blocks=blocks,
        slots=slots,
        bins=n_bins + 1,
        words0=beyond + 1,
        words1=(beyond >> 6) + 1,
        lanes=max(1, n_lanes),
        pools=pool_words,
        stats=N_STATS,
        log=max(1, log_rows * LOG_WORDS),
    )


def _word_beyond(n_bins: int) -> int:
    """Word of bits0 whose first bin is beyond all others and ends every search (index.py)."""
    return (n_bins >> 6) + 1


def open_state(
    f: Fields,
    table: np.ndarray,
    pools: np.ndarray,
    blocks: int,
    n_bins: int,
    log_rows: int,
) -> None:
    """Write into an empty state what every run begins with.

    Args:
        table: addresses of the functions compiled apart.
        pools: the initial pool table.
        blocks, n_bins, log_rows: how many block ids, bins and rows of the log there are.
    """
    beyond = _word_beyond(n_bins)
    f["bits0"][beyond] = 1
    f["bits1"][beyond >> 6] = 1 << (beyond & 63)
    f["pool"][: pools.size] = pools.ravel()
    f["table"][:TABLE_SIZE] = table
    all_spare(f, blocks - 1)
    f["g"][NEXT_ADDRESS] = FIRST_ADDRESS
    f["opt"][LOG_CAPACITY] = log_rows


def keep_for_next(state: Fields) -> None:
    """Offer the state of a run that is over to the next one on this thread.

    A fresh one costs more than a short replay: the system clears its pages as they are touched.
    """
    if len(state.buffer) * 8 <= MOST_KEPT:
        _kept.state = state


def _reused(dimensions: dict[str, int]) -> Fields | None:
    """The state offered on this thread, empty again, if it has these dimensions."""
    state: Fields | None = getattr(_kept, "state", None)
    if state is None:
        return None
    _kept.state = None
    end = int(state["g"][HIGHEST_ID]) + ID_STEP
    return state if STATE.renew(state.buffer, end, **dimensions) else None


def grown(old: Fields, policy: Policy, plan: Plan, packed: Packed) -> Fields:
    """Return the same state with twice the room for blocks."""
    before = len(old["size"]) // ID_STEP
    blocks = 2 * before
    new = new_state(policy, plan, packed, blocks, int(old["opt"][LOG_CAPACITY]))
    for name, field in old.items():
        m = min(len(field), len(new[name]))
        new[name][:m] = field[:m]
    more_spare(new, blocks - before)
    new["g"][SPARES_NEEDED] = spares_needed(blocks, bool(old["g"][SPARES_NEEDED] > 8))
    return new


def spares_needed(blocks: int, expandable: bool) -> int:
    """Spare ids that must be left before an op starts.

    Unmapping cuts up to two new blocks per free block, and at most every second block is free, so
    a release of everything may need as many ids as are in use.
    """
    return 8 + (blocks // 2 if expandable else 0)

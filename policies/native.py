"""The native allocator under a settings line: requests and options worked out for the kernel.

Source: c10/cuda/CUDACachingAllocator.cpp, round_size, get_allocation_size, should_split,
setMemoryFraction; c10/core/AllocatorConfig.cpp, roundup_power2_divisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..sim.conditions import Conditions, first_conditions
from ..sim.device import Device
from ..sim.packing import Packed
from ..sim.release import Release
from ..sim.replay import replay
from ..sim.requests import Requests
from ..sim.run import Run
from ..sim.settings import OFF, Settings
from ..sim.settings_line import parse_settings
from ..sim.state import (
    CAPTURE_EMPTIES_POOLS,
    EXPANDABLE,
    GC_BYTES,
    HUGE,
    LIMIT,
    MAX_NON_SPLIT_ROUNDING,
    MAX_SPLIT,
    MIXED,
    REFUSES_SMALL_RESERVE,
    SINGLE_POOL_EMPTY,
    THROW_LIMIT,
    TIE_ADDRESS,
    TIE_BLOCK,
    TIE_BREAK,
    TIE_SEGMENT,
)
from ..traces.errors import PolicyError
from ..traces.program import Program
from ..traces.units import MiB
from .pytorch import PYTORCH

MIN_BLOCK = 512
SMALL_LIMIT = MiB
SMALL_SEGMENT = 2 * MiB
MIN_LARGE = 10 * MiB
LARGE_ROUNDING = 2 * MiB
ROUNDINGS_KEPT = 16
_TIES = {"address": TIE_ADDRESS, "segment": TIE_SEGMENT, "block": TIE_BLOCK}


def round_sizes(sizes: np.ndarray, divisions: tuple[int, ...]) -> np.ndarray:
    """Round requests to block sizes, vectorised.

    Args:
        sizes: requested bytes, > 0.
        divisions: 16 entries, see Settings.roundup_divisions.

    Source: CUDACachingAllocator.cpp, round_size; c10/core/AllocatorConfig.cpp,
    roundup_power2_next_division.
    """
    n = np.asarray(sizes, np.int64)
    plain = np.maximum(MIN_BLOCK, -(-n // MIN_BLOCK) * MIN_BLOCK)
    if not any(d > 1 for d in divisions):
        return plain
    log2 = np.frexp(n.astype(np.float64))[1].astype(np.int64) - 1
    log2 -= (np.int64(1) << log2) > n  # a double can round a size up to the next power of two
    d = np.asarray(divisions, np.int64)[np.clip(log2 - 20, 0, 15)]
    floor = np.int64(1) << log2
    step = np.maximum(1, floor // np.maximum(1, d))
    down = n // step * step
    divided = np.where(down == n, n, down + step)
    return np.where((d > 1) & (n > MIN_BLOCK * d), divided, plain)


@lru_cache(ROUNDINGS_KEPT)
def _rounded(sizes: bytes, divisions: tuple[int, ...]) -> np.ndarray:
    """Rounded requests, read-only; one line differs from the next in other settings mostly."""
    need = round_sizes(np.frombuffer(sizes, np.int64), divisions)
    need.flags.writeable = False
    return need


def requests_of(
    program: Program,
    settings: Settings,
    rules: Release,
    device: Device,
    keep_start: bool = True,
    limit_fraction: float | None = None,
    was_expandable: bool = False,
    need: np.ndarray | None = None,
) -> Requests:
    """Work out everything a settings line decides about a program's requests.

    Args:
        program: its distinct requests.
        settings: the parsed settings line.
        rules: the release.
        device: its total memory sizes reservations and limits.
        keep_start: whether the replay keeps the recorded start layout.
        limit_fraction: share of the device set by a call; None = what the settings say.
        was_expandable: whether expandable_segments was on earlier in the run.
        need: bytes a block must have for each request; None = as PyTorch rounds.
    """
    if need is None:
        need = _rounded(program.req_size.tobytes(), settings.roundup_divisions)
    is_small = need <= SMALL_LIMIT
    segment = np.where(
        is_small,
        SMALL_SEGMENT,
        np.where(
            need < MIN_LARGE,
            settings.large_segment_size,
            -(-need // LARGE_ROUNDING) * LARGE_ROUNDING,
        ),
    )
    private = program.req_pool > 0
    expands = np.full(len(need), settings.expandable_segments)
    if not rules.expandable_private_pools:
        expands &= ~private
    max_split = HUGE if settings.max_split_size >= OFF else settings.max_split_size
    least_rest = np.where(
        is_small | settings.expandable_segments,  # the option, even where the pool cannot expand
        MIN_BLOCK,
        np.where(need < max_split, SMALL_LIMIT + 1, HUGE),
    )
    total = device.total_bytes
    reserve = total + total // 8
    if settings.reserve_fraction is not None:
        reserve = min(reserve, int(settings.reserve_fraction * total))
    if settings.reserve_bytes is not None:
        reserve = min(reserve, settings.reserve_bytes)
    limit = throw = HUGE
    gc_bytes = 0
    fraction = settings.per_process_memory_fraction
    if device.capacity_bytes is not None:
        share = fraction if limit_fraction is None else limit_fraction
        if share < 1.0 or (limit_fraction is not None and not rules.fraction_one_is_no_limit):
            limit = math.floor(share * total + 0.5) if rules.rounds_limit else int(share * total)
            if settings.garbage_collection_threshold > 0:
                gc_bytes = int(settings.garbage_collection_threshold * limit) + 1
        if settings.throw_on_cudamalloc_oom:
            throw = int(fraction * total)
    start = program.start.segments["is_expandable"]
    start_expandable = keep_start and len(start) > 0 and bool(start.any())
    return Requests(
        need=need,
        segment=segment,
        least_rest=least_rest,
        is_small=is_small,
        expands=expands,
        captured=np.array([rules.is_captured(pool) for pool in program.pools])[program.req_pool],
        small_page=SMALL_SEGMENT,
        large_page=settings.large_segment_size,
        reserve_bytes=reserve,
        options={
            MAX_SPLIT: max_split,
            MAX_NON_SPLIT_ROUNDING: settings.max_non_split_rounding,
            LIMIT: limit,
            THROW_LIMIT: throw,
            GC_BYTES: gc_bytes,
            TIE_BREAK: _TIES[rules.tie_break],
            CAPTURE_EMPTIES_POOLS: int(rules.version >= (2, 8)),
            SINGLE_POOL_EMPTY: int(rules.empties_single_pools),
            REFUSES_SMALL_RESERVE: int(rules.version >= (2, 15)),
            EXPANDABLE: int(settings.expandable_segments),
            MIXED: int((start_expandable or was_expandable) and not settings.expandable_segments),
        },
    )


def conditions_of(
    packed: Packed,
    settings: Settings,
    rules: Release,
    device: Device,
    limit_fraction: float | None = None,
) -> list[Conditions]:
    """What holds at first, and after each settings call that the program makes.

    Raises:
        PolicyError: the release refuses a call's line on top of what is in force then.
    """
    now = first_conditions(settings, rules, device)
    if limit_fraction is not None:
        now = replace(now, limit_fraction=limit_fraction)
    out = [now]
    for call in packed.program.settings_calls[: len(packed.changes)]:
        try:
            now = replace(now, settings=parse_settings(call.line, rules, now.settings))
        except PolicyError as error:
            raise PolicyError(
                f"what the program sets before entry {call.entry:,}: {error}"
            ) from None
        out.append(now)
    return out


def parts_of(
    packed: Packed, conditions: Sequence[Conditions], rules: Release
) -> list[tuple[Requests, Device]]:
    """What PyTorch decides about the program's requests, at first and after each change.

    Raises:
        PolicyError: pages of expandable memory change their size, which is not simulated.
    """
    parts: list[tuple[Requests, Device]] = []
    known: dict[tuple[Conditions, bool], Requests] = {}
    was_expandable = False
    sizes = {c.settings.large_segment_size for c in conditions}
    if len(sizes) > 1 and any(c.settings.expandable_segments for c in conditions):
        raise PolicyError(
            "found large_segment_size_mb of "
            + ", ".join(str(size // MiB) for size in sorted(sizes))
            + " in turn and expandable segments, expected one size where segments expand: a change "
            "of their pages is not simulated"
        )
    for c in conditions:
        requests = known.get((c, was_expandable))
        if requests is None:
            requests = known[c, was_expandable] = requests_of(
                packed.program, c.settings, rules, c.device, packed.keeps_start, c.limit_fraction,
                was_expandable,
            )  # fmt: skip
        was_expandable |= c.settings.expandable_segments
        parts.append((requests, c.device))
    return parts


def replay_native(
    packed: Packed,
    settings: Settings,
    rules: Release,
    device: Device = Device(),  # noqa: B008 (frozen)
    *,
    limit_fraction: float | None = None,
    later: Sequence[Conditions] | None = None,
    **options: Any,
) -> Run:
    """Replay a packed program through PyTorch's own policy.

    Args:
        packed: the program.
        settings, device, limit_fraction: as in Conditions; they hold at first.
        rules: the release to follow.
        later: what holds after each CHANGE of the program; None = its settings calls say.
        options: as in sim.replay.replay.

    Raises:
        PolicyError: the release refuses a settings call of the program, or as for `parts_of`.
    """
    if later is None:
        conditions = conditions_of(packed, settings, rules, device, limit_fraction)
    else:
        conditions = [Conditions(settings, device, limit_fraction), *later]
    parts = parts_of(packed, conditions, rules)
    return replay(packed, PYTORCH, *parts[0], later=parts[1:], **options)

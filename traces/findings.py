"""What a user should know about a lifted program, in plain sentences with numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from .causes import Causes
from .event import Action, BlockState
from .program import Program
from .recording import Finding
from .units import MiB, format_bytes
from .view import History, completes_nothing
from .warm_start import SMALL_LIMIT, Rounding, StartBlocks

Add = Callable[[str, int, str], None]

# Kinds that mean the program is not known exactly.
GUESSES = frozenset(
    """
    lost_free lost_completion late_free late_completion unexplained_block unmatched_free
    unrequested no_segment overlap unknown_slack guessed_pool outside segment_clash
    lost_segment_alloc lost_segment_free segment_size_changed cut_tail state_mismatch
    unseen_allocs no_allocs no_frees no_free_requests no_completions no_segment_entries
    assumed_recovery
    """.split()
)

# kind -> sentence; {n} is the count.
SENTENCES = {
    "lost_free": "blocks that vanish with no recorded free: {n}; each is freed just before the "
    "first entry that shows it gone",
    "lost_completion": "requested frees that never complete although their memory is used again: "
    "{n}; each completes just before that",
    "late_free": "blocks live at the last entry and absent from the final state: {n}; they are "
    "freed at the end",
    "late_completion": "frees pending at the last entry and absent from the final state: {n}; they "
    "complete at the end",
    "unexplained_block": "blocks of the final state that no entry allocates, at addresses used "
    "before: {n}; they are allocated at the end",
    "unmatched_free": "frees of an address where nothing is live (freed twice, or the allocation "
    "was not recorded): {n}; they are left out",
    "unrequested": "frees that complete and were never requested: {n}; they are requested where "
    "they complete",
    "no_segment": "blocks live when the recording began that lie in no known segment: {n}; "
    "segments of whole 2 MiB were made up around them",
    "overlap": "blocks live when the recording began that would reach into the next one (were the "
    "settings changed?): {n}; they are cut short",
    "unknown_slack": "large blocks live when the recording began of which nothing shows where they "
    "end: {n}; each may be up to 1 MiB larger than assumed",
    "guessed_pool": "segments released before the end, by a release that does not record pools, "
    "although private pools exist: {n}; their pool was worked out from what they served",
    "outside": "allocations outside all known segments: {n}",
    "segment_clash": "segment entries that create memory that exists or release memory that does "
    "not: {n}",
    "lost_segment_alloc": "segments whose creation was not recorded: {n}",
    "lost_segment_free": "segments that vanish with no recorded release: {n}",
    "segment_size_changed": "segments of another size in the final state than when they were "
    "created: {n}",
    "cut_tail": "segment entries at the end that lead to no allocation: {n}; they are left out",
    "state_mismatch": "blocks allocated in the final state although their free was requested: {n}",
}


def describe(
    h: History,
    program: Program,
    start: StartBlocks,
    causes: Causes,
    notes: Counter[str],
    rounding: Rounding,
    device: int,
) -> tuple[list[Finding], bool]:
    """Return all findings about a program, and whether nothing in it was guessed."""
    found: list[Finding] = []

    def add(kind: str, count: int, text: str) -> None:
        if count:
            found.append(Finding(kind, int(count), text, device))

    _describe_start(h, program, start, add)
    _describe_missing_classes(h, program, notes["unmatched_free"], add)
    for kind, text in SENTENCES.items():
        add(kind, notes[kind], text.format(n=f"{notes[kind]:,}"))
    _describe_causes(causes, add)
    _describe_settings(h, rounding, add)
    backwards = int((np.diff(h.time) < 0).sum()) if len(h.time) else 0
    add("clock", backwards, f"entries with an earlier time than the one before: {backwards:,}; "
        "their order counts, not the clock")  # fmt: skip
    return found, not any(f.kind in GUESSES for f in found)


def _describe_start(h: History, program: Program, start: StartBlocks, add: Add) -> None:
    n, n_blocks = len(h.action), len(start.address)
    reserved = program.start.reserved_bytes
    if not n or not (n_blocks or reserved):
        return
    live = int(program.start.blocks["size"][program.start.blocks["alloc"] >= 0].sum())
    if not (len(h.segments["address"]) or len(program.driver_op)):
        sizes = program.req_size[program.request[: program.n_start]]
        add("unseen_allocs", n_blocks, f"frees of memory whose allocation was not recorded: "
            f"{n_blocks:,} ({format_bytes(int(sizes.sum()))}); it is taken to be live at the start "
            "and is placed anew, in address order")  # fmt: skip
        return
    add(
        "warm_start",
        n_blocks or 1,
        f"the recording begins with {n_blocks:,} blocks live ({format_bytes(live)}) in "
        f"{format_bytes(reserved)} of reserved memory, rebuilt from the final state",
    )
    round_number = n >= 1000 and (n % 1000 == 0 or n & (n - 1) == 0)
    if round_number and n_blocks:
        add(
            "truncated",
            n,
            f"the recording holds {n:,} entries and begins with blocks live: the history's buffer "
            "was probably full and its oldest entries are gone",
        )


def _describe_missing_classes(h: History, program: Program, unmatched: int, add: Add) -> None:
    """Name whole classes of entries that are absent: `skip_actions` can switch them off."""
    counts = np.bincount(h.action, minlength=int(Action.OTHER) + 1)
    allocs, requests, completions = (
        int(counts[a]) for a in (Action.ALLOC, Action.FREE_REQUESTED, Action.FREE_COMPLETED)
    )
    segments = int(counts[Action.SEGMENT_ALLOC : Action.SEGMENT_UNMAP + 1].sum())
    n = len(h.action)
    if not allocs and unmatched:
        text = f"entries that are allocs: none of {n:,}, although addresses are freed again"
        add("no_allocs", requests or completions, text)
    final = int((h.blocks["state"] != BlockState.INACTIVE).sum())
    knows_end = bool(segments or len(h.segments["address"]))
    if knows_end and allocs > final and not requests + completions:
        add("no_frees", allocs, f"entries that are frees: none, beside {allocs:,} that are allocs")
    elif completes_nothing(h):
        add("no_completions", requests,
            f"completed frees: none, beside {requests:,} requested ones; each is taken to complete "
            "at once")  # fmt: skip
    elif completions and not requests:
        add("no_free_requests", completions,
            f"requested frees: none, beside {completions:,} completed ones")  # fmt: skip
    empty_start = not program.n_start and allocs
    if not segments and empty_start and len(h.segments["address"]):
        n = len(h.segments["address"])
        add("no_segment_entries", n,
            "no entry creates a segment and nothing is live at the first entry, yet the segments "
            f"at the end are {n:,}: segment entries were probably switched off")  # fmt: skip


def _describe_causes(causes: Causes, add: Add) -> None:
    n = len(causes.empty_caches)
    released = sum(len(c.entries) for c in causes.empty_caches)
    add(
        "inferred_empty_cache",
        n,
        f"calls of empty_cache or deletions of a memory pool, inferred from {released:,} "
        f"releases: {n:,}; calls that released nothing leave no trace",
    )
    gaps = causes.by_rule
    add(
        "assumed_recovery",
        gaps,
        f"allocations in front of which memory is released and no stack says why: {gaps:,}; it is "
        "taken as released to make room for them",
    )
    n = len(causes.in_capture)
    add(
        "capture",
        n,
        f"out-of-memory errors that left frees pending, so during a graph capture: {n:,}",
    )


def _describe_settings(h: History, rounding: Rounding, add: Add) -> None:
    """Look for signs that the settings at the end were not in force all the time."""
    mapped = int((h.action == Action.SEGMENT_MAP).sum())
    fixed = int((h.action == Action.SEGMENT_ALLOC).sum())
    other = fixed if rounding.expandable else mapped
    if rounding.expandable and fixed:
        # Private pools of old releases and of custom allocators never use expandable memory.
        other = int(((h.action == Action.SEGMENT_ALLOC) & (h.pool == 0)).sum())
    state = "on" if rounding.expandable else "off"
    text = (
        f"segments created although expandable segments are {state} at the end, so that they were "
        f"switched before: {other:,}"
    )
    add("mixed_segments", other, text)
    signs = []
    b, s = h.blocks, h.segments
    home = np.repeat(np.arange(len(s["address"])), s["n_blocks"])
    exact = (s["is_small"] | s["is_expandable"])[home].astype(bool)
    active = exact & (b["state"] != BlockState.INACTIVE) & (b["requested_size"] > 0)
    odd = int((rounding.round(b["requested_size"][active]) != b["size"][active]).sum())
    if odd:
        signs.append(f"live blocks not as large as the final settings round them: {odd:,}")
    created = np.flatnonzero(h.action == Action.SEGMENT_ALLOC)
    created = created[created + 1 < len(h.action)]
    served = created[h.action[created + 1] == Action.ALLOC]
    size = rounding.round(h.size[served + 1])
    large = np.where(size < 10 * MiB, rounding.large_segment, -(-size // (2 * MiB)) * 2 * MiB)
    wrong = int((h.size[served] != np.where(size <= SMALL_LIMIT, 2 * MiB, large)).sum())
    if wrong:
        signs.append(f"segments not of the size the final settings ask for: {wrong:,}")
    if signs:
        text = "the settings at the end were not in force all the time: " + "; ".join(signs)
        add("settings_changed", odd + wrong, text)

"""Replay: one program, one policy, one device; the only way into the kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..traces.event import Action
from ..traces.program import Op, Program
from .assumed import NOTHING, Assumed, assumption
from .costs import work_of
from .device import Device
from .engine import play
from .memory import Fields
from .on_call import uninterrupted
from .packing import Packed
from .plan import Plan, build_plan, plan_of
from .policy import Policy
from .readout import read_layout
from .requests import Requests
from .run import RUN_EVENT, Run
from .start import load_start, set_options
from .state import (
    ALLOC_RETRIES,
    ALLOCATED,
    BOUND,
    DEVICE_ALLOCS,
    DEVICE_FREES,
    DIVERGED,
    FIRST_OOM,
    FIRST_OOM_BYTES,
    GC_BYTES,
    HUGE,
    LATEST_PEAK,
    LOG_ROWS,
    LOG_WORDS,
    MAX_SPLIT,
    OOM_REJECTIONS,
    OOMS,
    PEAK_ACTIVE,
    PEAK_ALLOCATED,
    PEAK_REQUESTED,
    PEAK_RESERVED,
    PENDING,
    POOL,
    REQUESTED,
    RESERVED,
    SPARES_NEEDED,
    STOP_AT_OOM,
    STREAM,
    SYNCS,
)
from .state_memory import grown, keep_for_next, new_state, spares_needed
from .stats import flat_stats
from .steady import skip_ahead

_NOTHING = np.zeros(0, np.int64)
_LEAN = {
    "allocated_bytes.all.current": ALLOCATED,
    "allocated_bytes.all.peak": PEAK_ALLOCATED,
    "active_bytes.all.peak": PEAK_ACTIVE,
    "requested_bytes.all.current": REQUESTED,
    "requested_bytes.all.peak": PEAK_REQUESTED,
    "reserved_bytes.all.current": RESERVED,
    "reserved_bytes.all.peak": PEAK_RESERVED,
    "num_device_alloc": DEVICE_ALLOCS,
    "num_device_free": DEVICE_FREES,
    "num_alloc_retries": ALLOC_RETRIES,
    "num_ooms": OOMS,
    "num_oom_rejections": OOM_REJECTIONS,
    "num_sync_all_streams": SYNCS,
}


def replay(
    packed: Packed,
    policy: Policy,
    requests: Requests,
    device: Device = Device(),  # noqa: B008 (frozen)
    *,
    later: Sequence[tuple[Requests, Device]] = (),
    stop_at_oom: bool = True,
    recorded_driver: bool = False,
    track: bool = False,
    events: bool = False,
    layout: bool = False,
    skip: bool = True,
    values: Mapping[str, int] | None = None,
    bound: int = HUGE,
) -> Run:
    """Replay a packed program through a policy.

    Args:
        packed: the program; whether it keeps its start layout was decided when it was packed.
        policy: the decisions about the state.
        requests: the decisions about the requests.
        device: what the driver can give.
        later: requests and device after each CHANGE of the program.
        stop_at_oom: end at the first out-of-memory error, as the program would; False = drop the
            failed allocation with its free and go on.
        recorded_driver: the driver answers as the recording shows (validation).
        track: keep the full statistics instead of the usual dozen.
        events: return every event in order.
        layout: return the final segments and blocks.
        skip: do not play what provably repeats (see steady.py); the answer is the same. With
            `events`, a recorded driver or changes everything is played.
        values: the policy's parameters by name; missing ones have their defaults.
        bound: end as soon as more bytes than this are reserved, and say that the run was cut; for
            those who compare many runs and need only the ones that reserve less.

    Returns:
        The run. Its `stats` hold the full set of keys only with `track`.

    Raises:
        ValueError: `later` does not have one entry for each CHANGE, or events are asked of a long
            trace.
    """
    program = packed.program
    if events and packed.source is not None:
        raise ValueError("a long trace is not held in memory, and neither is what happened in it")
    if len(later) != len(packed.changes):
        raise ValueError(f"{len(packed.changes)} changes, but {len(later)} later conditions")
    warm = packed.keeps_start and len(program.start.segments["size"]) > 0
    start = program.start if warm else None
    parts = [(requests, device), *later]
    if later:
        kinds = {id(part): part for part, _ in parts}  # what held before may come to hold again
        plan = build_plan(program, list(kinds.values()), start)
        buffers = dict(zip(kinds, (plan.buffer, *plan.later), strict=True))
        plan = replace(plan, later=tuple(buffers[id(part)] for part, _ in later))
    else:
        plan = plan_of(packed, requests, start)
    params = policy.checked(values)
    log_rows = 4 * len(program.driver_op) + 4096 if events else 0
    while True:
        fields, out, n = _play(
            packed, policy, parts, plan, start is not None, stop_at_oom, recorded_driver, track,
            events, log_rows, skip, params, bound,
        )  # fmt: skip
        rows = int(fields["g"][LOG_ROWS])
        if not events or rows <= log_rows:
            break
        log_rows = rows + 1  # a replay is deterministic: the second one has room for its log
    g = fields["g"].tolist()
    if track:
        max_split = requests.options.get(MAX_SPLIT, HUGE)  # PyTorch notes it once, at the start
        max_split = -1 if max_split >= HUGE else max_split
        stats = flat_stats(fields["stat"], g, max_split)
    else:
        stats = {name: g[k] for name, k in _LEAN.items()}
        latest, pending = g[LATEST_PEAK], g[PENDING]
        for name, peak in (("allocated", latest), ("active", latest + pending)):
            name = f"{name}_bytes.all.peak"
            stats[name] = max(stats[name], peak)
        stats["active_bytes.all.current"] = g[ALLOCATED] + pending
    stats["diverged"] = g[DIVERGED]
    addr = packed.no_addresses
    if events:
        addr = addr.copy()
        if start is not None:
            owned = program.start.blocks["alloc"] >= 0
            addr[program.start.blocks["alloc"][owned]] = program.start.blocks["address"][owned]
        placed = np.flatnonzero(packed.events[: packed.prefix] & 15 == Op.MALLOC)
        addr[: len(placed)] = out[placed]
        took = np.flatnonzero(program.op[: max(0, n - packed.prefix)] == Op.MALLOC)
        addr[program.arg[took]] = out[packed.prefix + took].astype(np.uint64)
    first_oom = g[FIRST_OOM] - 1
    run = Run(
        n_ops=max(0, n - packed.prefix),
        first_oom_op=max(-1, first_oom - packed.prefix) if first_oom >= 0 else -1,
        first_oom_bytes=g[FIRST_OOM_BYTES],
        stats=stats,
        addr=addr,
        events=_events(packed, plan, fields["log"], rows, out, n) if events else _no_events(),
        layout=read_layout(fields, plan, packed, n) if layout else None,
        work=work_of(g),
        cut=g[PEAK_RESERVED] > bound,
    )
    keep_for_next(fields)
    return run


def _play(
    packed: Packed,
    policy: Policy,
    parts: Sequence[tuple[Requests, Device]],
    plan: Plan,
    keeps_start: bool,
    stop_at_oom: bool,
    recorded_driver: bool,
    track: bool,
    keep_addresses: bool,
    log_rows: int,
    skip: bool,
    params: Sequence[int],
    bound: int,
) -> tuple[Fields, np.ndarray, int]:
    """Run the kernel from change to change; the state, addresses and number of events played."""
    program = packed.program
    requests, device = parts[0]
    start_blocks = 0
    if keeps_start:
        start_blocks = 3 * len(program.start.blocks["size"]) + 16
    kinds = [part.expands for part, _ in parts]
    if keeps_start:
        kinds.append(program.start.segments["is_expandable"] != 0)
    expandable = any(kind.any() for kind in kinds)
    of_all = expandable if not expandable or all(kind.all() for kind in kinds) else None
    blocks = 2 * packed.max_live + 4096 + start_blocks
    if expandable:
        blocks *= 2
    state = new_state(policy, plan, packed, blocks, log_rows)
    state["g"][SPARES_NEEDED] = spares_needed(blocks, expandable)
    state["param"][: len(params)] = params
    n = len(packed.events)
    out = np.zeros(n, np.int64) if keep_addresses else _NOTHING
    player = _Player(packed, policy, plan, state, out)
    ends = [*packed.changes, n]
    ages = any(part.options.get(GC_BYTES, 0) for part, _ in parts)
    for (part, its_device), buffer, end in zip(
        parts, (plan.buffer, *plan.later), ends, strict=True
    ):
        player.rows = buffer
        set_options(
            player.state,
            part,
            its_device,
            len(program.pools),
            len(plan.lanes),
            track=track,
            stop_at_oom=stop_at_oom,
            script_rows=len(program.driver_op) if recorded_driver else -1,
            ages=ages,
            bound=bound,
            ascends=not (keeps_start or recorded_driver),
        )
        player.assumed = assumption(player.state["opt"], of_all, keep_addresses)
        if player.at == 0 and keeps_start:
            load_start(player.state, packed, plan, requests, device)
        may_skip = skip and policy.recurs and not (keep_addresses or recorded_driver)
        if may_skip and not packed.changes and packed.period:
            skipped = skip_ahead(packed.period, player.to, packed, plan)
            player.at += skipped
        if player.to(end) is None:
            return player.state, out, player.at
        player.at += 1  # the change itself
    return player.state, out, n


class _Player:
    """A run in progress.

    Attributes:
        state: its state; a larger one takes its place whenever block ids run out.
        rows: plan buffer of the conditions of now.
        assumed: what compiled code may take for granted under these.
        at: the next event.
        ended: it is over, wherever it is.
    """

    def __init__(
        self, packed: Packed, policy: Policy, plan: Plan, state: Fields, out: np.ndarray
    ) -> None:
        self.packed, self.policy, self.plan, self.state, self.out = (
            packed, policy, plan, state, out
        )  # fmt: skip
        self.rows = plan.buffer
        self.assumed: Assumed = NOTHING
        self.at = 0
        self.ended = False

    def to(self, end: int) -> Fields | None:
        """Play up to event `end`; returns the state, or None if the run ended before."""
        while self.at < end and not self.ended:
            begin, stop = self.at, self.packed.end_of_piece(self.at, end)
            events = self.packed.events[:stop]
            with uninterrupted():  # the kernel may come to doors
                self.at = int(
                    play(
                        self.policy, self.assumed, events, begin, self.state.buffer, self.rows,
                        self.out,
                    )
                )  # fmt: skip
            self.packed.give_back(begin, self.at)
            g, opt = self.state["g"], self.state["opt"]
            failed = opt[STOP_AT_OOM] and g[FIRST_OOM]
            self.ended = bool(failed or g[PEAK_RESERVED] > opt[BOUND])
            if self.at < stop and not self.ended:
                self.state = grown(self.state, self.policy, self.plan, self.packed)
        return None if self.ended else self.state


def _no_events() -> np.ndarray:
    return np.zeros(0, RUN_EVENT)


def _events(
    packed: Packed, plan: Plan, log: np.ndarray, rows: int, out: np.ndarray, n: int
) -> np.ndarray:
    """Merge the driver's log with what each op did into one history, oldest first."""
    program: Program = packed.program
    logged = log[: rows * LOG_WORDS].reshape(-1, LOG_WORDS)
    events = packed.events[:n]
    op = events & 15
    op = np.where(op == 8, int(Op.MALLOC), op)
    klass = (events >> 4) & 0xFFFFFFF
    done = out[:n] != 0
    parts = []
    for which, action, rank in (
        ((Op.MALLOC, Op.TRY), Action.ALLOC, 1),
        ((Op.FREE, Op.FREE_LATER, Op.TRY), Action.FREE_REQUESTED, 2),
        ((Op.FREE, Op.COMPLETE, Op.TRY), Action.FREE_COMPLETED, 3),
    ):
        i = np.flatnonzero(np.isin(op, which) & done)
        r = klass[i] - 1
        parts.append(
            np.stack(
                [i, np.full(len(i), rank), np.full(len(i), action), out[i], program.req_size[r],
                 program.req_stream[r], program.req_pool[r]],
                axis=1,
            ).astype(np.int64)
        )  # fmt: skip
    lane = logged[:, 4]
    parts.append(
        np.stack(
            [logged[:, 0], np.zeros(rows, np.int64), logged[:, 1], logged[:, 2], logged[:, 3],
             plan.lanes[lane, STREAM], plan.lanes[lane, POOL] >> 1],
            axis=1,
        )
    )  # fmt: skip
    table = np.concatenate(parts)
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    result = np.zeros(len(table), RUN_EVENT)
    result["op"] = np.maximum(table[:, 0] - packed.prefix, -1)
    for column, name in enumerate(("action", "addr", "size", "stream", "pool"), start=2):
        result[name] = table[:, column]
    return result

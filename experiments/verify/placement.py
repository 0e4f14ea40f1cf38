"""V1: every allocation of the real allocator in the segment and at the offset predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...sim.run import Run
from ...traces.event import Action
from ...traces.program import Layout, Op, Program
from ...traces.recording import DeviceRecording, Recording
from ...traces.units import format_bytes
from .places import ACTION, POOL, RETURNS, SHOWN, SIZE, STREAM, Places, table
from .prediction import GIVING, Driver, Prediction

ASKING = (int(Action.ALLOC), int(Action.OOM))


@dataclass(frozen=True)
class Placement:
    """The outcome of V1.

    Attributes:
        events, events_exact: events of the real allocator; those before the first that differs from
            the prediction.
        allocs: allocations among them.
        state_exact: the final segments are the predicted ones, block by block.
        divergence: the first difference, in words; "" if there is none.
        by_address: whether the release breaks ties between equal blocks by address (until 2.11).
            Then the simulation is told the driver's addresses before it is compared.
        unaided_exact: as events_exact, but with addresses as the simulator gives them.
        exact_when_told: whether the simulation that is told the driver's addresses is exact.
        recorded_pools: the pools' ids stood in the history and were compared too.
    """

    events: int
    events_exact: int
    allocs: int
    state_exact: bool
    divergence: str
    by_address: bool
    unaided_exact: int
    exact_when_told: bool
    recorded_pools: bool

    @property
    def is_exact(self) -> bool:
        return not self.divergence


def told_run(
    prediction: Prediction, answer: dict[str, Any], recording: Recording, limit: int | None = None
) -> Run:
    """Return the run in which the driver answers as it did while this was recorded."""
    real, _ = _real_events(recording, answer)
    return prediction.run_with(driver_of(prediction.program, real, answer), limit)


def compare_placement(
    prediction: Prediction, answer: dict[str, Any], recording: Recording
) -> Placement:
    """Hold what was recorded of the replay against the prediction, tolerance 0.

    Args:
        prediction: what was to be.
        answer: the worker's.
        recording: the snapshot it dumped.
    """
    real, has_pools = _real_events(recording, answer)
    rows, places = table(*(real[:, k] for k in range(5)))
    if not has_pools:
        rows[:, POOL] = 0
    shown = _final(_layout_of(recording), places)

    def held_against(run: Run) -> tuple[int, bool, str]:
        mine, my_places = _simulated(run)
        if not has_pools:
            mine[:, POOL] = 0
        exact = _agreeing(rows, mine)
        state = bool(np.array_equal(shown, _final(run.layout, my_places)))
        if exact < len(rows) or len(mine) > len(rows):
            return exact, state, explain(prediction.program, rows, mine, exact, run)
        return exact, state, "" if state else "the final segments differ, every event agrees"

    alone = held_against(prediction.run)
    told = held_against(prediction.run_with(driver_of(prediction.program, real, answer)))
    events_exact, state, divergence = told if prediction.needs_addresses else alone
    return Placement(
        events=len(rows),
        events_exact=events_exact,
        allocs=int((rows[:, ACTION] == Action.ALLOC).sum()),
        state_exact=state,
        divergence=divergence,
        by_address=prediction.needs_addresses,
        unaided_exact=alone[0],
        exact_when_told=not told[2],
        recorded_pools=has_pools,
    )


def _real_events(recording: Recording, answer: dict[str, Any]) -> tuple[np.ndarray, bool]:
    """Return events as rows (action, addr, size, stream, pool) in the program's numbers."""
    e = _device_of(recording).entries
    kept = np.isin(e["action"], SHOWN)
    streams = [_index(answer["streams"], int(handle)) for handle in recording.streams]
    ids = [tuple(pool) for pool in answer["pools"]]
    pools = [_index(ids, tuple(pool)) for pool in recording.pools]
    has_pools = bool(e["pool"].any())
    columns = [
        e["action"].astype(np.int64), e["addr"].astype(np.int64), e["size"],
        np.array(streams, np.int64)[e["stream"]],
        np.array(pools, np.int64)[e["pool"]] if has_pools else np.zeros(len(kept), np.int64),
    ]  # fmt: skip
    rows = np.stack([c.astype(np.int64) for c in columns], axis=1)[kept]
    return rows, has_pools


def _index(values: list, value: object) -> int:
    return values.index(value) if value in values else -1


def _simulated(run: Run) -> tuple[np.ndarray, Places]:
    e = run.events[np.isin(run.events["action"], SHOWN)]
    return table(
        *(e[name].astype(np.int64) for name in ("action", "addr", "size", "stream", "pool"))
    )


def _agreeing(a: np.ndarray, b: np.ndarray) -> int:
    """Number of leading rows that are equal."""
    n = min(len(a), len(b))
    wrong = np.flatnonzero((a[:n] != b[:n]).any(axis=1))
    return int(wrong[0]) if len(wrong) else n


def driver_of(program: Program, real: np.ndarray, answer: dict[str, Any]) -> Driver:
    """Return what the driver was asked, and during which op.

    A request's own entry follows what the driver did for it. Memory given back in a call of
    empty_cache is told apart by the counts that the worker took around each call.
    """
    asks = np.flatnonzero(np.isin(program.op, (Op.MALLOC, Op.TRY)))
    action = real[:, 0]
    calls = np.isin(action, (*GIVING, *RETURNS))
    asked_before = np.cumsum(np.isin(action, ASKING))
    op = np.append(asks, program.n_ops - 1)[np.minimum(asked_before, len(asks))]
    freed = np.cumsum(np.isin(action, RETURNS)) - 1
    for step, before, after in answer.get("returns", []):
        inside = np.isin(action, RETURNS) & (freed >= before) & (freed < after)
        op[inside] = step
    return Driver(
        op[calls].astype(np.int64), action[calls].astype(np.uint8),
        real[calls, 1].astype(np.uint64), real[calls, 2].astype(np.int64),
    )  # fmt: skip


def _device_of(recording: Recording) -> DeviceRecording:
    return max(recording.devices.values(), key=lambda d: d.n_entries)


def _layout_of(recording: Recording) -> Layout:
    device = _device_of(recording)
    segments = dict(device.segments)
    return Layout({**segments, "size": segments["total_size"]}, dict(device.blocks))


def _final(layout: Layout | None, places: Places) -> np.ndarray:
    """Return a final state as rows (segment, offset, size, state), sorted."""
    assert layout is not None
    rows = [
        (*places.of(int(Action.ALLOC), addr, 0), size, state)
        for addr, size, state in zip(
            *(layout.blocks[name].tolist() for name in ("address", "size", "state")), strict=True
        )
    ]
    return np.array(sorted(rows), np.int64).reshape(-1, 4)


def explain(program: Program, real: np.ndarray, mine: np.ndarray, at: int, run: Run) -> str:
    """Word the first difference: both decisions, and what was free before them."""
    said = f"event {at:,} of {len(real):,}: real {_word(real, at)}, simulated {_word(mine, at)}"
    if at < len(run.events):
        op = int(run.events["op"][at])
        entry = int(program.entry[op]) if 0 <= op < program.n_ops else -1
        said += f" (op {op:,}" + (f", recorded entry {entry:,})" if entry >= 0 else ")")
    row = next((rows[at] for rows in (real, mine) if at < len(rows)), None)
    if row is None or row[ACTION] in RETURNS:
        return said
    free = free_ranges(real[:at], int(row[STREAM]), int(row[POOL]))
    fits = sorted(size for _, _, size in free if size >= row[SIZE])
    largest = format_bytes(max((size for *_, size in free), default=0))
    return (
        f"{said}; before that both had {len(free):,} free pieces on stream {row[STREAM]}, pool "
        f"{row[POOL]}, the largest {largest}, {len(fits):,} of them large enough"
        + (f", the smallest such {format_bytes(fits[0])}" if fits else "")
    )


def free_ranges(rows: np.ndarray, stream: int, pool: int) -> list[tuple[int, int, int]]:
    """Return (segment, offset, size) of what no allocation covers, as the history shows it.

    Requests are taken as multiples of 512 bytes, which is what they are at least.
    """
    given: dict[tuple[int, int], int] = {}
    live: dict[tuple[int, int], int] = {}
    for action, segment, offset, size, s, p in rows.tolist():
        if action == Action.ALLOC:
            live[segment, offset] = -(-size // 512) * 512
        elif action == Action.FREE_COMPLETED:
            live.pop((segment, offset), None)
        elif (s, p) == (stream, pool) and action in GIVING:
            given[segment, offset] = size
        elif action in RETURNS:
            given.pop((segment, offset), None)
    out = []
    for (segment, start), size in sorted(given.items()):
        at, end = start, start + size
        for (_, offset), length in sorted(
            (k, v) for k, v in live.items() if k[0] == segment and start <= k[1] < end
        ):
            if offset > at:
                out.append((segment, at, offset - at))
            at = offset + length
        if at < end:
            out.append((segment, at, end - at))
    return out


def _word(rows: np.ndarray, at: int) -> str:
    if at >= len(rows):
        return "did nothing more"
    action, segment, offset, size, stream, _ = rows[at].tolist()
    name = Action(action).name.lower()
    where = f" in segment {segment} at {offset:,}" if segment >= 0 else ""
    return f"{name} of {format_bytes(size)}{where} on stream {stream}"

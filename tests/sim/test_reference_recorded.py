"""The reference replay against recordings of the real allocator (stand-in device, 80 GiB)."""

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightfit.sim.device import Device
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.event import ACTION_NAMES, Action
from tightfit.traces.program import Op, Program
from tightfit.traces.units import GiB

RECORDED = Path(__file__).resolve().parents[2] / ".." / "shared" / "recorded"
TOTAL = 80 * GiB

WITH_SUMMARY = [
    (folder, workload, conf)
    for folder, workloads in (
        ("", ("devlog", "cnn_resolutions", "oom", "streams", "cuda_graphs", "gpt_checkpoint")),
        ("torch-2.11", ("devlog", "cnn_resolutions", "oom", "streams", "gpt_bf16")),
    )
    for workload in workloads
    for conf in ("default", "expandable")
]


def read(path: Path) -> dict[str, Any]:
    """Load one of the project's own recordings; never do this to anybody else's file."""
    if not path.exists():
        pytest.skip(f"no recordings beside the repository: {path.name} is missing")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as f:
        return pickle.load(f)


def summary(folder: str, workload: str, conf: str) -> dict[str, Any]:
    """Return the recorded run's own account of itself."""
    lines = (RECORDED / folder / "summary.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return next(
        r
        for r in rows
        if r["workload"] == workload and ("expandable" in r["conf"]) == (conf == "expandable")
    )


def lift(trace: list[dict[str, Any]]) -> Program:
    """Turn the history of a cold start into a program.

    What the history does not say is read off the stacks: memory that goes back to the driver
    below a function called empty_cache went back because the program asked for it, and a private
    pool whose memory then goes back had been released.
    """
    streams = sorted({e["stream"] for e in trace})
    pools = [(0, 0), *sorted({e.get("pool_id", (0, 0)) for e in trace} - {(0, 0)})]
    ops: list[tuple[int, int]] = []
    requests: list[tuple[int, int, int]] = []  # one per allocation or attempt
    of_alloc: list[int] = []
    driver: list[tuple[int, int, int, int]] = []
    addr: list[int] = []
    live: dict[int, int] = {}
    in_flush = False
    for i, e in enumerate(trace):
        action = ACTION_NAMES[e["action"]]
        pool = pools.index(e.get("pool_id", (0, 0)))
        if action in (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP):
            if any(f["name"] == "empty_cache" for f in e["frames"]):
                if pool and (Op.RELEASE_POOL, pool) not in ops:
                    ops.insert(len(ops) - in_flush, (Op.RELEASE_POOL, pool))
                    driver = [
                        (op + (in_flush and op == len(ops) - 2), what, at, size)
                        for op, what, at, size in driver
                    ]
                if not in_flush:
                    ops.append((Op.EMPTY_CACHE, 0))
                    in_flush = True
                driver.append((len(ops) - 1, action, e["addr"], e["size"]))
                continue
        in_flush = False
        if action >= Action.SEGMENT_ALLOC and action <= Action.SEGMENT_UNMAP:
            driver.append((len(ops), action, e["addr"], e["size"]))
        elif action in (Action.ALLOC, Action.OOM):
            requests.append((e["size"], streams.index(e["stream"]), pool))
            if action == Action.OOM:
                ops.append((Op.TRY, len(requests) - 1))
                continue
            live[e["addr"]] = len(of_alloc)
            ops.append((Op.MALLOC, len(of_alloc)))
            of_alloc.append(len(requests) - 1)
            addr.append(e["addr"])
        elif action == Action.FREE_REQUESTED:
            at_once = trace[i + 1]["action"] == "free_completed"
            at_once = at_once and trace[i + 1]["addr"] == e["addr"]
            ops.append((Op.FREE if at_once else Op.FREE_LATER, live[e["addr"]]))
        elif action == Action.FREE_COMPLETED:
            alloc = live.pop(e["addr"])
            if ops[-1] != (Op.FREE, alloc):
                ops.append((Op.COMPLETE, alloc))
    rows = np.array(driver, object).reshape(-1, 4)
    return Program(
        device=0,
        op=np.array([op for op, _ in ops], np.uint8),
        arg=np.array([arg for _, arg in ops], np.int32),
        entry=np.full(len(ops), -1),
        request=np.array(of_alloc, np.int32),
        req_size=np.array([r[0] for r in requests]),
        req_stream=np.array([r[1] for r in requests]),
        req_pool=np.array([r[2] for r in requests]),
        streams=np.array(streams, np.int64),
        pools=pools,
        addr=np.array(addr, np.uint64),
        driver_op=rows[:, 0].astype(np.int64),
        driver_action=rows[:, 1].astype(np.uint8),
        driver_addr=rows[:, 2].astype(np.uint64),
        driver_size=rows[:, 3].astype(np.int64),
    )


def settings(workload: str, conf: str) -> Settings:
    fraction = 0.05 if workload == "oom" else 1.0  # set by a call at the workload's beginning
    return Settings(expandable_segments=conf == "expandable", per_process_memory_fraction=fraction)


def as_rows(trace: list[dict[str, Any]], program: Program) -> list[tuple[int, ...]]:
    return [
        (
            ACTION_NAMES[e["action"]],
            e["device_free"] if e["action"] == "oom" else e["addr"],
            e["size"],
            program.streams.tolist().index(e["stream"]),
            program.pools.index(e.get("pool_id", (0, 0))),
        )
        for e in trace
    ]


def by_segment(events: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Replace addresses by (number of the segment or expandable range, offset in it).

    Expandable ranges are told apart by distance: reservations lie more than 64 GiB apart.
    """
    bases: list[tuple[int, int]] = []  # base address and its number
    mapped: dict[int, int] = {}  # number -> bytes; a range of no bytes is given up
    found = []
    for action, addr, *rest in events:
        if action == Action.OOM:
            found.append((action, *rest))
            continue
        reach = 0 if action == Action.SEGMENT_ALLOC else 64 * GiB
        if action in (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP) and not [
            b for b in bases if b[0] <= addr < b[0] + reach
        ]:
            bases.append((addr, len(mapped)))
            mapped[len(mapped)] = 0
        base, number = max(b for b in bases if b[0] <= addr)
        if action in (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP):
            mapped[number] += rest[0]
        elif action in (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP):
            mapped[number] -= rest[0]
            if mapped[number] == 0:
                bases.remove((base, number))
        found.append((action, number, addr - base, *rest))
    return found


@pytest.mark.parametrize(("folder", "workload", "conf"), WITH_SUMMARY)
def test_every_event_equals_the_recording(folder: str, workload: str, conf: str) -> None:
    snapshot = read(RECORDED / folder / f"{workload}.{conf}.pickle.gz")
    told = summary(folder, workload, conf)
    trace = snapshot["device_traces"][0]
    program = lift(trace)
    used = told["stats"]["reserved_bytes.all.current"]
    device = Device(TOTAL, other_bytes=told["total"] - told["free"] - used)
    rules = release(told["torch"])
    expected = as_rows(trace, program)

    recorded = replay_reference(
        program,
        settings(workload, conf),
        rules,
        device,
        stop_at_oom=False,
        recorded_driver=True,
    )
    assert [tuple(e)[1:] for e in recorded.events.tolist()] == expected
    assert (recorded.addr == program.addr).all()

    alone = replay_reference(program, settings(workload, conf), rules, device, stop_at_oom=False)
    simulated = [tuple(e)[1:] for e in alone.events.tolist()]
    assert by_segment(simulated) == by_segment(expected)
    keys = alone.stats.keys() & told["stats"].keys()
    assert len(keys) >= 123 - (folder != "")
    if workload == "cuda_graphs":
        keys -= {"num_sync_all_streams"}  # an empty_cache that finds nothing leaves no trace
    assert {k: alone.stats[k] for k in keys} == {k: told["stats"][k] for k in keys}
    assert layout_rows(alone.layout) == snapshot_rows(snapshot)


def layout_rows(layout: Any) -> list[tuple[int, ...]]:
    """Say what a layout holds without saying where: sizes and states of all blocks."""
    blocks = layout.blocks
    return sorted(
        (
            int(layout.segments["size"][i]),
            *blocks["size"][first : first + n].tolist(),
            *blocks["state"][first : first + n].tolist(),
            *blocks["requested_size"][first : first + n].tolist(),
        )
        for i, (first, n) in enumerate(
            zip(layout.segments["first_block"], layout.segments["n_blocks"], strict=True)
        )
    )


def snapshot_rows(snapshot: dict[str, Any]) -> list[tuple[int, ...]]:
    state = {"inactive": 0, "active_allocated": 1, "active_pending_free": 2}
    return sorted(
        (
            s["total_size"],
            *(b["size"] for b in s["blocks"]),
            *(state[b["state"]] for b in s["blocks"]),
            *(b["requested_size"] for b in s["blocks"]),
        )
        for s in snapshot["segments"]
        if s["device"] == 0
    )


@pytest.mark.parametrize("name", ["mlp_train", "fsdp_rank0of4"])
def test_training_without_a_summary(name: str) -> None:
    snapshot = read(RECORDED / f"{name}.pickle")
    trace = snapshot["device_traces"][0]
    program = lift(trace)
    expected = as_rows(trace, program)
    run = replay_reference(program, Settings(), release("2.15"), Device(TOTAL))
    assert by_segment([tuple(e)[1:] for e in run.events.tolist()]) == by_segment(expected)
    assert layout_rows(run.layout) == snapshot_rows(snapshot)

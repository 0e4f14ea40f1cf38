"""How the cost grows: with cores, live blocks, free blocks, the length of the trace, and lines."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ...policies.native import replay_native
from ...policies.pytorch import PYTORCH
from ...sim.packing import pack
from ...sim.replay import replay
from ...sim.settings import Settings
from ...traces.history import lift
from ...traces.load import load
from ...traces.synthetic import PATTERNS, pinned, random_sizes, train
from ...traces.units import MiB
from ..share_out import share_out
from .cases import RECORDINGS, RULES
from .machine import touched_bytes
from .tiling import tile
from .timing import Case, Speed, make_case, measure, replay_afresh

LINES_TRACE, LINES_EVENTS = "gpt_checkpoint.default.npz", 23_000
COMMAND_TRACE = "gpt_bf16.default.npz"
DIVISIONS = (0, 2, 4, 8, 16)  # roundup_power2_divisions of many_lines

_FIRST_REPLAY = """
import time
start = time.perf_counter()
from tightfit.policies.native import replay_native
from tightfit.sim.packing import pack
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.traces.synthetic import train
program = train(1)
imported = time.perf_counter()
replay_native(pack(program), Settings(), release("2.15"))
print(imported - start, time.perf_counter() - imported)
"""


def by_cores(n_ops: int, runs: int) -> list[dict[str, Any]]:
    """Events per second of 1, 2, ... threads that each replay a program of their own plan."""
    rows = []
    for name in ("train", "random"):
        case = make_case(name, PATTERNS[name](n_ops), Settings(), RULES)
        replay(case.packed, PYTORCH, case.requests)
        for threads in range(1, (os.cpu_count() or 1) + 1):
            best = min(_seconds(case, threads) for _ in range(runs))
            rows.append({
                "pattern": name, "threads": threads,
                "events_per_second": threads * case.events / best,
            })  # fmt: skip
    return rows


def _seconds(case: Case, threads: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        jobs = [
            pool.submit(replay, case.packed, PYTORCH, case.requests, skip=False)
            for _ in range(threads)
        ]
        for job in jobs:
            job.result()
        return time.perf_counter() - start


def by_live_blocks(n_ops: int, runs: int, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """Pattern random with 10^2 ... live blocks; the ramp up to them is part of it."""
    rows = []
    for live in counts:
        program = random_sizes(n_ops + 3 * live, live=live)
        case = make_case(f"random_{live}", program, Settings(), RULES)
        row = {"live": live, **_row(measure(case, RULES, runs, slow=False))}
        row["packed_bytes"] = case.packed.events.nbytes
        touched = touched_bytes(partial(replay_afresh, case))
        rows.append(row | {"touched_bytes": row["memory_bytes"] if touched is None else touched})
    return rows


def by_free_blocks(n_ops: int, runs: int, counts: tuple[int, ...]) -> list[dict[str, Any]]:
    """Pattern pinned with 10^2 ... free blocks, none of which can merge."""
    rows = []
    for gaps in counts:
        case = make_case(f"pinned_{gaps}", pinned(n_ops + 3 * gaps, gaps=gaps), Settings(), RULES)
        rows.append({"free": gaps - gaps // 8, **_row(measure(case, RULES, runs, slow=False))})
    return rows


def by_length(runs: int, lengths: tuple[int, ...]) -> list[dict[str, Any]]:
    """Pattern train over and over; short traces show what a replay costs before its first event."""
    rows = []
    for n in lengths:
        case = make_case(f"train_{n}", train(n), Settings(), RULES)
        rows.append(_row(measure(case, RULES, runs, slow=False)))
    return rows


def _row(speed: Speed) -> dict[str, Any]:
    return {
        "events": speed.events,
        "tightfit_ns": speed.tightfit_ns,
        "cpp_set_ns": speed.cpp_set_ns,
        "memory_bytes": speed.memory_bytes,
    }


def many_lines(n: int) -> dict[str, Any]:
    """Replay one shipped recording under n lines that differ, on one core and on all.

    Returns:
        the recording, its events, the number of lines; and seconds by number of threads.
    """
    packed = pack(tile(lift(load(RECORDINGS / LINES_TRACE), 0), LINES_EVENTS))
    lines = [
        Settings(max_split_size=20 * MiB + k * MiB, roundup_divisions=(divisions,) * 16)
        for k in range(-(-n // len(DIVISIONS)))
        for divisions in DIVISIONS
    ][:n]

    def work(settings: Settings) -> int:
        return replay_native(packed, settings, RULES).stats["reserved_bytes.all.peak"]

    for line in lines[: len(DIVISIONS)]:
        work(line)
    seconds = {}
    for threads in sorted({1, os.cpu_count() or 1}):
        start = time.perf_counter()
        share_out(work, lines, threads)
        seconds[threads] = time.perf_counter() - start
    return {
        "recording": LINES_TRACE,
        "events": packed.program.n_ops,
        "lines": len(lines),
        "threads": max(seconds),
        "seconds": seconds[max(seconds)],
        "seconds_on_one": seconds[1],
    }


def compile_seconds() -> dict[str, float]:
    """A first small replay in a process of its own: with nothing kept on disk, and after that."""
    with tempfile.TemporaryDirectory() as folder:
        cold, warm = (_first_replay(folder) for _ in range(2))
    return {"cold": cold[1], "warm": warm[1], "import": warm[0]}


def command_seconds(warm_runs: int) -> dict[str, float]:
    """Whole `tightfit replay` processes: a machine's first, and the median of later ones."""
    words = [sys.executable, "-m", "tightfit", "replay", str(RECORDINGS / COMMAND_TRACE)]
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        # The first run only leaves Python's own compiled files, which pip makes at installation.
        for kernels in ("other", *["ours"] * (1 + warm_runs)):
            env = os.environ | {
                "PYTHONPYCACHEPREFIX": folder, "NUMBA_CACHE_DIR": os.path.join(folder, kernels),
            }  # fmt: skip
            env.pop("PYTHONDONTWRITEBYTECODE", None)
            start = time.perf_counter()
            subprocess.run(words, capture_output=True, check=True, env=env)
            seconds.append(time.perf_counter() - start)
    return {"cold": seconds[1], "warm": statistics.median(seconds[2:])}


def help_seconds() -> float:
    """The quickest of three `tightfit --help`, in processes of their own."""

    def once() -> float:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "tightfit", "--help"], capture_output=True, check=True
        )
        return time.perf_counter() - start

    return min(once() for _ in range(3))


def _first_replay(folder: str) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_REPLAY],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"NUMBA_CACHE_DIR": folder},
    )
    imported, replayed = map(float, done.stdout.split())
    return imported, replayed

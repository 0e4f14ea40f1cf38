"""Run cases through the driver: what the real allocator answered."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...traces.errors import VerificationError
from ...traces.event import Action
from .commands import Case

# Rows as standin/driver.cpp writes them: trace entries (action = Action) and the kinds below.
ROW = np.dtype(
    [
        ("command", "<u4"), ("action", "u1"), ("flags", "u1"), ("pool", "<u2"),
        ("addr", "<u8"), ("size", "<i8"), ("stream", "<u8"),
    ]
)  # fmt: skip
RETURNED, ERROR, STATS, SEGMENT, BLOCK, TIMED = 100, 101, 102, 103, 104, 105
AFTER_WAIT = 1  # flag of a trace row: an event had been waited for in this command
SMALL, EXPANDABLE = 1, 2  # flags of a segment row
SECONDS_PER_BATCH = 600


@dataclass
class Answer:
    """What the real allocator did with a case.

    Attributes:
        status: wait status of its process; 0 = it ran to the end.
        trace: ROW rows, the trace entries in order.
        returned: shape (commands,) uint64; address each MALLOC returned; 0 = none.
        errors: (command, message) of every exception but out-of-memory.
        stats: flat `memory_stats` keys; empty if the process died.
        segments, blocks: ROW rows of the final snapshot: a block's `stream` is its requested size,
            its `flags` its BlockState.
        reached: number of commands certainly carried out.
        nanoseconds: processor time of all commands, if the case was timed.
    """

    status: int
    trace: np.ndarray
    returned: np.ndarray
    errors: list[tuple[int, str]] = field(default_factory=list)
    stats: dict[str, int] = field(default_factory=dict)
    segments: np.ndarray = field(default_factory=lambda: np.zeros(0, ROW))
    blocks: np.ndarray = field(default_factory=lambda: np.zeros(0, ROW))
    reached: int = 0
    nanoseconds: int = 0


def run_cases(driver: Path, cases: Sequence[Case], timed: bool = False) -> list[Answer]:
    """Run cases, each in a process of its own.

    Args:
        driver: the program `build.py` made.
        timed: measure mallocs and frees, the only commands there are then; the answers have
            nothing but `nanoseconds` and `stats`.

    Raises:
        VerificationError: the driver could not be run.
    """
    payload = b"".join(_packed(case, timed) for case in cases)
    try:
        done = subprocess.run([driver], input=payload, capture_output=True, env={"LC_ALL": "C"},
                              timeout=SECONDS_PER_BATCH)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VerificationError(f"oracle: {driver.name} did not run: {error}") from error
    answers, at = [], 0
    for case in cases:
        if len(done.stdout) < at + 12:
            said = done.stderr.decode(errors="replace").strip()[-300:]
            raise VerificationError(
                f"oracle: {driver.name} ended with status {done.returncode} before case "
                f"'{case.name}', expected an answer: {said}"
            )
        status, n_rows, n_text = struct.unpack_from("<III", done.stdout, at)
        rows = np.frombuffer(done.stdout, ROW, n_rows, at + 12)
        at += 12 + n_rows * ROW.itemsize
        answers.append(_answer(case, status, rows, done.stdout[at : at + n_text]))
        at += n_text
    return answers


def _packed(case: Case, timed: bool) -> bytes:
    """Return a case as the driver reads it."""
    conf = "\0".join((case.conf, *case.lines)).encode()
    device = case.device
    header = struct.pack(
        "<IIIIQQQ", len(case.commands), len(conf), case.scattered, timed, device.total_bytes,
        device.other_bytes, device.granularity,
    )  # fmt: skip
    return header + conf + case.commands.tobytes()


def _answer(case: Case, status: int, rows: np.ndarray, text: bytes) -> Answer:
    """Sort the rows of one case by kind."""
    action = rows["action"]
    returned = np.zeros(len(case.commands), np.uint64)
    given = rows[action == RETURNED]
    returned[given["command"]] = given["addr"]
    answer = Answer(
        status=status,
        trace=rows[(action <= Action.OOM) & (action != Action.SNAPSHOT)],
        returned=returned,
        segments=rows[action == SEGMENT],
        blocks=rows[action == BLOCK],
        reached=len(case.commands) if status == 0 else int(rows["command"].max(initial=0)),
    )
    answer.nanoseconds = int(rows["size"][action == TIMED].sum())
    for row in rows[(action == ERROR) | (action == STATS)]:
        words = text[int(row["addr"]) : int(row["addr"]) + int(row["size"])].decode()
        if row["action"] == ERROR:
            answer.errors.append((int(row["command"]), words))
        else:
            pairs = (line.rsplit(" ", 1) for line in words.splitlines())
            answer.stats = {name: int(value) for name, value in pairs}
    return answer

"""A simulated run as a PyTorch snapshot, for the viewers people already have.

The file is what `torch.cuda.memory._dump_snapshot` would have written after the same events: the
final segments and the whole history, which ends in exactly that state, since viewers replay it
backwards from there. What a simulation does not know it does not claim: PyTorch's own keys are
filled where there is an answer, and one more top-level key, "tightfit", says what this file is.

Source: torch/csrc/cuda/memory_snapshot.cpp and torch/csrc/cuda/Module.cpp (the layout), and
torch/utils/viz/MemoryViz.js (what the viewer needs of it).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..traces.errors import TraceError
from ..traces.event import Action, BlockState
from ..traces.program import Op, Program
from ..traces.recording import Recording
from ..traces.whole_file import replacing
from .release import Release
from .release import release as rules_of
from .run import Run
from .settings import OFF, Settings
from .settings_line import parse_settings

PROTOCOL = 4  # the newest that the viewer's own unpickler knew until May 2026
STATES = {
    BlockState.INACTIVE: "inactive",
    BlockState.ALLOCATED: "active_allocated",
    BlockState.PENDING: "active_pending_free",
}
NO_LINES = 1 << 64  # the line -1, of code that belongs to none, stands there as an unsigned number
NO_CLOCK = "the number of the program's op: a simulation has no clock"
RECORDED_CLOCK = "when the recorded program asked for it"


def snapshot_of(
    program: Program,
    run: Run,
    *,
    conf: str,
    release: str,
    recording: Recording | None = None,
) -> dict[str, Any]:
    """Return a simulated run in the layout of `torch.cuda.memory._snapshot()`.

    Args:
        program: what was replayed.
        run: its replay, with events and layout.
        conf: the settings line that was simulated.
        release: the PyTorch release that was simulated; decides which keys there are.
        recording: where the program was lifted from; gives events and blocks stacks and times.

    Returns:
        Nested dict, list, tuple, str, int, float and bool only.

    Raises:
        ConfigError: the release is unknown.
        PolicyError: the release refuses the line.
        TraceError: the run kept no events or no layout.
    """
    rules = rules_of(release)
    settings = parse_settings(conf, rules)
    if run.layout is None:
        raise TraceError("run: found no final layout, expected a replay that keeps it")
    if not len(run.events) and np.any(run.addr[program.n_start :]):
        raise TraceError("run: found no events, expected a replay that keeps them")
    origin = _Origin(program, recording)
    return {
        "segments": _segments(program, run, origin),
        "device_traces": [[] for _ in range(program.device)]
        + [_trace(program, run, rules, origin)],
        "allocator_settings": _allocator_settings(settings, rules),
        "external_annotations": [],
        "tightfit": {
            "simulated": True,
            "version": __version__,
            "torch_release": rules.name,
            "conf": conf,
            "recording": recording.name if recording else "",
            "time_us": RECORDED_CLOCK if recording else NO_CLOCK,
            "n_ops": int(run.n_ops),
            "first_oom_op": int(run.first_oom_op),
            "stats": {name: int(value) for name, value in run.stats.items()},
        },
    }


def write_snapshot(
    path: Path | str,
    program: Program,
    run: Run,
    *,
    conf: str,
    release: str,
    recording: Recording | None = None,
) -> None:
    """Write `snapshot_of` as a pickle file; it is there whole or not at all.

    Raises:
        ConfigError, PolicyError, TraceError: as `snapshot_of`, or the file cannot be written.
    """
    snapshot = snapshot_of(program, run, conf=conf, release=release, recording=recording)
    try:
        with replacing(Path(path)) as out:
            pickle.dump(snapshot, out, protocol=PROTOCOL)
    except OSError as error:
        raise TraceError(f"{path}: cannot be written: {error.strerror or error}") from error


class _Origin:
    """Where an op was recorded: its stack and its time."""

    def __init__(self, program: Program, recording: Recording | None) -> None:
        self.stacks = recording.stacks if recording else None
        self.frames: dict[int, list[dict[str, Any]]] = {0: []}
        self.stack = np.zeros(program.n_ops, np.int64)
        self.time = np.arange(program.n_ops, dtype=np.int64)
        if recording is not None:
            entries = recording.devices[program.device].entries
            known = program.entry >= 0
            self.stack[known] = entries["stack"][program.entry[known]]
            # An inferred op has no time of its own: the latest before it.
            self.time[:] = 0
            self.time[known] = entries["time_us"][program.entry[known]]
            latest = np.maximum.accumulate(np.where(known, np.arange(program.n_ops), 0))
            self.time = self.time[latest] if program.n_ops else self.time
        self.malloc_op = np.flatnonzero(program.op == Op.MALLOC)
        self.n_start = program.n_start

    def stack_of(self, number: int) -> list[dict[str, Any]]:
        """Return the frames of a stack; one list per stack, as PyTorch shares them."""
        if number not in self.frames and self.stacks is not None:
            self.frames[number] = [
                {"filename": filename, "line": line % NO_LINES, "name": name}
                for filename, line, name in self.stacks[number]
            ]
        return self.frames[number]

    def stack_of_alloc(self, alloc: int) -> list[dict[str, Any]]:
        """Return where an allocation was asked for; nothing for one older than the program."""
        if alloc < self.n_start:
            return self.frames[0]
        return self.stack_of(int(self.stack[self.malloc_op[alloc - self.n_start]]))


def _trace(program: Program, run: Run, rules: Release, origin: _Origin) -> list[dict[str, Any]]:
    """Return the history, oldest first."""
    names = {int(a): a.name.lower() for a in Action}
    streams = program.streams.tolist()
    pools = [(int(a), int(b)) for a, b in program.pools]
    with_pool = rules.version >= (2, 12)
    with_metadata = rules.version >= (2, 10)
    with_compile = rules.version >= (2, 8)
    stack, time = origin.stack.tolist(), origin.time.tolist()
    first_time = time[0] if time else 0
    out = []
    for op, action, addr, size, stream, pool in run.events.tolist():
        entry: dict[str, Any] = {"action": names[action]}
        entry["device_free" if action == Action.OOM else "addr"] = addr
        entry["size"] = size
        entry["stream"] = streams[stream]
        entry["time_us"] = time[op] if op >= 0 else first_time
        if op >= 0 and stack[op]:
            entry["frames"] = origin.stack_of(stack[op])
        if with_compile:
            entry["compile_context"] = "N/A"
        if with_metadata:
            entry["user_metadata"] = ""
        if with_pool:
            entry["pool_id"] = pools[pool]
        out.append(entry)
    return out


def _segments(program: Program, run: Run, origin: _Origin) -> list[dict[str, Any]]:
    """Return the final segments with their blocks, by address as a snapshot has them."""
    assert run.layout is not None
    rows = {name: column.tolist() for name, column in run.layout.segments.items()}
    blocks = {name: column.tolist() for name, column in run.layout.blocks.items()}
    out = []
    for i in sorted(range(len(rows["address"])), key=rows["address"].__getitem__):
        first = rows["first_block"][i]
        inside = range(first, first + rows["n_blocks"][i])
        active = [k for k in inside if blocks["state"][k] != BlockState.INACTIVE]
        allocated = [k for k in active if blocks["state"][k] == BlockState.ALLOCATED]
        pool = program.pools[rows["pool"][i]]
        out.append(
            {
                "device": int(program.device),
                "address": rows["address"][i],
                "total_size": rows["size"][i],
                "allocated_size": sum(blocks["size"][k] for k in allocated),
                "active_size": sum(blocks["size"][k] for k in active),
                "requested_size": sum(blocks["requested_size"][k] for k in active),
                "stream": int(program.streams[rows["stream"][i]]),
                "segment_type": "small" if rows["is_small"][i] else "large",
                "segment_pool_id": (int(pool[0]), int(pool[1])),
                "is_expandable": bool(rows["is_expandable"][i]),
                "frames": [],
                "blocks": [
                    {
                        "address": blocks["address"][k],
                        "size": blocks["size"][k],
                        "requested_size": max(0, blocks["requested_size"][k]),
                        "state": STATES[BlockState(blocks["state"][k])],
                        "frames": origin.stack_of_alloc(blocks["alloc"][k])
                        if blocks["alloc"][k] >= 0
                        else [],
                    }
                    for k in inside
                ],
            }
        )
    return out


def _allocator_settings(settings: Settings, rules: Release) -> dict[str, Any]:
    """Return the settings under the names a snapshot gives them, of those that are simulated."""
    limit = settings.max_split_size
    named: dict[str, Any] = {
        "PYTORCH_CUDA_ALLOC_CONF": settings.conf,
        "max_split_size": -1 if limit >= OFF else limit,
        "garbage_collection_threshold": settings.garbage_collection_threshold,
        "expandable_segments": settings.expandable_segments,
        "roundup_power2_divisions": {
            str(1 << i): d for i, d in enumerate(settings.roundup_divisions)
        },
    }
    if rules.version >= (2, 9):
        named["graph_capture_record_stream_reuse"] = settings.graph_capture_record_stream_reuse
    return named

"""The snapshot file of a case: what `torch.cuda.memory._dump_snapshot()` would have pickled.

The real allocator's own history and final state, under the keys its release writes and in their
order, with history recorded as `_record_memory_history()` does by default: every entry bears the
stack of the call that caused it. Python, which the driver does not run, adds nothing else but
clocks and frames; those are made up here, one place in a source file for each kind of call.

Source: torch/csrc/cuda/Module.cpp, THCPModule_memorySnapshot, and torch/cuda/memory.py.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from ...sim.release import Release
from ...sim.settings import OFF
from ...sim.settings_parser import Parser
from ...traces.event import Action, BlockState
from ...traces.units import MiB
from ...traces.whole_file import replacing
from .commands import Case, Code
from .run import EXPANDABLE, SMALL, Answer

PROTOCOL = 4
EPOCH_US = 1_700_000_000_000_000  # time of command 0; each command takes a microsecond
STATES = {
    BlockState.INACTIVE: "inactive",
    BlockState.ALLOCATED: "active_allocated",
    BlockState.PENDING: "active_pending_free",
}
UNLIMITED = -1  # 2**64 - 1, as the signed number that is pickled
# Calls of one kind have one stack, as a loop's have: nothing tells two of them apart.
NAMES = {
    Code.MALLOC: ("train.py", 10, "forward"),
    Code.FREE: ("train.py", 20, "backward"),
    Code.EMPTY: ("torch/cuda/memory.py", 280, "empty_cache"),
}
OTHER = ("train.py", 30, "manage")  # ends of captures, deleted memory pools


def write_recording(path: Path, case: Case, answer: Answer, rules: Release) -> None:
    """Write `recording_of` as PyTorch pickles it.

    Raises:
        OSError: the file cannot be written there.
    """
    with replacing(path) as out:
        pickle.dump(recording_of(case, answer, rules), out, protocol=PROTOCOL)


def recording_of(case: Case, answer: Answer, rules: Release) -> dict[str, Any]:
    """Return what the release's `_snapshot()` returns at the end of a case.

    Args:
        case: what was asked, and under which settings.
        answer: what the real allocator did.
        rules: the release; decides about the keys.
    """
    stacks = _Stacks(case)
    top: dict[str, Any] = {
        "segments": _segments(case, answer, stacks),
        "device_traces": [_trace(case, answer, rules, stacks)],
        "allocator_settings": _settings(case, rules),
    }
    if rules.version >= (2, 5):
        top["external_annotations"] = []
    if rules.version >= (2, 14):
        top |= {"host_segments": [], "host_traces": []}
    return top


def pool_ids(case: Case) -> dict[int, tuple[int, int]]:
    """Return the id of each pool, 0 = the default pools.

    A pool that only captures use is one that a graph made for itself, which has its number in
    front; the others are a MemPool or a handle, which have it behind.

    Source: ATen/cuda/CUDAGraph.cpp, capture_begin; c10/cuda, MemPool::graph_pool_handle.
    """
    code, pool = (case.commands[c].tolist() for c in ("code", "id"))
    opened = {p for c, p in zip(code, pool, strict=True) if c == Code.SCOPE_BEGIN}
    captured = {p for c, p in zip(code, pool, strict=True) if c == Code.CAPTURE_BEGIN}
    return {0: (0, 0)} | {p: (0, p) if p in opened else (p, 0) for p in opened | captured}


class _Stacks:
    """The frames of each command; entries of one stack share one list, as PyTorch's do."""

    def __init__(self, case: Case) -> None:
        main = {"name": "<module>", "filename": "train.py", "line": 99}
        self._of = {
            code: [{"name": name, "filename": file, "line": line}, main]
            for code, (file, line, name) in NAMES.items()
        }
        other = [{"name": OTHER[2], "filename": OTHER[0], "line": OTHER[1]}, main]
        self._other = other
        self._codes = case.commands["code"].tolist()
        self._ids = case.commands["id"].tolist()

    def of(self, command: int) -> list[dict[str, Any]]:
        code = self._codes[command]
        if code == Code.EMPTY and self._ids[command]:
            return self._other  # the end of a MemPool is C++ code beneath the caller's frame
        return self._of.get(code, self._other)


def _trace(case: Case, answer: Answer, rules: Release, stacks: _Stacks) -> list[dict[str, Any]]:
    names = {int(a): a.name.lower() for a in Action}
    ids = pool_ids(case)
    out = []
    rows = answer.trace
    for command, action, addr, size, stream, pool in zip(
        *(rows[c].tolist() for c in ("command", "action", "addr", "size", "stream", "pool")),
        strict=True,
    ):
        entry: dict[str, Any] = {
            "action": names[action],
            "device_free" if action == Action.OOM else "addr": addr,
            "size": size,
            "stream": stream,
            "time_us": EPOCH_US + command,
        }
        if rules.version >= (2, 8):
            entry["compile_context"] = "N/A"
        if rules.version >= (2, 10):
            entry["user_metadata"] = ""
        if rules.version >= (2, 12):
            entry["pool_id"] = ids[pool]
        entry["frames"] = stacks.of(command)
        out.append(entry)
    return out


def _segments(case: Case, answer: Answer, stacks: _Stacks) -> list[dict[str, Any]]:
    """Return the final segments and blocks, by address."""
    asked: dict[int, int] = {}  # address -> the command that allocated it last
    for command, address in enumerate(answer.returned.tolist()):
        if address:
            asked[address] = command
    made = {
        int(row["addr"]): int(row["command"])
        for row in answer.trace[answer.trace["action"] == Action.SEGMENT_ALLOC]
    }
    blocks = [
        {
            "address": int(row["addr"]),
            "size": int(row["size"]),
            "requested_size": int(row["stream"]),
            "state": STATES[BlockState(row["flags"])],
            "frames": stacks.of(asked[int(row["addr"])])
            if row["flags"] != BlockState.INACTIVE
            else [],
        }
        for row in answer.blocks
    ]
    ids = pool_ids(case)
    out, at = [], 0
    for row in answer.segments:
        address, size = int(row["addr"]), int(row["size"])
        inside = []
        while at < len(blocks) and address <= blocks[at]["address"] < address + size:
            inside.append(blocks[at])
            at += 1
        active = [b for b in inside if b["state"] != STATES[BlockState.INACTIVE]]
        allocated = [b for b in active if b["state"] == STATES[BlockState.ALLOCATED]]
        expandable = bool(row["flags"] & EXPANDABLE)
        known = address in made and not expandable
        out.append(
            {
                "device": 0,
                "address": address,
                "total_size": size,
                "allocated_size": sum(b["size"] for b in allocated),
                "active_size": sum(b["size"] for b in active),
                "requested_size": sum(b["requested_size"] for b in active),
                "stream": int(row["stream"]),
                "segment_type": "small" if row["flags"] & SMALL else "large",
                "segment_pool_id": ids[int(row["pool"])],
                "is_expandable": expandable,
                "frames": stacks.of(made[address]) if known else [],
                "blocks": inside,
            }
        )
    return out


def _settings(case: Case, rules: Release) -> dict[str, Any]:
    """Return `allocator_settings`; the parser's agreement with PyTorch's is proven elsewhere."""
    parser = Parser(case.conf, rules)
    settings, found = parser.parse(), parser.found
    limit = settings.max_split_size
    named: dict[str, Any] = {
        "PYTORCH_CUDA_ALLOC_CONF": case.conf,
        "max_split_size": -1 if limit >= OFF else limit,
        "garbage_collection_threshold": settings.garbage_collection_threshold,
        "expandable_segments": settings.expandable_segments,
        "pinned_num_register_threads": found.get("pinned_num_register_threads", 1),
        "release_lock_on_cudamalloc": found.get("release_lock_on_cudamalloc") == "True",
        "pinned_use_cuda_host_register": found.get("pinned_use_cuda_host_register") == "True",
    }
    if rules.version >= (2, 9):
        named["graph_capture_record_stream_reuse"] = settings.graph_capture_record_stream_reuse
    if rules.version >= (2, 13):
        for name in ("max_round_threshold", "max_cached_size"):
            mb = found.get(f"pinned_{name}_mb")
            named[name] = UNLIMITED if mb is None else mb * MiB
    named["roundup_power2_divisions"] = {
        str(1 << i): d for i, d in enumerate(settings.roundup_divisions)
    }
    return named

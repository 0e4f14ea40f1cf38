"""A story small enough to be worked out by hand, as a snapshot."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

MiB = 1 << 20
SMALL, LARGE = 0x7F0000000000, 0x7F0000200000

STORY = """
    action            address          size   what the device holds afterwards (reserved; requested)
    segment_alloc     SMALL           2 MiB    2 MiB;     0
    alloc             SMALL          1000 B    2 MiB;  1000
    alloc             SMALL + 1024   3000 B    2 MiB;  4000
    free_requested    SMALL          1000 B    2 MiB;  4000
    free_completed    SMALL          1000 B    2 MiB;  3000
    segment_alloc     LARGE          20 MiB   22 MiB;  3000
    alloc             LARGE           5 MiB   22 MiB;  3000 + 5 MiB    <- both peaks
    free_requested    LARGE           5 MiB   22 MiB;  3000 + 5 MiB
    free_completed    LARGE           5 MiB   22 MiB;  3000
    segment_free      LARGE          20 MiB    2 MiB;  3000
"""


def frames(function: str, line: int) -> list[dict[str, Any]]:
    """A stack as PyTorch records it: library frames innermost."""
    return [
        {"filename": "??", "line": 0, "name": "c10::alloc()"},
        {"filename": "/usr/lib/site-packages/torch/nn/linear.py", "line": 1, "name": "forward"},
        {"filename": "/home/me/project/train.py", "line": line, "name": function},
        {"filename": "/home/me/project/main.py", "line": 3, "name": "main"},
    ]


def snapshot() -> dict[str, Any]:
    """STORY as torch.cuda.memory._snapshot() of release 2.12 returns it."""
    entries = []
    for number, line in enumerate(STORY.strip().splitlines()[1:]):
        action, rest = line.split(maxsplit=1)
        base, rest = rest.split(maxsplit=1)
        offset = 0
        if rest.startswith("+"):
            _, text, rest = rest.split(maxsplit=2)
            offset = int(text)
        size, unit = rest.split()[:2]
        entry = {
            "action": action,
            "addr": {"SMALL": SMALL, "LARGE": LARGE}[base] + offset,
            "size": int(size) * (MiB if unit == "MiB" else 1),
            "stream": 0,
            "time_us": 1_700_000_000_000_000 + number,
            "pool_id": (0, 0),
            "compile_context": "N/A",
            "user_metadata": "",
        }
        if action == "alloc":
            entry["frames"] = frames("step" if base == "LARGE" else "load", 10 + number)
        entries.append(entry)
    blocks = [
        {"address": SMALL, "size": 1024, "requested_size": 1000, "state": "inactive", "frames": []},
        {
            "address": SMALL + 1024,
            "size": 3072,
            "requested_size": 3000,
            "state": "active_allocated",
            "frames": frames("load", 12),
        },
        {
            "address": SMALL + 4096,
            "size": 2 * MiB - 4096,
            "requested_size": 0,
            "state": "inactive",
            "frames": [],
        },
    ]
    segment = {
        "device": 0,
        "address": SMALL,
        "total_size": 2 * MiB,
        "allocated_size": 3072,
        "active_size": 3072,
        "requested_size": 3000,
        "stream": 0,
        "segment_type": "small",
        "segment_pool_id": (0, 0),
        "is_expandable": False,
        "frames": [],
        "blocks": blocks,
    }
    settings = {
        "PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64",
        "max_split_size": 64 * MiB,
        "garbage_collection_threshold": 0.0,
        "expandable_segments": False,
        "pinned_num_register_threads": 1,
        "release_lock_on_cudamalloc": False,
        "pinned_use_cuda_host_register": False,
        "graph_capture_record_stream_reuse": False,
        "roundup_power2_divisions": {str(1 << k): 0 for k in range(16)},
    }
    return {
        "segments": [segment],
        "device_traces": [entries],
        "allocator_settings": settings,
        "external_annotations": [],
    }


def dump(content: dict[str, Any], path: Path) -> Path:
    """Write a snapshot as torch.cuda.memory._dump_snapshot does."""
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path

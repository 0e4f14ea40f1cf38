"""Snapshots in the manner of each release, picklers that write them, and the slow comparison."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
from typing import Any

from tightfit.traces.event import ACTION_NAMES, Action, BlockState
from tightfit.traces.recording import DeviceRecording, Recording

MiB = 1 << 20
STATES = {
    "inactive": BlockState.INACTIVE,
    "active_allocated": BlockState.ALLOCATED,
    "active_pending_free": BlockState.PENDING,
    "active_awaiting_free": BlockState.PENDING,
}
ENTRY_KEYS = {
    "action", "addr", "device_free", "size", "stream", "time_us", "frames", "pool_id", "cpp_frames"
}  # fmt: skip


def snapshot(release: tuple[int, int] = (2, 15), n: int = 40, seed: int = 0) -> dict[str, Any]:
    """Return a snapshot of two devices with the keys that a release writes."""
    rng = random.Random(seed)
    frames = [{"filename": f"dir/file{k % 3}.py", "line": k, "name": f"f{k % 4}"} for k in range(9)]
    stacks = [rng.sample(frames, rng.randrange(1, 9)) for _ in range(5)]

    def block(address: int, size: int, state: str) -> dict[str, Any]:
        if release < (2, 1):
            past = {"addr": address, "real_size": size - 12, "frames": rng.choice(stacks)}
            if release < (2, 0):
                past["cpp_frames"] = []
            out: dict[str, Any] = {"size": size, "state": state}
            return out | ({"history": [past]} if state != "inactive" else {})
        out = {"address": address, "size": size, "requested_size": size - 12, "state": state}
        return out | {"frames": rng.choice([*stacks, []])}

    segments = []
    for k in range(4):
        address, stream = 0x7F0000000000 + k * 64 * MiB, (0, 0x55550000 + 16 * k)[k % 2]
        blocks = [
            block(address + i * MiB, MiB, rng.choice(list(STATES)[:3]))
            for i in range(rng.randrange(1, 6))
        ]  # fmt: skip
        active = sum(b["size"] for b in blocks if b["state"] != "inactive")
        allocated = sum(b["size"] for b in blocks if b["state"] == "active_allocated")
        segment = {
            "device": k // 2, "address": address, "total_size": len(blocks) * MiB,
            "allocated_size": allocated, "active_size": active, "stream": stream,
            "segment_type": ("large", "small")[k % 2], "blocks": blocks,
        }  # fmt: skip
        if release >= (2, 1):
            segment |= {
                "requested_size": max(0, active - 12), "segment_pool_id": ((0, 0), (0, 3))[k % 2],
                "is_expandable": k == 3, "frames": rng.choice([*stacks, []]),
            }  # fmt: skip
        segments.append(segment)

    def entry(k: int) -> dict[str, Any]:
        action = rng.choice([a for a in ACTION_NAMES if a != "annotate" or release >= (2, 14)])
        place = "device_free" if action == "oom" else "addr"
        out: dict[str, Any] = {
            "action": action, place: 0x7F0000000000 + rng.randrange(1 << 30),
            "size": rng.choice([512, 70_000, 3 << 30, 1 << 40]),
            "stream": rng.choice([0, 0x7F1234567890]),
        }  # fmt: skip
        if release >= (2, 4):
            out["time_us"] = 1_700_000_000_000_000 + k
        if release >= (2, 8):
            out["compile_context"] = rng.choice(["N/A", "0/0"])
        if release >= (2, 10):
            out["user_metadata"] = rng.choice(["", "step 1", "größer"])
        if release >= (2, 12):
            out["pool_id"] = rng.choice([(0, 0), (0, 3), (1 << 40, 2)])
            out["forward_frames"] = rng.choice([["a.py:1", "b.py:2"], []])
        if release >= (2, 15) and rng.random() < 0.2:
            out["internal_metadata"] = "mallocWithAddress"
        if rng.random() < 0.8:
            out["frames"] = rng.choice(stacks)
        return out

    top: dict[str, Any] = {
        "segments": segments,
        "device_traces": [[entry(k) for k in range(n)], [entry(k) for k in range(n // 2)]],
    }
    if release >= (2, 4):
        top["allocator_settings"] = {
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "max_split_size": -1,
            "garbage_collection_threshold": 0.8, "expandable_segments": True,
            "roundup_power2_divisions": {str(1 << k): 0 for k in range(16)},
        }  # fmt: skip
    if release >= (2, 5):
        top["external_annotations"] = [
            {"name": "step", "stage": s, "device": 0, "time_us": 5} for s in ("START", "END")
        ]
    if release >= (2, 14):
        host = {"device": -1, "address": 4096, "total_size": 512, "allocated_size": 512,
                "active_size": 512, "requested_size": 500, "stream": 0, "segment_type": "small",
                "segment_pool_id": (0, 0), "is_expandable": False, "frames": [],
                "blocks": [{"address": 4096, "size": 512, "requested_size": 500,
                            "state": "active_allocated", "frames": []}]}  # fmt: skip
        top |= {"host_segments": [host], "host_traces": [[entry(0), entry(1)]]}
    return top


def pickled(value: Any, protocol: int = 4, pure: bool = False) -> bytes:
    """Pickle with CPython's C or pure Python pickler."""
    if not pure:
        return pickle.dumps(value, protocol)
    out = io.BytesIO()
    pickle._Pickler(out, protocol).dump(value)  # type: ignore[attr-defined]
    return out.getvalue()


def torchscript_pickled(value: Any) -> bytes:
    """Pickle as TorchScript's pickler does: protocol 2, one mark per container, 8-byte integers.

    Source: torch/csrc/jit/serialization/pickler.cpp
    """
    out = bytearray(b"\x80\x02")
    memo: dict[Any, int] = {}

    def put(key: Any) -> None:
        memo[key] = number = len(memo)
        out.extend(b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number))

    def push(v: Any) -> None:
        key = v if isinstance(v, str) else id(v)
        if isinstance(v, (str, dict, list)) and key in memo:
            k = memo[key]
            out.extend(b"h" + bytes([k]) if k < 256 else b"j" + struct.pack("<I", k))
        elif isinstance(v, bool):
            out.extend(b"\x88" if v else b"\x89")
        elif isinstance(v, int):
            if 0 <= v < 256:
                out.extend(b"K" + bytes([v]))
            elif 0 <= v < 1 << 16:
                out.extend(b"M" + struct.pack("<H", v))
            elif -(1 << 31) <= v < 1 << 31:
                out.extend(b"J" + struct.pack("<i", v))
            else:
                out.extend(b"\x8a\x08" + struct.pack("<q", v))
        elif isinstance(v, float):
            out.extend(b"G" + struct.pack(">d", v))
        elif isinstance(v, str):
            raw = v.encode()
            out.extend(b"X" + struct.pack("<I", len(raw)) + raw)
            put(v)
        elif isinstance(v, tuple):
            for item in v:
                push(item)
            out.extend({0: b")", 1: b"\x85", 2: b"\x86", 3: b"\x87"}[len(v)])
        else:
            out.extend(b"}" if isinstance(v, dict) else b"]")
            put(id(v))
            out.extend(b"(")
            for item in v.items() if isinstance(v, dict) else v:
                for part in item if isinstance(v, dict) else (item,):
                    push(part)
            out.extend(b"u" if isinstance(v, dict) else b"e")

    push(value)
    return bytes(out) + b"."


def stack_of(frames: list[dict[str, Any]]) -> list[tuple[str, int, str]]:
    """Return a list of frame dicts as Stacks gives it."""
    return [(f["filename"], f["line"], f["name"]) for f in frames]


def plain(value: Any) -> str:
    """Return a value as JSON, with keys that are not strings written as JSON too."""
    if isinstance(value, dict):
        keys = [k if isinstance(k, str) else plain(k) for k in value]
        return "{" + ",".join(f"{json.dumps(k)}:{v}" for k, v in
                              zip(keys, map(plain, value.values()), strict=True)) + "}"  # fmt: skip
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(plain, value)) + "]"
    if isinstance(value, str):
        value = value.encode(errors="backslashreplace").decode()
    return json.dumps(value)


def assert_same(rec: Recording, value: Any, sample: int | None = None) -> None:
    """Hold a recording against the Python objects of the same file, value by value.

    Args:
        rec: what the fast reader made of it.
        value: what a plain unpickler made of it.
        sample: compare only about this many entries per device in full.
    """
    top = value if isinstance(value, dict) else {"segments": value}
    traces = dict(enumerate(top.get("device_traces", [])))
    if top.get("host_traces"):
        traces[-1] = [e for part in top["host_traces"] for e in part]
    segments: dict[int, list[Any]] = {}
    for s in top.get("segments", []):
        segments.setdefault(s["device"], []).append(s)
    for s in top.get("host_segments", []):
        segments.setdefault(-1, []).append(s)
    assert sorted(rec.devices) == sorted({d for d, t in traces.items() if t} | set(segments))
    for device, found in rec.devices.items():
        _same_entries(rec, found, traces.get(device, []), sample)
        _same_segments(rec, found, segments.get(device, []))
    assert plain(rec.settings) == plain(top.get("allocator_settings", {}))
    assert plain(rec.annotations) == plain(top.get("external_annotations", []))
    assert list(rec.streams) == sorted(set(rec.streams))
    assert rec.pools[0] == (-1, -1) and rec.notes[0] == "{}"
    assert len(set(rec.notes)) == len(rec.notes)
    stacks = [tuple(rec.stacks[k]) for k in range(len(rec.stacks))]
    assert stacks[0] == () and len(set(stacks)) == len(stacks)


def _same_entries(
    rec: Recording, found: DeviceRecording, entries: list[dict[str, Any]], sample: int | None
) -> None:
    assert found.n_entries == len(entries)
    c = {k: v.tolist() for k, v in found.entries.items()}
    assert c["size"] == [e["size"] for e in entries]
    assert c["time_us"] == [e.get("time_us", 0) for e in entries]
    assert c["action"] == [ACTION_NAMES.get(e["action"], Action.OTHER) for e in entries]
    assert c["addr"] == [
        e["device_free"] if e["action"] == "oom" or "addr" not in e else e["addr"] for e in entries
    ]
    assert [rec.streams[k] for k in c["stream"]] == [e["stream"] for e in entries]
    assert [rec.pools[k] for k in c["pool"]] == [e.get("pool_id", (-1, -1)) for e in entries]
    seen: set[tuple[int, int]] = set()
    step = 1 if sample is None else max(1, len(entries) // sample)
    for k in range(0, len(entries), step):
        e = entries[k]
        frames = e.get("frames", [])
        if (id(frames), c["stack"][k]) not in seen:  # lists are shared; the file keeps them alive
            assert rec.stacks[c["stack"][k]] == stack_of(frames)
            seen.add((id(frames), c["stack"][k]) if frames else (0, -1))
        known = e["action"] in ACTION_NAMES
        note = {a: b for a, b in e.items() if a not in ENTRY_KEYS or (a == "action" and not known)}
        assert plain(json.loads(rec.notes[c["note"][k]])) == plain(note)


def _same_segments(rec: Recording, found: DeviceRecording, segments: list[dict[str, Any]]) -> None:
    c = {k: v.tolist() for k, v in found.segments.items()}
    for key in ("address", "total_size"):
        assert c[key] == [s[key] for s in segments]
    for key in ("allocated_size", "active_size", "requested_size"):
        assert c[key] == [s.get(key, -1) for s in segments]
    assert [rec.streams[k] for k in c["stream"]] == [s["stream"] for s in segments]
    pools = [s.get("segment_pool_id", (-1, -1)) for s in segments]
    assert [rec.pools[k] for k in c["pool"]] == pools
    assert c["is_small"] == [s["segment_type"] == "small" for s in segments]
    assert c["is_expandable"] == [s.get("is_expandable", False) for s in segments]
    assert c["n_blocks"] == [len(s["blocks"]) for s in segments]
    b = {k: v.tolist() for k, v in found.blocks.items()}
    row = 0
    for k, s in enumerate(segments):
        assert rec.stacks[c["stack"][k]] == stack_of(s.get("frames", []))
        assert c["first_block"][k] == row
        address = s["address"]
        for block in s["blocks"]:
            past = (block.get("history") or [{}])[0]
            assert b["address"][row] == block.get("address", address)
            assert b["size"][row] == block["size"]
            requested = block.get("requested_size", past.get("real_size", -1))
            assert b["requested_size"][row] == requested
            assert b["state"][row] == STATES[block["state"]]
            frames = block.get("frames") or past.get("frames", [])
            assert rec.stacks[b["stack"][row]] == stack_of(frames)
            address += block["size"]
            row += 1
    assert row == len(b["size"])

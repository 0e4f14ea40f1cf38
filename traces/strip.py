"""Strip a recording of everything that could name a person or a machine, and keep what replays."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np

from .own_sentences import SENTENCES, own_words
from .recording import SETTINGS_CALLS, DeviceRecording, Finding, Recording, Stacks
from .settings_calls import noted_calls

# What PyTorch itself writes into `allocator_settings`; other keys are somebody's own.
_SETTINGS = frozenset(
    {
        "PYTORCH_CUDA_ALLOC_CONF",
        "max_split_size",
        "garbage_collection_threshold",
        "expandable_segments",
        "pinned_num_register_threads",
        "release_lock_on_cudamalloc",
        "pinned_use_cuda_host_register",
        "roundup_power2_divisions",
        "graph_capture_record_stream_reuse",
        "max_round_threshold",
        "max_cached_size",
    }
)
# The names of stream classes are the user's, and the key moves no recorded memory.
_CLASSES = re.compile(r"\s*expandable_segments_reserve_by_class\s*:\s*\[[^\]]*\]?\s*,?")

_RELEASE = re.compile(r"\d{1,3}\.\d{1,3}", re.ASCII)


def strip(recording: Recording) -> Recording:
    """Return a copy that can be given away and replays the same.

    Gone: stacks, notes (among them user metadata), annotations, the file's own additional keys,
    its name, settings PyTorch does not write itself. Times become microseconds since the first
    entry of any device. Kept: entries, segments and blocks with their addresses, sizes, streams and
    pools, the settings, and that `tightfit replay` wrote the file, if it did.

    A finding keeps its count, and of its wording what is a sentence of our own with numbers: that
    memory must be added to every peak, or that no GPU was there, is as true of the copy. Names in
    it become "…" (own_sentences.py); any other text is dropped, and a kind that no reader of ours
    has becomes "other".

    Args:
        recording: left as it is.

    Returns:
        A recording with a finding "stripped".
    """
    first = min(
        (int(t[t != 0].min()) for t in _times(recording) if np.any(t != 0)),
        default=0,
    )
    findings = [_strip_finding(f) for f in recording.findings if f.kind != "stripped"]
    findings.append(
        Finding(
            "stripped",
            1,
            f"{len(recording.stacks) - 1} stacks, {len(recording.notes) - 1} notes and "
            f"{len(recording.annotations)} annotations were removed; times count from the first "
            "entry.",
        )
    )
    return Recording(
        name="stripped",
        devices={n: _strip_device(d, first) for n, d in recording.devices.items()},
        streams=recording.streams.copy(),
        pools=list(recording.pools),
        stacks=Stacks(),
        settings=_strip_settings(recording.settings),
        extra=_strip_extra(recording.extra),
        findings=findings,
    )


def without_folders(recording: Recording) -> Recording:
    """Return a copy whose stacks name files without their folders, and whose times count from 0.

    For recordings of programs that are public: who ran them, where and when, is gone; the lines
    that allocate are still named.
    """
    stacks = recording.stacks
    strings = list(stacks.strings)
    frames = stacks.frames.copy()
    for k in np.unique(frames[:, 0]):
        frames[frames[:, 0] == k, 0] = len(strings)
        strings.append(re.split(r"[/\\]", stacks.strings[k])[-1])
    used, at = np.unique(frames[:, [0, 2]], return_inverse=True)
    frames[:, [0, 2]] = at.reshape(-1, 2)
    first = min((int(t[t != 0].min()) for t in _times(recording) if np.any(t != 0)), default=0)
    devices = {}
    for number, device in recording.devices.items():
        entries = {name: column.copy() for name, column in device.entries.items()}
        times = entries["time_us"]
        times[times != 0] -= first
        devices[number] = replace(device, entries=entries)
    return replace(
        recording,
        stacks=Stacks([strings[k] for k in used], frames, stacks.offsets, stacks.frame_ids),
        devices=devices,
    )


def _times(recording: Recording) -> list[np.ndarray]:
    return [device.entries["time_us"] for device in recording.devices.values()]


def _strip_device(device: DeviceRecording, first_time: int) -> DeviceRecording:
    tables = []
    for table in (device.entries, device.segments, device.blocks):
        copy = {name: column.copy() for name, column in table.items()}
        for name in copy.keys() & {"stack", "note"}:
            copy[name][:] = 0
        tables.append(copy)
    times = tables[0]["time_us"]
    times[times != 0] -= first_time  # 0 says that no time was recorded
    return DeviceRecording(*tables)


def _strip_finding(found: Finding) -> Finding:
    kind = found.kind if found.kind in SENTENCES else "other"
    text = own_words(found.kind, found.text)
    if text is None:
        text = f"{kind}: {found.count}; the wording was stripped."
    return Finding(kind, found.count, text, found.device)


def _strip_extra(extra: dict[str, Any]) -> dict[str, Any]:
    """Keep by which release's rules `tightfit replay` made the file: it shows no real allocator."""
    ours = extra.get("tightfit")
    rules = ours.get("torch_release") if isinstance(ours, dict) else None
    if isinstance(rules, str) and _RELEASE.fullmatch(rules):
        return {"tightfit": {"simulated": True, "torch_release": rules}}
    return {}


def _strip_settings(settings: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key in _SETTINGS}
    conf = kept.get("PYTORCH_CUDA_ALLOC_CONF")
    if isinstance(conf, str):
        kept["PYTORCH_CUDA_ALLOC_CONF"] = _strip_line(conf)
    for key, value in list(kept.items()):
        if key == "roundup_power2_divisions" and isinstance(value, dict):
            kept[key] = {str(k): v for k, v in value.items() if str(k).isdecimal()}
        elif isinstance(value, str) != (key == "PYTORCH_CUDA_ALLOC_CONF") or isinstance(
            value, (list, dict)
        ):
            del kept[key]  # not of the type PyTorch writes
    if SETTINGS_CALLS in settings:
        noted_calls(settings, 0)  # refuses what is not of this form
        noted = settings[SETTINGS_CALLS]
        calls = {
            str(int(device)): [
                [c.entry, _strip_line(c.line)] for c in noted_calls(settings, int(device))
            ]
            for device in noted["calls"]
            if device.isascii() and device.isdecimal()
        }
        kept[SETTINGS_CALLS] = {"first": _strip_line(noted["first"]), "calls": calls}
    return kept


def _strip_line(conf: str) -> str:
    return _CLASSES.sub("", conf).removesuffix(",")

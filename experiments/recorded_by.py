"""Which PyTorch release recorded a file: a snapshot does not say, its keys do; our header says."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..traces.event import Action
from ..traces.recording import Recording

VERSION = re.compile(r"(\d{1,3}\.\d{1,3})\.\d{1,3}[\w.+]{0,40}", re.ASCII)
MINOR = re.compile(r"\d{1,3}\.\d{1,3}", re.ASCII)
STREAM_REUSE = "graph_capture_record_stream_reuse"


@dataclass(frozen=True)
class RecordedBy:
    """The releases that write such a file. Patched builds may differ: this is a hint.

    Attributes:
        oldest, newest: releases such as "2.12"; None = no bound.
        sign: the key that gives `oldest`; "" without one.
        told: full version, where `tightfit record` wrote it down; "" elsewhere.
        simulated: `tightfit replay` wrote the file, by the rules of this release.
    """

    oldest: str | None
    newest: str | None
    sign: str
    told: str = ""
    simulated: bool = False

    @property
    def words(self) -> str:
        """The bounds, ready to print."""
        if self.simulated:
            return f"tightfit replay, by the rules of torch {self.newest}"
        if self.told:
            return f"torch {self.told}, as the recording says"
        if self.oldest and self.newest:
            span = self.oldest if self.oldest == self.newest else f"{self.oldest} to {self.newest}"
        elif self.oldest or self.newest:
            span = f"{self.oldest} or newer" if self.oldest else f"{self.newest} or older"
        else:
            return "unknown"
        return f"torch {span}, by its keys" + (f" ({self.sign})" if self.sign else "")


def recorded_by(recording: Recording) -> RecordedBy:
    """Return which releases may have written a recording.

    A key that is there proves its release. Of the absent keys only those count that a release
    writes into every entry or into the settings of every file.

    Source: torch/csrc/cuda/Module.cpp, THCPModule_memorySnapshot, releases 2.1 to 2.15.
    """
    told = _told(recording)
    if told is not None:
        return told
    settings = recording.settings
    on_devices = [p for d, p in recording.devices.items() if d >= 0 and p.n_entries]
    if on_devices and not any(p.shows_driver for p in on_devices):
        return RecordedBy(None, None, "")  # a trace of another tool
    actions = {int(a) for p in recording.devices.values() for a in np.unique(p.entries["action"])}
    has_pool_ids = any(p.entries["pool"].any() for p in on_devices)
    has_times = any(p.entries["time_us"].any() for p in on_devices)

    def is_noted(key: str) -> bool:
        return any(f'"{key}"' in text for text in recording.notes)

    signs = (
        ("2.15", "internal_metadata", is_noted("internal_metadata")),
        ("2.14", "host_traces", any(d < 0 for d in recording.devices)),
        ("2.14", "annotate", int(Action.ANNOTATE) in actions),
        ("2.13", "max_round_threshold", "max_round_threshold" in settings),
        ("2.12", "pool_id", has_pool_ids),
        ("2.10", "user_metadata", is_noted("user_metadata")),
        ("2.9", STREAM_REUSE, STREAM_REUSE in settings),
        ("2.8", "compile_context", is_noted("compile_context")),
        ("2.5", "external_annotations", bool(recording.annotations)),
        ("2.4", "time_us", has_times),
        ("2.2", "allocator_settings", bool(settings)),
    )
    oldest, sign = next(((v, key) for v, key, is_there in signs if is_there), (None, ""))
    newest = None
    if settings and STREAM_REUSE not in settings:
        newest = "2.8"
    elif on_devices and not has_pool_ids:
        newest = "2.11"
    elif settings and "max_round_threshold" not in settings:
        newest = "2.12"
    if oldest and newest and _minor(newest) < _minor(oldest):
        newest = None  # a build of its own; what is there outweighs what is not
    return RecordedBy(oldest, newest, sign)


def _told(recording: Recording) -> RecordedBy | None:
    """Return what `tightfit record` or `tightfit replay --snapshot` wrote into the file, if any."""
    ours = recording.extra.get("tightfit")
    rules = ours.get("torch_release") if isinstance(ours, dict) else None
    if isinstance(rules, str) and MINOR.fullmatch(rules):
        return RecordedBy(rules, rules, "", simulated=True)
    recorded = recording.extra.get("recorded")
    version = recorded.get("torch") if isinstance(recorded, dict) else None
    found = VERSION.fullmatch(version) if isinstance(version, str) else None
    return RecordedBy(found[1], found[1], "", found[0]) if found else None


def _minor(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split("."))

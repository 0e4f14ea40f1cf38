"""Turn a snapshot that a recorded program wrote into a recording that says how it came about."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import TraceError
from .recording import SETTINGS_CALLS, Finding
from .whole_file import replacing

if TYPE_CHECKING:
    from .recording import Recording

MOST_PLACES = 50  # lines of a program that are named


@dataclass(frozen=True)
class Origin:
    """How a program was recorded.

    Attributes:
        mode: "gpu", "stand-in" or "fake".
        profile: key of the device profile; "" on a real GPU.
        script: name of the program, without folders.
        script_sha256: of its text; "" if it is no file.
    """

    mode: str
    profile: str
    script: str
    script_sha256: str


def origin_of(mode: str, profile: str, command: Sequence[str]) -> Origin:
    """Return the origin of a command's recordings; the script is its first word that is a .py."""
    scripts = [Path(word) for word in command if word.endswith(".py") and Path(word).is_file()]
    if scripts:
        digest = hashlib.sha256(scripts[0].read_bytes()).hexdigest()
        return Origin(mode, profile, scripts[0].name, digest)
    return Origin(mode, profile, Path(command[0]).name, "")


def read_snapshot(told: Path, origin: Origin, path: Path) -> Recording:
    """Read STEM.pickle beside STEM.json and put into it where it came from.

    Args:
        told: STEM.json.
        origin: how it was recorded.
        path: the recording that is to be made of it.

    Raises:
        TraceError: the snapshot cannot be read. It is kept beside `path`, and the message says so.
    """
    from .load import load

    file = told.with_suffix(".pickle")
    try:
        recording = load(file)
    except TraceError as error:
        raise keep_unread(file.read_bytes(), path, error) from error
    put_origin(recording, origin, json.loads(told.read_text(encoding="utf-8")))
    return recording


def keep_unread(data: bytes, path: Path, error: TraceError) -> TraceError:
    """Keep a snapshot that cannot be read as PyTorch wrote it: the run behind it is not repeated.

    Args:
        data: the snapshot.
        path: the recording that was to be made of it; the snapshot lies beside it.
        error: what is wrong with it.

    Returns:
        The error, saying where the snapshot is.
    """
    kept = path.with_suffix(".pickle.gz")
    with replacing(kept) as out:
        out.write(gzip.compress(data, 6))
    return TraceError(f"{error}; what PyTorch wrote is kept as {kept.name}")


def put_origin(recording: Recording, origin: Origin, facts: dict[str, Any]) -> None:
    """Let a recording say where it came from, in `extra` and in findings.

    Args:
        recording: changed.
        origin: how it was recorded.
        facts: what `capture_hook.circumstances` returned, with a "reason" and perhaps "reads".
    """
    facts = dict(facts)
    reads = facts.pop("reads", None)
    calls = facts.pop("settings_calls", [])
    if calls:
        times = {n: d.entries["time_us"] for n, d in recording.devices.items()}
        recording.settings[SETTINGS_CALLS] = {
            "first": facts["conf"],
            "calls": {
                str(n): [[int(np.searchsorted(time, us)), line] for us, line in calls]
                for n, time in times.items()
            },
        }
    for number in list(recording.devices):
        if number >= 0 and str(number) not in facts["devices"]:
            del recording.devices[number]  # seen, never used: its history is this snapshot's entry
    recording.extra["recorded"] = {
        "mode": origin.mode,
        "profile": origin.profile,
        "script": origin.script,
        "script_sha256": origin.script_sha256,
        **facts,
    }
    recording.findings += findings_of(recording.extra["recorded"], reads)


def findings_of(recorded: dict[str, Any], reads: list | None) -> list[Finding]:
    """Return what a reader of a recording must know about how it was made; note the reads in it."""
    if recorded["mode"] != "stand-in":
        return []
    return [
        Finding(
            "stand_in", 1,
            f"recorded without a GPU: torch {recorded['torch']} on a stand-in for "
            f"{recorded['profile']}. The allocator is the real one; kernels did nothing, and work "
            "space that cuBLAS, cuDNN, NCCL and the like would take of their own is not in it",
        ),
        *note_reads(recorded, reads),
    ]  # fmt: skip


def note_reads(recorded: dict[str, Any], reads: list | None) -> list[Finding]:
    """Note in `recorded` where a program read values that nobody had computed, and say so.

    Args:
        recorded: changed, if anybody counted.
        reads: (place, times), most first; None = nobody counted.
    """
    if reads is None:
        return []
    recorded["reads"] = [{"where": where, "times": times} for where, times in reads[:MOST_PLACES]]
    if not reads:
        return []
    total = sum(times for _, times in reads)
    most = ", ".join(f"{where} ({times:,})" for where, times in reads[:3])
    return [
        Finding(
            "depends_on_data", total,
            f"the program read values back from the device, times: {total:,}, in {len(reads)} "
            f"places (most often: {most}); they were computed by nobody, so a size or a branch "
            "that depends on them may differ on a GPU",
        )
    ]  # fmt: skip

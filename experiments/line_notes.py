"""What a user should know about a settings line before believing what it does here."""

from __future__ import annotations

from collections.abc import Sequence

from ..sim.device import Device
from ..sim.release import KNOWN, Release, release
from ..sim.settings import Settings
from ..sim.settings_line import parse_settings, parse_settings_verbose
from ..traces.errors import PolicyError
from ..traces.recording import Finding, Recording
from .recorded_by import RecordedBy, recorded_by


def notes_on(conf: str, rules: Release, gpu: Device) -> list[Finding]:
    """Return what PyTorch itself would warn of, and what has no effect or cannot work here.

    Raises:
        PolicyError: the release refuses the line.
    """
    settings, warnings = parse_settings_verbose(conf, rules)
    notes = [Finding("warning", 1, f"torch {rules.name} would warn: {text}") for text in warnings]
    if settings.backend != "native":
        notes.append(
            Finding(
                "backend",
                1,
                f"backend:{settings.backend} leaves placement to the driver, which nobody can "
                "replay; the native allocator is simulated instead",
            )
        )
    if settings.expandable_segments and settings.large_segment_size % gpu.granularity:
        notes.append(
            Finding(
                "odd_page",
                1,
                "expandable pages of an odd number of MiB are no multiple of the driver's 2 MiB: "
                "a real GPU is likely to refuse to map them",
            )
        )
    collects = settings.garbage_collection_threshold > 0
    if collects and not _is_limited(settings, gpu):
        notes.append(
            Finding(
                "idle_key",
                1,
                "garbage_collection_threshold does nothing without a memory fraction below 1 "
                "(per_process_memory_fraction, from 2.10) and --capacity",
            )
        )
    if settings.per_process_memory_fraction < 1 and gpu.capacity_bytes is None:
        notes.append(
            Finding("idle_key", 1, "per_process_memory_fraction does nothing without --capacity")
        )
    return notes


def notes_on_releases(conf: str, recordings: Sequence[Recording]) -> list[Finding]:
    """Say which recordings may be of a release that refuses a line.

    Args:
        conf: a line that is recommended.
        recordings: what it is recommended for.
    """
    notes: dict[str, Finding] = {}
    for recording in recordings:
        who = recorded_by(recording)
        if who.oldest is None and who.newest is None:
            continue
        known = [r for r in map(release, KNOWN) if _may_be(r, who)]
        try:
            for rules in known[:1]:  # what the oldest accepts, later ones do
                parse_settings(conf, rules)
        except PolicyError as error:
            text = f"{recording.name} was recorded by {who.words}, and {error}; --torch says which"
            notes[recording.name] = Finding("release", 1, text)
    return list(notes.values())


def _may_be(rules: Release, who: RecordedBy) -> bool:
    """Whether a release can have written a recording."""

    def minor(text: str) -> tuple[int, ...]:
        return tuple(map(int, text.split(".")))

    after = who.oldest is None or rules.version >= minor(who.oldest)
    return after and (who.newest is None or rules.version <= minor(who.newest))


def _is_limited(settings: Settings, gpu: Device) -> bool:
    return settings.per_process_memory_fraction < 1 and gpu.capacity_bytes is not None

"""What a user should know about a settings line before believing what it does here."""

from __future__ import annotations

from ..sim.device import Device
from ..sim.release import Release
from ..sim.settings import Settings
from ..sim.settings_line import parse_settings_verbose
from ..traces.recording import Finding


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


def _is_limited(settings: Settings, gpu: Device) -> bool:
    return settings.per_process_memory_fraction < 1 and gpu.capacity_bytes is not None

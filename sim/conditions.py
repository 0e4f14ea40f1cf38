"""Conditions: what holds while a program runs, and may change between two of its ops."""

from __future__ import annotations

from dataclasses import dataclass

from .device import Device
from .release import Release
from .settings import Settings


@dataclass(frozen=True)
class Conditions:
    """What the allocator meets from one op on, until a CHANGE.

    Attributes:
        settings: as last parsed.
        device: total memory, memory of others, granularity; only the memory of others changes.
        limit_fraction: share of the device the allocator may take, set when it was made or by a
            call of set_per_process_memory_fraction; None = what the settings say. A line parsed
            at run time does not move it.
    """

    settings: Settings
    device: Device
    limit_fraction: float | None = None


def first_conditions(settings: Settings, rules: Release, device: Device) -> Conditions:
    """What a process meets at first.

    Releases that know per_process_memory_fraction take the limit from it once, when the allocator
    is made; a line parsed later does not move it.
    """
    is_from_line = rules.fraction_one_is_no_limit
    limit = settings.per_process_memory_fraction if is_from_line else None
    return Conditions(settings, device, limit)

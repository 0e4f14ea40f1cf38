"""Candidate settings lines: everything finite that a release accepts and that could matter here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from ..sim.device import Device
from ..sim.release import Release
from ..sim.settings import OFF, Settings
from ..sim.settings_keys import KEYS
from ..traces.errors import ConfigError, did_you_mean
from ..traces.units import MiB
from .subject import Subject

LARGE_SEGMENTS = (20, 12, 16, 24, 32, 48, 64, 96, 128, 256)  # MiB, the default first
DIVISIONS = (0, 2, 4, 8, 16, 32, 64)
COMMON_SPLITS = (21, 32, 64, 128, 256, 512, 1024)  # MiB; what people try
MOST_SPLITS = 10
ROUNDINGS = (64, 256, 1024)  # MiB
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
FRACTION = 0.99  # garbage collection needs a limit; this one leaves nearly everything


def forbidden_keys(without: Sequence[str], rules: Release) -> frozenset[str]:
    """Check the keys that --without names.

    Raises:
        ConfigError: the release has no such key.
    """
    known = [k.name for k in KEYS if k.known_to(rules)]
    for key in without:
        if key not in known:
            raise ConfigError(
                f"--without: torch {rules.name} has no key '{key}'" + did_you_mean(key, known)
            )
    return frozenset(without)


def split_values(subjects: Sequence[Subject], rules: Release) -> list[int]:
    """Values of max_split_size_mb worth trying: around the program's own sizes, and the usual ones.

    Two values between the same neighbouring sizes behave alike, so one per gap is enough.
    """
    least = 21 if rules.version < (2, 10) else 20
    sizes = np.concatenate([s.program.req_size for s in subjects] or [np.zeros(0, np.int64)])
    own = np.unique(-(-sizes[sizes > least * MiB] // MiB)) + 1
    if len(own) > MOST_SPLITS:
        own = own[np.linspace(0, len(own) - 1, MOST_SPLITS).astype(int)]
    top = int(own.max(initial=least)) + 1
    usual = [v for v in COMMON_SPLITS if least <= v <= top]
    return sorted({*map(int, own), *usual})


def finite_lines(
    subjects: Sequence[Subject], rules: Release, gpu: Device, forbidden: frozenset[str]
) -> Iterator[Settings]:
    """Yield every combination of the finite choices, simplest first within each."""
    has = {k.name for k in KEYS if k.known_to(rules)} - forbidden
    larges = LARGE_SEGMENTS if "large_segment_size_mb" in has else (20,)
    divisions = DIVISIONS if "roundup_power2_divisions" in has else (0,)
    splits: list[int] = [0]
    if "max_split_size_mb" in has:
        splits += split_values(subjects, rules)
    expandables = (False, True) if "expandable_segments" in has else (False,)
    for split, division, large, expandable in product(splits, divisions, larges, expandables):
        if split and split < large:
            continue  # refused: max_split_size_mb must reach large_segment_size_mb
        base = Settings(
            large_segment_size=large * MiB,
            max_non_split_rounding=large * MiB if rules.version >= (2, 10) else 20 * MiB,
            max_split_size=split * MiB if split else OFF,
            roundup_divisions=(division,) * 16,
            expandable_segments=expandable,
        )
        yield base
        if split and "max_non_split_rounding_mb" in has and division == 0 and large == 20:
            for rounding in ROUNDINGS:
                yield replace(base, max_non_split_rounding=rounding * MiB)
    can_collect = {"garbage_collection_threshold", "per_process_memory_fraction"} <= has
    if can_collect and gpu.capacity_bytes is not None:
        for threshold, expandable in product(THRESHOLDS, expandables):
            yield Settings(
                garbage_collection_threshold=threshold,
                per_process_memory_fraction=FRACTION,
                expandable_segments=expandable,
            )

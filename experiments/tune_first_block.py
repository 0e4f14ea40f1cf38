"""What one block first would do for the programs that a line is sought for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..policies.native import replay_native
from ..sim.device import Device
from ..sim.packing import Packed
from ..sim.release import Release
from ..sim.run import Run
from ..sim.settings import Settings
from .answer import ShownFirst
from .first_block import BETWEEN, SHARES, best_first_block, statement
from .outcome import Outcome
from .recommend import WORTH
from .screen import progress
from .smallest import find_smallest, ran, with_smallest
from .subject import Subject


def tune_first_block(
    subjects: Sequence[Subject], rules: Release, gpu: Device, default: Sequence[Outcome]
) -> ShownFirst | None:
    """Search for the one size that serves every program best, under the default settings.

    Args:
        subjects: the programs.
        rules: the release.
        gpu: the device asked about.
        default: what each of them does without the block.

    Returns:
        The outcome; None if it saves little, or if nothing can come before a program or its length
        forbids that many replays.
    """
    if any(subject.kept.source is not None for subject in subjects):
        return None
    bounds = [outcome.peak_requested_bytes for outcome in default]

    def play(packed: Packed, device: Device = gpu) -> Run:
        return replay_native(packed, Settings(), rules, device)

    def play_free(packed: Packed) -> Run:
        return play(packed, Device())

    programs = [subject.program for subject in subjects]
    with progress(2 * (len(SHARES) + 2 * BETWEEN), "trying first blocks") as advance:
        found = best_first_block(programs, play, bounds, advance)
        if found is not None and not all(map(ran, found.runs)):
            # none fits: the one that reserves least elsewhere
            found = best_first_block(programs, play_free, bounds, advance)
    if found is None:
        return None
    free, runs = list(map(play_free, found.packed)), list(map(play, found.packed))
    peaks = [run.stats["reserved_bytes.all.peak"] for run in free]
    now, was = (
        max(peak / max(1, bound) for peak, bound in zip(of, bounds, strict=True))
        for of in (peaks, [outcome.peak_reserved_bytes for outcome in default])
    )
    if was - now <= WORTH * was:
        return None

    def on(packed: Packed, total: int) -> Run:
        return play(packed, replace(gpu, capacity_bytes=total))

    least = find_smallest(
        [lambda total, packed=packed: on(packed, total) for packed in found.packed],
        free,
        gpu.other_bytes,
    )
    retries = None
    if least is not None:
        there = [on(packed, least.bytes) for packed in found.packed]
        retries = sum(run.stats["num_alloc_retries"] for run in there)
    # The block itself stands at no entry of the recording: it comes before the first.
    failed_at = [
        max(0, int(packed.program.entry[run.first_oom_op]))
        for packed, run in zip(found.packed, runs, strict=True)
        if not ran(run)
    ]
    shown = ShownFirst(
        conf="",
        peak_reserved_bytes=max(peaks),
        each_peak_bytes=tuple(peaks),
        waste=max(1 - bound / max(1, peak) for bound, peak in zip(bounds, peaks, strict=True)),
        device_allocs=sum(run.stats["num_device_alloc"] for run in runs),
        device_frees=sum(run.stats["num_device_free"] for run in runs),
        alloc_retries=sum(run.stats["num_alloc_retries"] for run in runs),
        fits=not failed_at,
        first_oom_event=failed_at[0] if failed_at else None,
        smallest_retries=retries,
        bytes=found.bytes,
        streams=found.streams,
        statement=statement(found),
    )
    return with_smallest(shown, least)

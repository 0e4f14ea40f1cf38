"""What comes of memory that was live before recording began, where it lay then.

Policies and lines are compared from a start placed anew by each; under the recorded settings it can
also be left as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..policies.native import replay_native
from ..sim.device import Device
from ..sim.release import Release
from .smallest import ran
from .subject import Subject


def recorded_peak(subjects: Sequence[Subject], rules: Release) -> int:
    """Peak reserved bytes from the recorded start on; 0 where no recording began warm."""
    peaks = [
        replay_native(s.kept, s.recorded_settings(rules)[0], rules).stats["reserved_bytes.all.peak"]
        for s in subjects
        if s.is_warm
    ]
    return max(peaks, default=0)


def recorded_failure(subjects: Sequence[Subject], rules: Release, gpu: Device) -> int | None:
    """The entry at which a recorded start, as it lies, leads to a failure on a device.

    Args:
        subjects: the recordings; the first that fails counts.
        rules: the release.
        gpu: the device.

    Returns:
        None if none fails, or none began with memory live that the device could have held; 0 for a
        failure at no entry of its own.
    """
    if gpu.capacity_bytes is None:
        return None
    for s in subjects:
        settings, keeps = s.settings_under(None, rules, gpu)
        if s.is_warm and keeps:
            run = replay_native(s.kept, settings, rules, gpu)
            if not ran(run):
                return max(0, s.program.entry_of(run.first_oom_op)) if run.first_oom_op >= 0 else 0
    return None

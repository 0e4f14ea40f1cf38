"""What a question is asked of: a recording's programs, and the release whose rules they follow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..policies.native import replay_native
from ..sim.device import Device
from ..sim.packing import Packed, pack, packed_long
from ..sim.release import KNOWN, Release, release
from ..sim.settings import Settings
from ..sim.settings_line import parse_settings
from ..traces.errors import ConfigError, PolicyError, TraceError
from ..traces.history import lift
from ..traces.load import load
from ..traces.long_read import open_long
from ..traces.long_trace import LongTrace, is_long
from ..traces.lost_frees import settle_lost_frees
from ..traces.program import Program
from ..traces.recording import DeviceRecording, Finding, Recording
from ..traces.units import MiB, format_bytes
from .exactness import LOST, Exactness, compare_with_recording
from .recorded_by import recorded_by
from .screen import progress, warn

LARGE_FILE = 256 * MiB  # from here on reading takes seconds


@dataclass
class Subject:
    """One device of one recording.

    Attributes:
        name: the file as the user named it.
        recording: the whole file.
        program: what this device's program asked for.
    """

    name: str
    recording: Recording
    program: Program

    @property
    def device(self) -> int:
        return self.program.device

    @cached_property
    def kept(self) -> Packed:
        """The program packed to start from the layout it was recorded with, if there is one."""
        return pack(self.program, keep_start=self.shows_driver)

    @cached_property
    def anew(self) -> Packed:
        """The program packed to place what was live at its start anew."""
        return pack(self.program, keep_start=False)

    def use(self, program: Program) -> None:
        """Replace the program by a better reading of the same recording."""
        self.program = program
        for packed in ("kept", "anew"):
            self.__dict__.pop(packed, None)

    @property
    def shows_driver(self) -> bool:
        """Something was recorded of the driver's memory, so that a replay can be compared."""
        return self.recording.devices[self.device].shows_driver

    @property
    def is_warm(self) -> bool:
        """Memory was live before recording began, and it is known where."""
        return self.program.n_start > 0 and self.shows_driver

    def recorded_settings(self, rules: Release) -> tuple[Settings, list[Finding]]:
        """The settings recorded in the file, or the defaults if the release refuses them."""
        try:
            return parse_settings(self.recording.conf, rules), []
        except PolicyError as error:
            text = f"torch {rules.name} refuses the recorded settings ({error}); defaults are used"
            return Settings(), [Finding("refused_settings", 1, text, self.device)]

    def settings_under(
        self, conf: str | None, rules: Release, gpu: Device
    ) -> tuple[Settings, bool]:
        """The settings of a replay, and whether it starts from the layout that was recorded.

        Memory that was live before recording began stays where it was if the settings are those
        recorded; under others it is placed anew, as nobody knows where it would have been. So it is
        on a device that could not have held what was reserved then.

        Args:
            conf: settings line; None = the recorded one.
            rules: the release.
            gpu: the simulated device.

        Raises:
            PolicyError: the release refuses the line.
        """
        recorded, _ = self.recorded_settings(rules)
        settings = recorded if conf is None else parse_settings(conf, rules)
        as_recorded = replace(settings, conf="") == replace(recorded, conf="")
        keeps = as_recorded and starts_within(self.program, settings, gpu)
        return settings, not self.is_warm or keeps

    def about_start(self, conf: str | None, rules: Release, gpu: Device) -> Finding:
        """Say where memory that was live before recording began lies; arguments as above."""
        text = "memory that was live before recording began"
        if self.settings_under(conf, rules, gpu)[1]:
            text += " starts where it was recorded"
        elif self.settings_under(conf, rules, Device())[1]:
            held = format_bytes(self.program.start.reserved_bytes)
            text += f" is placed anew: as it was recorded it takes {held}, more than there is"
        else:
            text += " is placed anew under this line"
        return Finding("start", 1, text, self.device)


def starts_within(program: Program, settings: Settings, gpu: Device) -> bool:
    """Whether what was reserved when recording began is no more than a device has."""
    if gpu.capacity_bytes is None:
        return True
    limit = int(settings.per_process_memory_fraction * gpu.capacity_bytes)
    room = min(limit, gpu.capacity_bytes - gpu.other_bytes)
    return program.start.reserved_bytes <= room


class LongSubject(Subject):
    """The one device of a long trace, whose events stay in their file.

    Nothing recorded of the driver is kept there, so that there is nothing to compare with.
    """

    def __init__(self, name: str, trace: LongTrace) -> None:
        device = trace.program.device
        recording = Recording(
            trace.name,
            {device: DeviceRecording()},
            settings=trace.settings,
            extra=trace.extra,
        )
        super().__init__(name, recording, trace.program)
        self.trace = trace

    @cached_property
    def kept(self) -> Packed:
        return packed_long(self.trace, keep_start=self.trace.starts_as_recorded)

    @cached_property
    def anew(self) -> Packed:
        return packed_long(self.trace, keep_start=False)

    @property
    def is_warm(self) -> bool:
        return self.program.n_start > 0 and self.trace.starts_as_recorded


def open_long_trace(path: Path) -> LongTrace:
    """Open a long trace, showing how far the check of its events is."""
    with progress(path.stat().st_size // 8, "checking events") as advance:
        return open_long(path, advance)


def refuse_long(path: Path, what: str) -> None:
    """Refuse a long trace where a program must be in memory as a whole.

    Args:
        path: any file.
        what: who needs it so.

    Raises:
        ConfigError: it is a long trace.
    """
    if is_long(path):
        raise ConfigError(
            f"{path.name}: found a long trace, whose events are never in memory as a whole, as "
            f"{what} needs them; expected the recording it was made from, or the same workload "
            "written as OUT.npz"
        )


def load_subjects(path: Path, device: int | None = None) -> list[Subject]:
    """Load the devices of a recording that have a history, or the one asked for.

    Raises:
        TraceError: the file cannot be read, or no device has a history.
        ConfigError: the device asked for is not in it.
    """
    if is_long(path):
        long = LongSubject(str(path), open_long_trace(path))
        if device is not None and device != long.device:
            raise ConfigError(
                f"{path.name}: found no history of device {device}, expected {long.device}"
            )
        return [long]
    return subjects_of(load_recording(path), path, device)


def load_recording(path: Path) -> Recording:
    """Read a recording; of a large one, say so first.

    Raises:
        TraceError: the file cannot be read.
    """
    if path.is_file() and path.stat().st_size > LARGE_FILE:
        warn(f"reading {path.name}, {format_bytes(path.stat().st_size)}")
    return load(path)


def subjects_of(recording: Recording, path: Path, device: int | None = None) -> list[Subject]:
    """Return the devices of a recording that have a history, or the one asked for.

    Raises:
        TraceError: no device has a history.
        ConfigError: the device asked for is not in it.
    """
    have = [d for d in sorted(recording.devices) if d >= 0 and recording.devices[d].n_entries]
    if not have:
        raise TraceError(
            f"{path.name}: found no history, only a state; expected entries in device_traces "
            "(call torch.cuda.memory._record_memory_history() before the first CUDA call)"
        )
    if device is not None and device not in have:
        raise ConfigError(
            f"{path.name}: found no history of device {device}, expected one of "
            + ", ".join(map(str, have))
        )
    chosen = have if device is None else [device]
    subjects = [Subject(str(path), recording, lift(recording, d)) for d in chosen]
    for subject in subjects:
        if not subject.shows_driver:  # what its format lacks bears on every answer
            own = (None, subject.device) if subject is subjects[0] else (subject.device,)
            said = [f for f in recording.findings if f.device in own]
            subject.program.findings = [*said, *subject.program.findings]
    return subjects


@dataclass(frozen=True)
class Fit:
    """The release whose rules a recording follows.

    Attributes:
        rules: the release.
        words: how it was found, ready to print.
        exactness: how well its rules reproduce the recording, for each device of which anything
            was recorded that can be compared.
    """

    rules: Release
    words: str
    exactness: list[Exactness]


def find_release(subjects: list[Subject], asked: str | None) -> Fit:
    """Return the release asked for, or the one whose rules reproduce the recordings best.

    A recording does not name its release. Each rule about ties between free blocks stands for the
    newest release that has it and could have written the file; of equals the newest wins.
    """
    if asked is None and not any(s.shows_driver for s in subjects):
        rules = release(KNOWN[-1])
        return Fit(rules, f"torch {rules.name}: the newest known; the recording names none", [])
    if asked is not None:
        rules = release(asked)
        _settle(subjects, rules)
        return Fit(rules, f"torch {rules.name}, as asked", _exactness(subjects, rules))
    tried: list[tuple[int, Release, list[Exactness]]] = []
    for rules in _candidates(subjects):
        found = _exactness(subjects, rules)
        missed = sum(e.allocs - e.allocs_exact + e.segments - e.segments_exact for e in found)
        missed += sum(not e.final_blocks_exact for e in found)
        tried.append((missed, rules, found))
        if missed == 0:
            break
    missed, rules, found = min(tried, key=lambda t: t[0])
    if missed and _settle(subjects, rules):
        return find_release(subjects, rules.name)
    alike = "no release tried reproduces all of it" if missed else "its rules reproduce everything"
    if all(e.is_empty for e in found):
        alike = "the newest that can have written it; nothing recorded tells more"
    return Fit(rules, f"torch {rules.name}: {alike}", found)


def _settle(subjects: list[Subject], rules: Release) -> bool:
    """Let replays show when blocks were freed whose free was not recorded; True if it helped."""
    helped = False
    for subject in subjects:
        if not subject.shows_driver or all(f.kind not in LOST for f in subject.program.findings):
            continue
        settings, _ = subject.recorded_settings(rules)

        def addresses(program: Program, settings: Settings = settings) -> np.ndarray:
            return replay_native(
                pack(program), settings, rules, stop_at_oom=False, recorded_driver=True, events=True
            ).addr

        settled = settle_lost_frees(subject.program, addresses)
        helped |= settled is not subject.program
        subject.use(settled)
    return helped


def _candidates(subjects: list[Subject]) -> list[Release]:
    """One release per tie-break, newest first, within what the files' keys allow."""
    bounds = [recorded_by(s.recording) for s in subjects if s.shows_driver]
    oldest = [release(b.oldest).version for b in bounds if b.oldest in KNOWN]
    newest = [release(b.newest).version for b in bounds if b.newest in KNOWN]
    chosen: dict[str, Release] = {}
    for text in reversed(KNOWN):
        rules = release(text)
        within = all(rules.version >= v for v in oldest) and all(rules.version <= v for v in newest)
        if within:
            chosen.setdefault(rules.tie_break, rules)
    return list(chosen.values()) or [release(KNOWN[-1])]


def _exactness(subjects: list[Subject], rules: Release) -> list[Exactness]:
    return [
        compare_with_recording(s.kept, s.recorded_settings(rules)[0], rules)
        for s in subjects
        if s.shows_driver
    ]

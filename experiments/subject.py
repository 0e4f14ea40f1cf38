"""What a question is asked of: the programs of a recording's devices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..sim.device import Device
from ..sim.packing import Packed, pack, packed_long
from ..sim.release import Release
from ..sim.settings import Settings
from ..sim.settings_line import parse_settings
from ..traces.errors import ConfigError, PolicyError, TraceError
from ..traces.history import lift
from ..traces.load import load
from ..traces.long_read import open_long
from ..traces.long_trace import LongTrace, is_long
from ..traces.program import Program
from ..traces.recording import DeviceRecording, Finding, Recording
from ..traces.units import MiB, format_bytes
from .screen import progress, warn

LARGE_FILE = 256 * MiB  # from here on reading takes seconds


@dataclass
class Subject:
    """One device of one recording.

    Attributes:
        name: the file as the user named it.
        recording: the whole file.
        program: what this device's program asked for.
        begun_under: its settings line at first; None = the recorded one.
    """

    name: str
    recording: Recording
    program: Program
    begun_under: str | None = None

    @property
    def device(self) -> int:
        return self.program.device

    @property
    def conf(self) -> str:
        """The settings line that it was recorded under, at first if the program sets others."""
        return self.recording.first_conf if self.begun_under is None else self.begun_under

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
        """The settings it was recorded under, or the defaults if the release refuses them."""
        try:
            return parse_settings(self.conf, rules), []
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

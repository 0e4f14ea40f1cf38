"""Settings calls that a user says a program makes, or wants to try: `--then ENTRY:LINE`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..traces.program import SettingsCall
    from .subject import Subject

MOST_DIGITS = 18  # of an entry's number


def parse_then(texts: Sequence[str]) -> list[SettingsCall]:
    """Read settings calls.

    Raises:
        ConfigError: one is not an entry, a colon and a line.
    """
    from ..traces.errors import ConfigError
    from ..traces.program import SettingsCall
    from ..traces.units import shortened

    calls = []
    for text in texts:
        entry, colon, line = text.strip().partition(":")
        number = entry.strip().replace(",", "").replace("_", "")
        is_number = number.isascii() and number.isdecimal() and len(number) <= MOST_DIGITS
        if not colon or not is_number:
            raise ConfigError(
                f"--then: found '{shortened(text)}', expected an entry of the recording, a colon "
                "and a settings line, e.g. 1200:expandable_segments:False"
            )
        calls.append(SettingsCall(int(number), line.strip()))
    return calls


def make_calls(subjects: Sequence[Subject], calls: Sequence[SettingsCall]) -> None:
    """Let the programs of a recording make settings calls, and none that were found in it.

    Raises:
        ConfigError: it is a long trace, or has no such entry.
    """
    from ..traces.errors import ConfigError
    from ..traces.settings_calls import with_settings_calls
    from .subject import LongSubject

    if not calls:
        return
    for subject in subjects:
        if isinstance(subject, LongSubject):
            raise ConfigError(f"--then: {subject.name} is a long trace, whose events stay as given")
        entries = subject.recording.devices[subject.device].n_entries
        for call in calls:
            if call.entry >= entries:
                raise ConfigError(
                    f"--then: found entry {call.entry:,}, expected one of 0 to {entries - 1:,} "
                    f"(device {subject.device})"
                )
        subject.use(with_settings_calls(subject.program, calls))


def then_words(texts: Sequence[str]) -> str:
    """Settings calls as options of a command that is to be copied."""
    return "".join(f" --then {shlex.quote(text)}" for text in texts)

"""What an explanation is asked of: which device, which conditions, which moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...sim.device import Device
from ...sim.release import Release
from ...sim.run import Run
from ...traces.errors import ConfigError
from ..first_block import BETWEEN, SHARES
from ..out_of_memory import OutOfMemory, first_out_of_memory
from ..smallest import ABOVE, Smallest, find_smallest, ran
from ..subject import Subject
from .explanation import Explanation, explain_moment
from .moment import Terms, find_moment, terms_of
from .places import Places
from .tried import FLUSHES_TRIED, OWNERS_TRIED

STEPS = OWNERS_TRIED + FLUSHES_TRIED + len(SHARES) + 2 * BETWEEN + ABOVE + 20  # replays, about


@dataclass(frozen=True)
class Asked:
    """What is to be explained.

    Attributes:
        subject: the device's program.
        gpu: the simulated device.
        recorded: where the recorded run ran out of memory, if that is the question; None = the
            replay's own failure or peak is.
    """

    subject: Subject
    gpu: Device
    recorded: OutOfMemory | None


def choose(
    subjects: Sequence[Subject], conf: str | None, rules: Release, gpu: Device, at: int | None
) -> Asked:
    """Return the device to explain, and the memory it is to have.

    Of several devices it is the first that runs out of memory, else the one that reserves most. A
    recorded run that ran out of memory, if nothing else is asked about, gets what it could have.
    """
    if conf is None and gpu.capacity_bytes is None:
        for subject in subjects:
            found = first_out_of_memory(
                subject.recording.devices[subject.device], subject.recording.stacks
            )
            if found is not None and (at is None or at < found.entry):
                return Asked(subject, Device(found.capacity_bytes), found)
    if len(subjects) == 1:
        return Asked(subjects[0], gpu, None)
    runs = [(s, terms_of(s, conf, rules, gpu).play(s.program)) for s in subjects]
    failed = [s for s, run in runs if not ran(run)]
    most = max(runs, key=lambda pair: pair[1].stats["reserved_bytes.all.peak"])[0]
    return Asked(failed[0] if failed else most, gpu, None)


def ask(
    asked: Asked,
    conf: str | None,
    rules: Release,
    at: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Explanation, Terms]:
    """Explain a device's moment.

    Args:
        asked: which device, with which memory.
        conf: settings line; None = the recorded one.
        rules: the release.
        at: an entry, instead of the first failure or the peak.
        advance: called after every replay.

    Raises:
        ConfigError: there is no such entry.
        PolicyError: the release refuses the line.
    """
    subject = asked.subject
    entries = subject.recording.devices[subject.device].n_entries
    if at is not None and not 0 <= at < entries:
        raise ConfigError(f"--at: found {at}, expected an entry of 0 to {entries - 1:,}")
    under = terms_of(subject, conf, rules, asked.gpu)
    places = Places(subject.program, subject.recording)
    moment = find_moment(subject.program, places, under, asked.recorded, at)
    least = _smallest(subject, under, advance) if moment.kind == "failed" else None
    found = explain_moment(subject.program, places, under, moment, least, advance)
    return found, under


def _smallest(subject: Subject, under: Terms, advance: Callable[[], None]) -> Smallest | None:
    """The smallest device that the program runs on under these terms."""
    other, granularity = under.gpu.other_bytes, under.gpu.granularity

    expected = iter(range(ABOVE + 20))  # how many sizes lie below is not known beforehand

    def play(total: int) -> Run:
        if next(expected, None) is not None:
            advance()
        return under.play(subject.program, Device(total, other, granularity))

    return find_smallest([play], [under.play(subject.program, Device())], other)

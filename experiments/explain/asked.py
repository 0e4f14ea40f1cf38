"""What an explanation is asked of: which device, which conditions, which moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...sim.device import Device
from ...sim.release import Release
from ...traces.errors import ConfigError
from ..first_block import BETWEEN, SHARES
from ..out_of_memory import OutOfMemory, first_out_of_memory
from ..smallest import TRIED, ran, smallest_device, sure_device
from ..subject import Subject
from .explanation import Explanation, explain_moment
from .moment import Terms, find_moment, terms_of
from .places import Places
from .tried import FLUSHES_TRIED, OWNERS_TRIED

STEPS = OWNERS_TRIED + FLUSHES_TRIED + len(SHARES) + 2 * BETWEEN + TRIED + 20  # replays, about


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
    least = sure = None
    if moment.kind == "failed":
        least, sure = _smallest(subject, under, advance)
    found = explain_moment(subject.program, places, under, moment, least, sure, advance)
    return found, under


def _smallest(
    subject: Subject, under: Terms, advance: Callable[[], None]
) -> tuple[int | None, int | None]:
    """Least memory the program runs on under these terms, and from where on it surely does."""
    other, granularity = under.gpu.other_bytes, under.gpu.granularity

    def fits(total: int) -> bool:
        run = under.play(subject.program, Device(total, other, granularity))
        advance()
        return ran(run)

    free = under.play(subject.program, Device())
    least = smallest_device(fits, free, other)
    return least, None if least is None else sure_device(fits, least, free, other)

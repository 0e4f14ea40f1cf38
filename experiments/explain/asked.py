"""What an explanation is asked of: which device, which conditions, which moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...sim.device import Device
from ...sim.release import Release
from ...traces.units import round_up
from ..measure import CAPACITY_STEP
from ..out_of_memory import OutOfMemory, first_out_of_memory
from ..subject import Subject
from .explanation import Explanation, explain_moment
from .moment import Conditions, conditions_of, find_moment
from .places import Places
from .tried import FLUSHES_TRIED, OWNERS_TRIED

STEPS = OWNERS_TRIED + FLUSHES_TRIED + 20  # replays, about


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
    if conf is None and gpu.capacity_bytes is None and at is None:
        for subject in subjects:
            found = first_out_of_memory(
                subject.recording.devices[subject.device], subject.recording.stacks
            )
            if found is not None:
                return Asked(subject, Device(found.capacity_bytes), found)
    if len(subjects) == 1:
        return Asked(subjects[0], gpu, None)
    runs = [(s, conditions_of(s, conf, rules, gpu).play(s.program).stats) for s in subjects]
    failed = [s for s, stats in runs if stats["num_ooms"] + stats["num_oom_rejections"]]
    most = max(runs, key=lambda run: run[1]["reserved_bytes.all.peak"])[0]
    return Asked(failed[0] if failed else most, gpu, None)


def ask(
    asked: Asked,
    conf: str | None,
    rules: Release,
    at: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Explanation, Conditions]:
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
    under = conditions_of(subject, conf, rules, asked.gpu)
    places = Places(subject.program, subject.recording)
    moment = find_moment(subject.program, places, under, asked.recorded, at)
    smallest = None
    if moment.kind == "failed":
        smallest = smallest_device(subject, under, advance)
    return explain_moment(subject.program, places, under, moment, smallest, advance), under


def smallest_device(subject: Subject, under: Conditions, advance: Callable[[], None]) -> int:
    """Least memory, in steps of 2 MiB, on which the program runs; bisected."""
    other = under.gpu.other_bytes
    program = subject.program

    def fits(total: int) -> bool:
        run = under.play(program, Device(total, other, under.gpu.granularity))
        advance()
        return run.stats["num_ooms"] + run.stats["num_oom_rejections"] == 0

    free = under.play(program, Device()).stats
    low = free["requested_bytes.all.peak"] // CAPACITY_STEP * CAPACITY_STEP - CAPACITY_STEP
    high = round_up(free["reserved_bytes.all.peak"], CAPACITY_STEP)
    while not fits(high + other):
        high += CAPACITY_STEP
    while high - low > CAPACITY_STEP:
        middle = (low + high) // 2 // CAPACITY_STEP * CAPACITY_STEP
        if middle > 0 and fits(middle + other):
            high = middle
        else:
            low = middle
    return high + other

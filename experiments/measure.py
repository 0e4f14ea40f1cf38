"""Measuring settings lines: what each would have reserved, and the smallest device it runs on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock

import numpy as np

from ..policies.native import conditions_of, parts_of, replay_native
from ..sim.device import Device
from ..sim.packing import Packed
from ..sim.release import Release
from ..sim.requests import Requests
from ..sim.run import Run
from ..sim.settings import Settings
from ..sim.state import HUGE, MAX_NON_SPLIT_ROUNDING, MAX_SPLIT
from ..traces.errors import PolicyError
from ..traces.units import MiB
from .outcome import Outcome
from .outcome_cache import OutcomeCache, identity
from .share_out import share_out
from .smallest import Smallest, bisect_smallest, find_smallest, ran
from .subject import Subject
from .worth import Worth

WORTH_KEEPING = 5.0  # seconds
ROUND = 32  # lines


class Bench:
    """Measures lines on every subject; a line that behaves like one measured before costs nothing.

    Memory that was live before recording began is placed anew under every line, the default
    included, so that all lines start equal.

    Args:
        subjects: the programs.
        rules: the release.
        gpu: the device asked about.
        smallest: what counts of a line is the smallest device it runs on, not its peak.
    """

    def __init__(
        self, subjects: Sequence[Subject], rules: Release, gpu: Device, smallest: bool = False
    ) -> None:
        self.subjects, self.rules, self.gpu = list(subjects), rules, gpu
        self.smallest = smallest
        name = identity([self.packed(s) for s in subjects], rules, gpu)
        self.cache = OutcomeCache(f"{name}-smallest" if smallest else name)
        self.seen = self.cache.load()
        self.begun = time.monotonic()
        self.asked: set[bytes] = set()
        self.tried: set[Settings] = set()
        self._peaks: dict[int, int] = {}
        self._lock = Lock()

    def keep(self, interrupted: bool = False) -> None:
        """Keep the outcomes for the next call, if they took a while or are not all there yet."""
        if interrupted or time.monotonic() - self.begun > WORTH_KEEPING:
            self.cache.save(self.seen)

    def packed(self, subject: Subject) -> Packed:
        return subject.anew if subject.is_warm else subject.kept

    def measure(self, settings: Settings) -> list[Outcome]:
        """Outcome per subject."""
        self._note(settings)
        key = self.effect(settings)
        self.asked.add(key)
        if key not in self.seen:
            whole = [self._outcome(s, settings) for s in self.subjects]
            self.seen[key] = [outcome for outcome in whole if outcome is not None]
        return self.seen[key]

    def measure_all(
        self,
        lines: Iterable[Settings],
        advance: Callable[[], None] = lambda: None,
        shown: Iterable[Settings] = (),
        chosen_from: Iterable[Settings] | None = None,
    ) -> None:
        """Measure many lines on all cores; results stay with the bench.

        A replay that shows a line to matter to nobody is cut short there (see worth.py), and the
        line counts as not measured. Where the smallest device counts that is known of most lines
        only: one that fails on the largest that still matters may do on less, by luck. So that the
        same are cut whatever thread is first, the bound then falls after every ROUND lines only.

        Args:
            lines: what to measure.
            advance: called after each.
            shown: lines whose outcome is needed whatever it is.
            chosen_from: those of the lines of which one will be chosen; None = all of them. No
                choice from more lines needs a line that is worse.
        """
        new: dict[bytes, Settings] = {}
        for settings in lines:
            self._note(settings)
            new.setdefault(self.effect(settings), settings)
        self.asked.update(new)
        first = {self.effect(s) for s in shown}
        counted = set(new) if chosen_from is None else {self.effect(s) for s in chosen_from}
        worth = Worth()
        for key in counted & self.seen.keys():
            worth.note(self.seen[key])
        todo = [(k, s) for k, s in new.items() if k not in self.seen]
        todo.sort(key=lambda item: item[0] not in first)

        frozen: list[int] = []

        def work(item: tuple[bytes, Settings]) -> None:
            key, settings = item
            outcomes: list[Outcome] = []
            for k, subject in enumerate(self.subjects):
                bound = frozen[k] if frozen else worth.bound(self._requested(k))
                bound = HUGE if key in first else bound
                outcome = self._outcome(subject, settings, bound)
                if outcome is None:
                    break
                outcomes.append(outcome)
            with self._lock:
                if len(outcomes) == len(self.subjects):
                    self.seen[key] = outcomes
                    if key in counted:
                        worth.note(outcomes)
                advance()

        if not self.smallest:
            share_out(work, todo)
            return
        for start in range(0, len(todo), ROUND):
            frozen[:] = [worth.bound(self._requested(k)) for k in range(len(self.subjects))]
            share_out(work, todo[start : start + ROUND])

    def distinct(self, lines: Iterable[Settings]) -> list[Settings]:
        """The first line of each behaviour on these subjects; none that they cannot run under."""
        first: dict[bytes, Settings] = {}
        for settings in filter(self.admits, lines):
            first.setdefault(self.effect(settings), settings)
        return list(first.values())

    def admits(self, settings: Settings) -> bool:
        """Whether the settings calls that the programs make are accepted under a line."""
        try:
            for subject in self.subjects:
                if subject.program.settings_calls:
                    self._parts(subject, settings, self.gpu)
        except PolicyError:
            return False
        return True

    def effect(self, settings: Settings) -> bytes:
        """Equal for two lines that cannot behave differently on these subjects."""
        digest = hashlib.blake2b(digest_size=16)
        for subject in self.subjects:
            for requests, _ in self._parts(subject, settings, self.gpu):
                _feed(digest, requests)
        return digest.digest()

    def smallest_device(self, settings: Settings) -> Smallest | None:
        """The smallest device on which every subject runs; None = none does."""
        free = [self._run(s, settings, Device()) for s in self.subjects]
        programs = [partial(self._run_on, s, settings) for s in self.subjects]
        return find_smallest(programs, free, self.gpu.other_bytes)

    def retries_on(self, total: int, settings: Settings) -> int:
        """How often all cached memory is given back on a device of so many bytes, all subjects."""
        runs = [self._run_on(s, settings, total) for s in self.subjects]
        return sum(r.stats["num_alloc_retries"] for r in runs)

    def _fits(self, subject: Subject, settings: Settings, own: int) -> bool:
        """Whether a subject runs with so much memory of its own."""
        return ran(self._run_on(subject, settings, own + self.gpu.other_bytes))

    def _note(self, settings: Settings) -> None:
        self.tried.add(replace(settings, conf=""))

    def _requested(self, k: int) -> int:
        """Peak requested bytes of subject k on a device that never runs out: a line's no matter."""
        if k not in self._peaks:
            self._peaks[k] = self._run(self.subjects[k], Settings(), Device()).stats[
                "requested_bytes.all.peak"
            ]
        return self._peaks[k]

    def _outcome(self, subject: Subject, settings: Settings, bound: int = HUGE) -> Outcome | None:
        """What a line makes of a subject; None if it needs more than `bound`."""
        smallest = None
        if self.smallest:
            if bound < HUGE and not self._fits(subject, settings, bound):
                return None
            free = self._run(subject, settings, Device())
            smallest = bisect_smallest(lambda own: self._fits(subject, settings, own), [free])
        else:
            free = self._run(subject, settings, Device(), bound)
            if free.cut:
                return None
        run = free
        room = self.gpu.capacity_bytes
        limited = settings.per_process_memory_fraction < 1 or settings.throw_on_cudamalloc_oom
        limited |= settings.large_segment_size % self.gpu.granularity != 0  # costs more than it has
        limited |= len(subject.program.settings_calls) > 0  # which may be of these kinds
        if room is not None:
            peak = free.stats["reserved_bytes.all.peak"]
            if limited or peak + self.gpu.other_bytes > room:
                run = self._run(subject, settings, self.gpu)
        ooms = run.stats["num_ooms"] + run.stats["num_oom_rejections"]
        event = None
        if ooms:
            op = run.first_oom_op
            event = subject.program.entry_of(op) if op >= 0 else 0
        return Outcome(
            peak_reserved_bytes=free.stats["reserved_bytes.all.peak"],
            peak_allocated_bytes=free.stats["allocated_bytes.all.peak"],
            peak_requested_bytes=free.stats["requested_bytes.all.peak"],
            device_allocs=run.stats["num_device_alloc"],
            device_frees=run.stats["num_device_free"],
            alloc_retries=run.stats["num_alloc_retries"],
            ooms=ooms,
            first_oom_event=event,
            smallest_bytes=smallest,
        )

    def _parts(
        self, subject: Subject, settings: Settings, gpu: Device
    ) -> list[tuple[Requests, Device]]:
        packed = self.packed(subject)
        return parts_of(packed, conditions_of(packed, settings, self.rules, gpu), self.rules)

    def _run(self, subject: Subject, settings: Settings, gpu: Device, bound: int = HUGE) -> Run:
        return replay_native(self.packed(subject), settings, self.rules, gpu, bound=bound)

    def _run_on(self, subject: Subject, settings: Settings, total: int) -> Run:
        return self._run(subject, settings, replace(self.gpu, capacity_bytes=total))


def _feed(digest: hashlib.blake2b, requests: Requests) -> None:
    """Add to a digest all that can decide anything, in a canonical form."""
    expands = bool(requests.expands.any())
    options = dict(requests.options)
    largest = int(requests.segment.max(initial=0))
    if not expands and options[MAX_SPLIT] > largest:
        options[MAX_SPLIT] = HUGE  # no block is ever that large
    if options[MAX_SPLIT] >= HUGE or not (requests.need >= options[MAX_SPLIT]).any():
        options[MAX_NON_SPLIT_ROUNDING] = HUGE
    least = requests.least_rest
    if options[MAX_SPLIT] >= HUGE:
        least = np.where(least >= HUGE, MiB + 1, least)
    pages = (requests.small_page, requests.large_page, requests.reserve_bytes) if expands else ()
    for part in (requests.need, requests.segment, least, requests.expands):
        digest.update(np.ascontiguousarray(part).tobytes())
    digest.update(repr((sorted(options.items()), pages)).encode())

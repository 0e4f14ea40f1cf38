"""Running an experiment: what the journal lacks is measured, one recording after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from ...policies.contender import BASELINE, Contender
from ...sim.costs import Cost, read_costs
from ...sim.device import Device
from ...sim.packing import Packed
from ...sim.release import Release, release
from ...traces.errors import ConfigError, PolicyError
from ...traces.units import format_bytes
from ..comparison import TraceRows
from ..release_fit import find_release
from ..row import Row, bound_rows, packing_row, row_of, smallest_of
from ..screen import progress
from ..share_out import share_out
from ..smallest import Smallest, with_smallest
from ..subject import Subject
from ..tune_policy import tune_policy
from ..tuning import find_line
from .entries import row_kept, smallest_kept, told_kept, values_kept
from .journal import Journal, key_of
from .line_up import Entrant, check, identity, playing
from .question import Question
from .recordings import Source

Read = TypeVar("Read")


@dataclass(frozen=True)
class Measured:
    """One device of one recording on one simulated device: a table.

    Attributes:
        trace: what it is called; rows: bounds, then policies as they stand in the file.
        program: variants of one program share it.
        content: what decides the programs of the recording.
        device: index of the recorded device.
        events: allocations and frees.
        torch: the release whose rules hold.
        rules: the same in words.
        is_warm: memory was live before recording began; every policy places it anew.
        notes: what was noticed in the recording.
        capacity_bytes: memory of the simulated device; None = it never runs out.
        texts: for each policy the text that `--policy` takes, relative to the experiment file.
        tuned: those whose text was found by a search.
    """

    trace: str
    program: str
    content: str
    device: int
    events: int
    torch: str
    rules: str
    is_warm: bool
    notes: list[str]
    capacity_bytes: int | None
    rows: list[Row]
    texts: dict[str, str]
    tuned: list[str]

    @property
    def trace_and_device(self) -> tuple[str, int]:
        return self.trace, self.device

    @property
    def table(self) -> TraceRows:
        return TraceRows(self.trace, self.device, self.events, self.rows)


class Runner:
    """Runs an experiment.

    Args:
        question: the experiment.
        entrants: who is compared.
        found: the recordings.
        journal: what was measured earlier, and where to keep what is measured now.

    Attributes:
        shares: some search is over several recordings: those that were read stay in memory.
    """

    def __init__(
        self,
        question: Question,
        entrants: Sequence[Entrant],
        found: Sequence[Source],
        journal: Journal,
    ) -> None:
        self.question, self.entrants, self.sources = question, entrants, found
        self.journal = journal
        self.costs: dict[str, Cost] | None = None
        if question.driver_costs:
            self.costs = read_costs(question.path.parent / question.driver_costs)
        self.shares = any(e.asked.tune in ("all", "others") for e in entrants)
        self._used: set[str] = set()
        self._rows: list[str] = []
        self._loaded: dict[str, Loaded] = {}

    @property
    def kept(self) -> int:
        """Results that earlier runs had kept."""
        return len(self._used & self.journal.before)

    @property
    def measured(self) -> int:
        """Results that were new."""
        return self.journal.added

    @property
    def runs(self) -> tuple[int, int]:
        """Replays of a policy on a device: how many are there, how many of them were before."""
        done = [key for key in self._rows if self.journal.get(key) is not None]
        return len(done), sum(key in self.journal.before for key in done)

    def run(self) -> list[Measured]:
        """Measure everything and return it, the recordings in the order of the file.

        Raises:
            TightfitError: a recording cannot be read, or its rules refuse a settings line.
            KeyboardInterrupt: what is done is in the journal.
        """
        out = []
        for number, source in enumerate(self.sources, start=1):
            loaded = self._of(source)
            told = self._told(loaded)
            rules = release(told["torch"])
            for entrant in self.entrants:
                _check(entrant, rules, source)
            for place in told["devices"]:
                for capacity in self.question.capacities:
                    gpu = Device(capacity, self.question.other_bytes)
                    what = f"{source.name} ({number} of {len(self.sources)})"
                    out.append(self._table(loaded, told, place, gpu, rules, what))
            if not self.shares:
                del self._loaded[source.content]
        return out

    def _table(
        self,
        loaded: Loaded,
        told: dict[str, Any],
        place: dict[str, Any],
        gpu: Device,
        rules: Release,
        what: str,
    ) -> Measured:
        """Measure one device of a recording on one simulated device."""
        source, index = loaded.source, place["index"]
        start = (source.content, index, rules.name)
        for e in self.entrants:
            if told["is_long"] and playing(e.label, e.text, rules).knows:
                raise ConfigError(
                    f"{e.asked.where}: it is told of the whole program beforehand, and "
                    f"{source.name} is a long trace, never in memory as a whole"
                )
        texts = {e.label: self._text(e, loaded, index, gpu, rules) for e in self.entrants}
        bound = row_kept(place["bound"])
        jobs: dict[str, Callable[[], Any]] = {}
        rows: dict[str, str] = {}
        least: dict[str, str] = {}
        for e in self.entrants:
            policy = identity(texts[e.label])
            costs = None if self.costs is None else sorted(self.costs.items())
            rows[e.label] = key_of("row", *start, policy, asdict(gpu), costs)
            jobs[rows[e.label]] = lambda e=e: loaded.row(
                index, self._contender(e, texts, rules), gpu, bound, self.costs
            )
            if "smallest_gpu" in self.question.columns:
                least[e.label] = key_of("smallest", *start, policy, gpu.other_bytes)
                jobs[least[e.label]] = lambda e=e: smallest_of(
                    self._contender(e, texts, rules),
                    loaded.packed(index),
                    Device(None, gpu.other_bytes),
                )
        self._rows += rows.values()
        for keys, read in ((rows, row_kept), (least, smallest_kept)):
            for key in keys.values():
                self._drop_unread(key, read)
        self._measure(jobs, what, lambda: loaded.packed(index))
        head = [bound]
        if self.question.packing_seconds and not told["is_long"]:
            seconds = self.question.packing_seconds
            key = key_of("packing", source.content, index, seconds)
            head.append(
                self._kept_or(
                    key, row_kept, lambda: packing_row(loaded.packed(index), seconds, bound)
                )
            )
        body = []
        for e in self.entrants:
            row = replace(row_kept(self.journal.get(rows[e.label])), policy=e.label)
            role = "told" if row.role == "told" else "policy"
            row = replace(row, role="baseline" if e.is_baseline else role)
            if e.label in least:
                row = with_smallest(row, smallest_kept(self.journal.get(least[e.label])))
            body.append(row)
        return Measured(
            source.name, source.program, source.content, index, place["events"], rules.name,
            told["words"], place["is_warm"], told["notes"], gpu.capacity_bytes, [*head, *body],
            {label: self._relative(text) for label, text in texts.items()},
            [e.label for e in self.entrants if e.asked.tune],
        )  # fmt: skip

    def _measure(
        self, jobs: dict[str, Callable[[], Any]], what: str, prepare: Callable[[], Any]
    ) -> None:
        """Do what the journal lacks, on all cores; each result is kept at once."""
        todo = [key for key in jobs if self.journal.get(key) is None]
        self._used |= jobs.keys()
        if todo:
            prepare()  # once, before threads ask for it
        with progress(len(todo), what) as advance:

            def work(key: str) -> None:
                self._keep(key, jobs[key]())
                advance()

            share_out(work, todo, waits=False)

    def _told(self, loaded: Loaded) -> dict[str, Any]:
        key = key_of("trace", loaded.source.content, self.question.torch)
        return self._kept_or(key, told_kept, loaded.tell)

    def _kept_or(self, key: str, read: Callable[[Any], Read], measure: Callable[[], Any]) -> Read:
        self._used.add(key)
        self._drop_unread(key, read)
        if self.journal.get(key) is None:
            self._keep(key, measure())
        return read(self.journal.get(key))

    def _drop_unread(self, key: str, read: Callable[[Any], Any]) -> None:
        """An entry of another shape, whoever wrote it, counts as not there."""
        if self.journal.get(key) is not None:
            try:
                read(self.journal.get(key))
            except ValueError:
                self.journal.forget(key)

    def _keep(self, key: str, value: Any) -> None:
        plain = asdict(value) if isinstance(value, Row | Smallest) else value
        self.journal.put(key, plain if isinstance(plain, dict) else {"value": plain})

    def _relative(self, text: str) -> str:
        return text.removeprefix(f"{self.question.path.parent}{os.sep}")

    def _contender(self, entrant: Entrant, texts: dict[str, str], rules: Release) -> Contender:
        return playing(entrant.label, texts[entrant.label], rules)

    def _text(
        self, entrant: Entrant, loaded: Loaded, index: int, gpu: Device, rules: Release
    ) -> str:
        """A policy with its values; those of a tuned one are searched, or found in the journal."""
        asked = entrant.asked
        if not asked.tune:
            return entrant.text
        by_content = {s.content: s for s in self.sources}
        if asked.tune == "each":
            among = [(loaded.source.content, index)]
        else:
            among = [
                (s.content, place["index"])
                for s in self.sources
                for place in self._told(self._of(s))["devices"]
            ]
        if asked.tune == "others":
            among = [a for a in among if by_content[a[0]].program != loaded.source.program]
        key = key_of(
            "tuned", among, rules.name, identity(entrant.text), asdict(gpu), asked.trials,
            asked.without, asked.tune_for,
        )  # fmt: skip

        def search() -> str:
            subjects = [self._of(by_content[c]).subject(k) for c, k in among]
            # Only the values are kept: where the policy's own file lies is for each run to say.
            return _search(entrant, subjects, gpu, rules).removeprefix(entrant.text).lstrip(":")

        values = self._kept_or(key, values_kept, search)
        return f"{entrant.text}:{values}" if values else entrant.text

    def _of(self, source: Source) -> Loaded:
        """A recording, which is read once as long as it is needed."""
        return self._loaded.setdefault(source.content, Loaded(source, self.question.torch))


class Loaded:
    """A recording, read when something of it is needed."""

    def __init__(self, source: Source, torch: str) -> None:
        self.source, self.torch = source, torch

    @cached_property
    def subjects(self) -> list[Subject]:
        subjects = self.source.load()
        self.fit = find_release(subjects, self.torch or None)
        return subjects

    def subject(self, index: int) -> Subject:
        return next(s for s in self.subjects if s.device == index)

    def packed(self, index: int) -> Packed:
        """A device's program; memory that was live at its start is placed anew by everybody."""
        subject = self.subject(index)
        return subject.anew if subject.is_warm else subject.kept

    def row(
        self,
        index: int,
        policy: Contender,
        gpu: Device,
        bound: Row,
        costs: dict[str, Cost] | None,
    ) -> Row:
        """Replay a device's program through a policy."""
        run = policy.replay(self.packed(index), gpu)
        least = bound.peak_reserved_bytes or 0
        return row_of(self.subject(index), policy, gpu, run, least, costs)

    def tell(self) -> dict[str, Any]:
        """What the journal keeps of a recording, so that it need not be read again."""
        devices = [
            {
                "index": s.device,
                "events": len(self.packed(s.device).events),
                "is_warm": s.is_warm,
                "bound": asdict(bound_rows(self.packed(s.device))[0]),
            }
            for s in self.subjects
        ]
        return {
            "torch": self.fit.rules.name,
            "words": self.fit.words,
            "is_long": any(s.kept.source is not None for s in self.subjects),
            "devices": devices,
            "notes": [f.text for s in self.subjects for f in s.program.findings],
        }


def _search(entrant: Entrant, subjects: list[Subject], gpu: Device, rules: Release) -> str:
    """Tune a policy, or PyTorch's settings, and return what `--policy` takes.

    Raises:
        KeyboardInterrupt: the search did not end.
    """
    asked = entrant.asked
    smallest = asked.tune_for == "smallest_gpu"
    if asked.name == BASELINE:
        answer = find_line(subjects, gpu, rules.name, asked.without, asked.trials, smallest)
        text = f"{BASELINE}:{answer.best.conf}" if answer.best.conf else BASELINE
    else:
        with progress(asked.trials + 1, f"tuning {asked.name}") as advance:
            answer = tune_policy(
                subjects, entrant.text, gpu, rules, asked.trials, advance, smallest=smallest
            )
        text = answer.best.policy
    if answer.interrupted:
        raise KeyboardInterrupt
    return text


def _check(entrant: Entrant, rules: Release, source: Source) -> None:
    try:
        check(entrant, rules)
    except (ConfigError, PolicyError) as error:
        raise ConfigError(f"{error} (by the rules that {source.name} follows)") from error


def words_of(gpu: Device) -> str:
    """The simulated device in words."""
    room = "memory without end"
    if gpu.capacity_bytes is not None:
        room = format_bytes(gpu.capacity_bytes)
    return room + (f", {format_bytes(gpu.other_bytes)} of it others'" if gpu.other_bytes else "")

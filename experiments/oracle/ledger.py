"""The ledger: what was compared with PyTorch's own allocator so far, one line of JSON per proof.

Lines are appended and never changed, so that a campaign of hours can stop and go on, and so that
whoever doubts a line can repeat it: it names its release, its first and last program, and the
sources that made them.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...traces.errors import ConfigError
from ...traces.jit import source_hash
from ..kept import read_back
from .fuzz import Proof

GENERATOR = ("programs.py", "lines.py", "script.py", "commands.py")


@dataclass(frozen=True)
class Entry:
    """One proof that was run to its end or interrupted.

    Attributes:
        torch: full version.
        seed, programs: programs number seed .. seed + programs - 1 were compared.
        events, mallocs, ooms: trace entries compared, and the requests behind them.
        differences: programs about which simulator and allocator disagreed.
        excluded: programs compared only up to a known defect of PyTorch, by its name.
        seconds: wall time.
        date: day it was run, ISO.
        simulator: hash of the simulator's sources.
        generator: hash of the sources that write a program for a number.
    """

    torch: str
    seed: int
    programs: int
    events: int
    mallocs: int
    ooms: int
    differences: int
    excluded: dict[str, int]
    seconds: float
    date: str
    simulator: str
    generator: str


def entry_of(proof: Proof) -> Entry:
    """Return what the ledger keeps of a proof."""
    return Entry(
        proof.torch,
        proof.seed,
        proof.programs,
        proof.events,
        proof.mallocs,
        proof.ooms,
        len(proof.differences),
        dict(proof.excluded),
        round(proof.seconds, 1),
        datetime.date.today().isoformat(),
        source_hash()[:12],
        generator_hash(),
    )


def generator_hash() -> str:
    """Return 12 hex digits that change whenever program number K might become another one."""
    digest = hashlib.sha256()
    for name in GENERATOR:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:12]


def append(path: Path, proof: Proof) -> None:
    """Add a proof, if it compared anything."""
    if proof.programs:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(entry_of(proof))) + "\n")


def read(path: Path) -> list[Entry]:
    """Read a ledger; a file that is not there is an empty one.

    Raises:
        ConfigError: a line is none of a ledger's.
    """
    if not path.exists():
        return []
    out = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            out.append(read_back(Entry, json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path.name}: line {number}: found {line[:60]!r}, expected an entry of the "
                f"ledger ({error})"
            ) from error
    return out


def next_seed(entries: Sequence[Entry], torch: str) -> int:
    """Return the first program of a release behind all that were compared."""
    return max((e.seed + e.programs for e in entries if e.torch == torch), default=0)


def totals(entries: Sequence[Entry]) -> dict[str, Entry]:
    """Return one entry per release: sums, the first seed, the newest date and simulator."""
    out: dict[str, Entry] = {}
    for release in dict.fromkeys(e.torch for e in entries):
        mine = [e for e in entries if e.torch == release]
        excluded: Counter[str] = Counter()
        for e in mine:
            excluded.update(e.excluded)
        out[release] = Entry(
            torch=release,
            seed=min(e.seed for e in mine),
            programs=sum(e.programs for e in mine),
            events=sum(e.events for e in mine),
            mallocs=sum(e.mallocs for e in mine),
            ooms=sum(e.ooms for e in mine),
            differences=sum(e.differences for e in mine),
            excluded=dict(excluded),
            seconds=sum(e.seconds for e in mine),
            date=max(e.date for e in mine),
            simulator=mine[-1].simulator,
            generator=mine[-1].generator,
        )
    return out

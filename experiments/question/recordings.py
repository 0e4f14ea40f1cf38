"""Which recordings an experiment is about: files and patterns of files, and synthetic ones."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...traces.errors import ConfigError, did_you_mean
from ...traces.pattern_recording import make_pattern
from ...traces.serving import make_workload
from ...traces.synthetic import PATTERNS
from ..subject import Subject, load_subjects, subjects_of
from ..workloads import drawn_requests
from .question import TraceAsked

_PIECE = 1 << 22


@dataclass(frozen=True)
class Source:
    """One recording of an experiment.

    Attributes:
        name: what tables call it.
        path: the file; of a synthetic one a name for it.
        digest: the file's sha256, or what a synthetic one is made from.
        device: the one asked for; None = all.
        program: variants of one program share it.
        load: reads or makes it, and returns its devices.
    """

    name: str
    path: Path
    digest: str
    device: int | None
    program: str
    load: Callable[[], list[Subject]]

    @property
    def content(self) -> str:
        """What decides its programs."""
        return self.digest if self.device is None else f"{self.digest} {self.device}"


def sources(asked: Sequence[TraceAsked], folder: Path) -> list[Source]:
    """Return all recordings asked for, in the order of the file.

    Args:
        asked: from the experiment file.
        folder: what their paths are relative to.

    Raises:
        ConfigError: there is no such file, one is named twice, or it has another sha256.
    """
    found = [s for a in asked for s in (_synthetic(a) if a.workload else _files(a, folder))]
    for a, b in itertools.combinations(found, 2):
        if a.digest == b.digest and (None in (a.device, b.device) or a.device == b.device):
            same = "twice" if a.path == b.path else f"and {b.path.name}, which holds the same"
            raise ConfigError(
                f"[[trace]]: found {a.path.name} {same}; expected each recording once"
            )
    names = Counter(s.name for s in found)
    return [s if names[s.name] == 1 else replace(s, name=_longer(s, folder)) for s in found]


def _longer(source: Source, folder: Path) -> str:
    """A name for a recording of which the short one is taken."""
    is_file = source.path.is_file()
    return _visible(os.path.relpath(source.path, folder) if is_file else str(source.path))


def _visible(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 are written as in Python."""
    return name.encode(errors="backslashreplace").decode()


def _files(asked: TraceAsked, folder: Path) -> list[Source]:
    paths = [folder / asked.file]
    if not paths[0].exists() and any(c in asked.file for c in "*?["):
        pattern = os.path.join(glob.escape(str(folder)), asked.file)
        paths = sorted(p for p in map(Path, glob.glob(pattern, recursive=True)) if p.is_file())
        if not paths:
            raise ConfigError(f"{asked.where}: file: nothing in {folder} matches {asked.file!r}")
    if not paths[0].is_file() and paths[0].exists():
        what = "a folder" if paths[0].is_dir() else "something else"
        raise ConfigError(f"{asked.where}: file: {paths[0]}: found {what}, expected a file")
    if not paths[0].is_file():
        beside = paths[0].parent
        near = did_you_mean(paths[0].name, [p.name for p in beside.glob("*")])
        raise ConfigError(f"{asked.where}: file: no file {paths[0]}{near}")
    if asked.sha256 and len(paths) > 1:
        raise ConfigError(f"{asked.where}: sha256: it is for one file, found {len(paths)}")
    out = []
    for path in paths:
        digest = _sha256(path)
        if asked.sha256 and asked.sha256 != digest:
            raise ConfigError(
                f"{asked.where}: sha256: {path.name} hashes to {digest}, expected {asked.sha256}; "
                "it is another recording"
            )

        def load(path: Path = path) -> list[Subject]:
            return load_subjects(path, asked.device)

        out.append(
            Source(_visible(path.stem), path, digest, asked.device, asked.program or digest, load)
        )
    return out


def _synthetic(asked: TraceAsked) -> list[Source]:
    out = []
    for seed in asked.seeds:
        parts = (asked.workload, asked.lengths, f"{asked.events} events", f"seed {seed}")

        def load(seed: int = seed) -> list[Subject]:
            if asked.workload in PATTERNS:
                recording = make_pattern(asked.workload, asked.events, seed)
            else:
                drawn = drawn_requests(asked.lengths, asked.events, seed)
                recording = make_workload(asked.workload, drawn, asked.events, seed)
            recording.name = asked.workload
            return subjects_of(recording, Path(asked.workload))

        name = " ".join(filter(None, (asked.workload, asked.lengths))) + (
            f" seed {seed}" if len(asked.seeds) > 1 else ""
        )
        content = ", ".join(filter(None, parts))
        path, program = Path(f"{asked.workload} ({content})"), asked.program or asked.workload
        out.append(Source(name, path, f"made: {content}", None, program, load))
    return out


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()

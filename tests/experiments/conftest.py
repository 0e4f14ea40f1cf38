"""Fixtures of the tests of commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tightfit.experiments import policy_check
from tightfit.experiments.live import check as live_check
from tightfit.experiments.recording.whole_wheel import NEWEST, Build, find_build
from tightfit.traces.errors import TightfitError

from .on_stand_in import TRAIN, record
from .story import dump, snapshot

# Names the release of PyTorch that tests run as a whole over the stand-in; where it is set, as in
# .ci/run, they fail if that is not at hand. Otherwise they take what is, or are skipped.
WHOLE_VARIABLE = "TIGHTFIT_WHOLE_TORCH"
WHOLE = "2.11.0"  # what GPU machines had so far


@pytest.fixture
def story(tmp_path: Path) -> Path:
    """STORY as a snapshot file."""
    return dump(snapshot(), tmp_path / "story.pickle")


@pytest.fixture
def progress_of_checks(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """What was shown of each progress of a policy's checks: its total, and how far it came."""
    seen: dict[str, list[int]] = {}

    @contextmanager
    def progress(total: int, what: str) -> Iterator[Callable[[int], None]]:
        seen[what] = [total, 0]

        def advance(n: int) -> None:
            seen[what][1] += n

        yield advance

    for module in (policy_check, live_check):
        monkeypatch.setattr(module, "progress", progress)
    return seen


@pytest.fixture(scope="session")
def build() -> Build:
    """A whole CUDA build of PyTorch, half a gigabyte, that was fetched before."""
    asked = os.environ.get(WHOLE_VARIABLE)
    if asked:
        return find_build(asked, download=False)
    for version in (WHOLE, NEWEST):
        try:
            return find_build(version, download=False)
        except TightfitError:
            continue
    pytest.skip(
        f"no whole CUDA build of torch {WHOLE} or {NEWEST} is in the cache; "
        f"'tightfit record --stand-in h100-80g --torch {WHOLE} --prepare' fetches it"
    )


@pytest.fixture(scope="session")
def trained(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The recording of TRAIN under a settings line, made once for all tests that ask for it."""
    folder = tmp_path_factory.mktemp("trained")
    script = folder / "train.py"
    script.write_text(TRAIN)
    made: dict[str, Path] = {}

    def under(conf: str) -> Path:
        if conf not in made:
            path = folder / f"{len(made)}.npz"
            record(build, script, path, "--conf", conf)
            made[conf] = path
        return made[conf]

    return under

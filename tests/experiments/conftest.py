"""Fixtures of the tests of commands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tightfit.experiments.recording.whole_wheel import NEWEST, Build, find_build
from tightfit.traces.errors import TightfitError

from .story import dump, snapshot

# Names the release of PyTorch that tests run as a whole over the stand-in; where it is set, as in
# .ci/run, they fail if that is not at hand. Otherwise they take what is, or are skipped.
WHOLE_VARIABLE = "TIGHTFIT_WHOLE_TORCH"
WHOLE = "2.11.0"  # what GPU machines had so far


@pytest.fixture
def story(tmp_path: Path) -> Path:
    """STORY as a snapshot file."""
    return dump(snapshot(), tmp_path / "story.pickle")


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

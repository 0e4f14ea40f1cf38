"""Fixtures of the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from .story import dump, snapshot


@pytest.fixture
def story(tmp_path: Path) -> Path:
    """STORY as a snapshot file."""
    return dump(snapshot(), tmp_path / "story.pickle")

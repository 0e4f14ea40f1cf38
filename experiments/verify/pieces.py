"""The pieces of a check: each finished one is a file of its own, and is not done again."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any


class Pieces:
    """A folder of answers.

    Attributes:
        folder: where they lie.
        stamp: what they hold for: trace, settings line and machine are part of the name, so that an
            answer is never taken for another question's.
    """

    def __init__(self, folder: Path, *stamp: str) -> None:
        self.folder = folder
        self.stamp = stamp
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, line: str, piece: str, suffix: str = ".json") -> Path:
        """Return where a piece is, or will be."""
        digest = hashlib.sha256(repr((*self.stamp, line)).encode()).hexdigest()[:12]
        return self.folder / f"{digest}.{piece}{suffix}"

    def get(self, line: str, piece: str) -> dict[str, Any] | None:
        """Return a finished piece; one that cannot be read counts as not done."""
        try:
            return json.loads(self.path(line, piece).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


class Clock:
    """How much of a time budget is left."""

    def __init__(self, seconds: float | None) -> None:
        self.end = None if seconds is None else time.monotonic() + seconds

    @property
    def left(self) -> float:
        return 3600.0 if self.end is None else self.end - time.monotonic()

"""The pieces of a check: each finished one is a file of its own, and is not done again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GUESS = 10.0  # seconds of a piece of which nothing is known


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
    """How much of a time budget is left, and whether a further piece fits into it.

    Args:
        seconds: the budget; None = none.
        begun: when it began, of time.monotonic(); None = now.

    Attributes:
        taken: kind of piece -> seconds that the last one took.
    """

    def __init__(self, seconds: float | None, begun: float | None = None) -> None:
        now = time.monotonic() if begun is None else begun
        self.end = None if seconds is None else now + seconds
        self.taken: dict[str, float] = {}

    @property
    def left(self) -> float:
        return 3600.0 if self.end is None else self.end - time.monotonic()

    def within(self, seconds: float) -> Clock:
        """A clock for a part of the work, which may take so many seconds of what is left."""
        part = Clock(min(seconds, self.left))
        part.taken = self.taken
        return part

    def fits(self, kind: str) -> bool:
        """Return whether a piece would probably be done in time.

        It is taken to need what the last of its kind did, else as much as the longest of any kind
        and no less than GUESS. The first of all fits always: a call gets on however short it is.
        """
        if not self.taken:
            return self.left > 0
        return self.taken.get(kind, max(GUESS, *self.taken.values())) < self.left

    @contextmanager
    def timing(self, kind: str) -> Iterator[None]:
        """Note how long a piece takes."""
        begun = time.monotonic()
        try:
            yield
        finally:
            self.taken[kind] = time.monotonic() - begun

"""The pieces of a check: each finished one is a file of its own, and is not done again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..kept import has

# What every answer holds, and which more a piece of each kind holds that is read without asking.
ALL: dict[str, Any] = {"gpu": str, "torch": str, "cuda": str, "total": int}
DEVICE: dict[str, Any] = {**ALL, "driver": str, "free": int}
PLAYED: dict[str, Any] = {
    **DEVICE, "stats": dict[str, int], "oom": dict | None, "streams": list[int],
    "pools": list[list[int]], "free_at_witness": int | None, "reserved_at_witness": int | None,
    "free_at_end": int,
}  # fmt: skip
WHOLE: dict[str, Any] = {
    **ALL, "stats": dict[str, int], "begun": int, "ended": int, "steps": list[int],
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "probe": DEVICE, "accept": DEVICE, "place": PLAYED, "count": PLAYED, "limit": PLAYED,
    "record": WHOLE, "run": WHOLE, "costs": {**DEVICE, "costs": dict},
    "habits": {**DEVICE, "habits": dict}, "libraries": {**DEVICE, "libraries": list},
}  # fmt: skip
PEAK = "reserved_bytes.all.peak"  # the counter that nothing goes without

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
        """Return a finished piece; one that is damaged goes, and counts as not done."""
        try:
            answer = json.loads(self.path(line, piece).read_text(encoding="utf-8"))
        except OSError:
            return None
        except (ValueError, RecursionError):
            answer = None
        if is_answer(answer, piece):
            return answer
        # What the same process recorded goes as well: the next one's addresses will be others.
        for suffix in (".json", ".npz"):
            with suppress(OSError):
                self.path(line, piece, suffix).unlink()
        return None


def is_answer(value: object, piece: str) -> bool:
    """Return whether a value is an answer to a piece: an error, or all that its readers expect."""
    if not isinstance(value, dict):
        return False
    if "error" in value:
        return isinstance(value["error"], str)
    expected = KINDS.get(piece.rstrip("0123456789"), ALL)
    return has(value, expected) and ("stats" not in expected or PEAK in value["stats"])


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

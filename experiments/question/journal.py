"""The journal of an experiment: what was measured, one line of JSON each, appended as it is done.

An entry is found again by everything that decides it: the program, the policy, the device, the
rules and the code. So an experiment that was interrupted goes on where it was, one that grew runs
what is new, and nothing is taken that other code has measured.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from threading import Lock
from typing import Any

from ..code_hash import code_hash
from ..kept import mark_of

FORMAT = 1  # another one, when what is kept of a run changes


def key_of(*parts: object) -> str:
    """Return a name that is equal only if all parts and the code are."""
    words = json.dumps([FORMAT, code_hash(), *parts], default=str)
    return hashlib.sha256(words.encode()).hexdigest()[:24]


class Journal:
    """What is kept of an experiment.

    Args:
        path: the file; it need not be there.

    Attributes:
        before: keys of what was there when it was read.
        added: values kept since.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: dict[str, Any] = {}
        self._lock = Lock()
        self._torn = False
        self.added = 0
        self.before: set[str] = set()
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    key, value = entry["key"], entry["value"]
                    is_ours = entry["mark"] == mark_of(key, value) and isinstance(key, str)
                except (ValueError, TypeError, KeyError, RecursionError):
                    continue  # whoever wrote it was killed: it is measured again
                if is_ours:
                    self.kept[key] = value
            self.before = set(self.kept)
            self._torn = not path.read_bytes().endswith(b"\n")

    def get(self, key: str) -> Any:
        """What was kept under a key; None if nothing was."""
        return self.kept.get(key)

    def forget(self, key: str) -> None:
        """Let what was kept under a key count as not there: it is not what its reader expects."""
        self.kept.pop(key, None)
        self.before.discard(key)

    def put(self, key: str, value: Any) -> Any:
        """Keep a value at once and return it as it would be read again.

        Raises:
            OSError: the file cannot be written.
        """
        line = json.dumps({"key": key, "mark": mark_of(key, value), "value": value})
        with self._lock:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("\n" if self._torn else "") + line + "\n")
            self._torn = False
            self.kept[key] = json.loads(line)["value"]
            self.added += 1
            return self.kept[key]

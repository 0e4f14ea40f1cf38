"""What was allocated and freed, in order, with who asked for it."""

from __future__ import annotations

import array
import json
import os
import sys
import weakref
from collections import Counter
from typing import Any

ROW = 6  # integers of a row
OWN = os.path.dirname(os.path.abspath(__file__))
# Parts of PyTorch that run a program with fake tensors, and not in a program on a GPU.
HIDDEN = (
    OWN,
    os.path.join("torch", "_subclasses"),
    os.path.join("torch", "_ops.py"),
    os.path.join("torch", "_library"),
    os.path.join("torch", "_dynamo"),
    os.path.join("torch", "_compile.py"),
    os.path.join("torch", "utils", "_python_dispatch.py"),
    os.path.join("torch", "utils", "_stats.py"),
)
DEEPEST = 64  # frames of a stack


class Rows:
    """Allocations and frees.

    Attributes:
        rows: ROW integers of each allocation (number >= 1, bytes, stream, kind of scratch, stack,
            pool)
            and each free (-number and zeros).
        stream: number of the current stream; 0 = the default one.
        pool: memory pool of the CUDA graph that is being captured; 0 = none.
        reads: where values were read back, which fake tensors have none of, how often.
        kinds: names of the kinds of scratch; 0 is "", a tensor.
        stacks: distinct stacks, innermost frame first; 0 is empty.
    """

    def __init__(self) -> None:
        self.rows = array.array("q")
        self.number = 0
        self.stream = self.pool = 0
        self.reads: Counter[str] = Counter()
        self.of: dict[int, list[int]] = {}  # storage -> [number], shared when memory is passed on
        self.kinds = [""]
        self.stacks: list[list[tuple[str, int, str]]] = [[]]
        self._number_of: dict[tuple, int] = {}

    def allocate(self, size: int, operation: str = "", kind: str = "") -> int:
        """Add an allocation on the current stream; return its number.

        Args:
            size: bytes.
            operation: what asked for it.
            kind: of scratch; "" = a tensor.
        """
        self.number += 1
        if kind not in self.kinds:
            self.kinds.append(kind)
        number_of_kind, stack = self.kinds.index(kind), self.stack(operation)
        self.rows.extend((self.number, size, self.stream, number_of_kind, stack, self.pool))
        return self.number

    def free(self, number: int) -> None:
        """Free an allocation."""
        self.rows.extend((-number, 0, 0, 0, 0, 0))

    def track(self, storage: Any, operation: str, least: int = 0) -> None:
        """See a storage; the first time it is an allocation, of so many bytes at least."""
        key = storage._cdata
        size = max(storage.nbytes(), least)
        if key in self.of or size == 0:
            return
        self.of[key] = [self.allocate(size, operation)]
        weakref.finalize(storage, self.forget, key)

    def pass_on(self, old: Any, new: Any) -> None:
        """Let a new storage be the memory of an old one that ends now."""
        held = self.of.get(old._cdata)
        if held is None or new._cdata in self.of or old.nbytes() != new.nbytes():
            return
        self.of[new._cdata] = list(held)
        held.clear()
        weakref.finalize(new, self.forget, new._cdata)

    def forget(self, key: int) -> None:
        """A storage is gone."""
        for number in self.of.pop(key, ()):
            self.free(number)

    def stack(self, operation: str) -> int:
        """Return the number of the present stack: the operation, then the program's own frames."""
        key: list[Any] = [operation]
        frame: Any = sys._getframe(1)
        while frame is not None and len(key) < DEEPEST:
            # From Python 3.12 on code may belong to no line, which snapshots show as -1.
            key.append((frame.f_code, -1 if frame.f_lineno is None else frame.f_lineno))
            frame = frame.f_back
        known = self._number_of.get(tuple(key))
        if known is None:
            frames = [("", 0, operation)] if operation else []
            for code, line in key[1:]:
                if not any(part in code.co_filename for part in HIDDEN):
                    frames.append((code.co_filename, line, code.co_name))
            known = self._number_of[tuple(key)] = len(self.stacks)
            self.stacks.append(frames)
        return known

    def read(self, operation: str) -> None:
        """Note that the program asked for a value."""
        frames = [f for f in self.stacks[self.stack(operation)][1:] if not _is_torch(f[0])]
        file, line, name = frames[0] if frames else ("a thread of PyTorch's own", 0, "")
        where = f"{os.path.basename(file)}:{line} {name}" if frames else file
        self.reads[where] += 1

    def write(self, stem: str, torch_version: str, with_scratch: bool) -> None:
        """Write STEM.rows, the rows as 64-bit integers, and STEM.json."""
        with open(stem + ".rows", "wb") as file:
            self.rows.tofile(file)
        told = {
            "torch": torch_version, "reason": "exit", "kinds": self.kinds, "stacks": self.stacks,
            "reads": self.reads.most_common(),
            "with_scratch": with_scratch,
        }  # fmt: skip
        with open(stem + ".part", "w", encoding="utf-8") as file:
            json.dump(told, file)
        os.replace(stem + ".part", stem + ".json")


def _is_torch(file: str) -> bool:
    return f"{os.sep}torch{os.sep}" in file

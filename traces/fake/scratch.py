"""Scratch memory that kernels allocate while they run, as named events that can be told apart.

Each model says where it was read. What none is here for is not in a recording with fake tensors:
docs/recording.md lists it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .rows import Rows

# By major capability. Source: aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize.
WORKSPACE_BYTES = {9: 33_554_432, 10: 33_554_432}
OTHER_WORKSPACE_BYTES = 8_519_680
PRODUCTS = ("mm.default", "addmm.default", "bmm.default", "baddbmm.default")
Part = tuple[str, int]  # kind of scratch, bytes
END: Part = ("", -1)  # frees the last part that is live; -2 = the one before it
# The place of the results, or of the first few, where it is not before all scratch.
RESULTS: Part = ("results", 1 << 40)


@dataclass(frozen=True)
class Device:
    """What decides about scratch.

    Attributes:
        major, minor: compute capability.
        total: bytes of memory.
        multiprocessors: how many.
        threads: resident on one of them at most.
    """

    major: int
    minor: int
    total: int
    multiprocessors: int
    threads: int

    @property
    def capability(self) -> tuple[int, int]:
        """Compute capability."""
        return self.major, self.minor


@dataclass(frozen=True)
class Call:
    """An operation that has just run.

    Attributes:
        args: as given, defaults left out.
        kwargs: as given.
        out: what it returned.
        device: where.
    """

    args: Any
    kwargs: dict[str, Any]
    out: Any
    device: Device

    def arg(self, place: int, name: str, default: Any = None) -> Any:
        """Return an argument given by place or by name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)


Model = Callable[[Call], list[Part]]


class Scratch:
    """Adds what kernels take beside their results.

    Attributes:
        models: by operation, what it takes.
        held: work space that stays: (which library, in the backward pass, stream).
    """

    def __init__(self, rows: Rows, device: Device, models: dict[str, Model]) -> None:
        self.rows, self.device, self.models = rows, device, models
        self.held: set[tuple[str, bool, int]] = set()

    def add(
        self,
        name: str,
        call: Call,
        operation: str,
        in_backward: bool,
        results: Callable[[int], None],
    ) -> None:
        """Add the results and the scratch of one operation, which is freed at its end.

        Args:
            name: of the operation and its overload.
            call: what it was given.
            operation: its name in stacks.
            in_backward: whether a backward pass runs it.
            results: adds what it returns, the first so many tensors.
        """
        model = self.models.get(name)
        parts = model(call) if model else []
        if RESULTS not in parts:
            results(RESULTS[1])
        if name in PRODUCTS:  # a work space of each thread's handle and stream
            key = ("cuBLAS", in_backward, self.rows.stream)
            if key not in self.held:
                self.held.add(key)
                size = WORKSPACE_BYTES.get(self.device.major, OTHER_WORKSPACE_BYTES)
                self.rows.allocate(size, operation, "cuBLAS work space")
        live: list[int] = []
        for kind, size in parts:
            if kind == "results":
                results(size)
            elif size < 0:
                self.rows.free(live.pop(size))
            elif size:
                live.append(self.rows.allocate(size, operation, kind))
        for number in reversed(live):
            self.rows.free(number)


def passing(parts: list[Part]) -> list[Part]:
    """Return allocations that are freed at once, the last one first."""
    return [*parts, *[END] * len(parts)]

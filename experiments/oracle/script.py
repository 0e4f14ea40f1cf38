"""Writing cases by hand or by chance, one call after the other."""

from __future__ import annotations

import numpy as np

from .commands import ANY_STREAM, Code, commands_of, fraction_bits


class Script:
    """A list of commands under construction.

    Attributes:
        live: allocations that were not freed, oldest first; allocation -> its pool.
        scope: (pool, stream, is a capture) of the open scope; None = none is open.
        pools: number of private pools made so far; they are numbered from 1.
        lines: settings lines set at run time.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int]] = []
        self.live: dict[int, int] = {}
        self.scope: tuple[int, int, bool] | None = None
        self.pools = 0
        self.allocations = 0
        self.lines: list[str] = []

    def commands(self) -> np.ndarray:
        """Return what was written so far; shape (n,), COMMAND."""
        return commands_of(self.rows)

    def malloc(self, size: int, stream: int = 0) -> int:
        """Ask for `size` bytes; returns the allocation's number."""
        k = self.allocations
        self.allocations += 1
        self.rows.append((Code.MALLOC, k, size, stream))
        inside = self.scope is not None and self.scope[1] in (ANY_STREAM, stream)
        self.live[k] = self.scope[0] if self.scope is not None and inside else 0
        return k

    def mallocs(self, *sizes: int) -> list[int]:
        return [self.malloc(size) for size in sizes]

    def free(self, *allocations: int) -> None:
        for k in allocations:
            del self.live[k]
            self.rows.append((Code.FREE, k, 0, 0))

    def record(self, allocation: int, stream: int) -> None:
        """Let another stream use an allocation."""
        self.rows.append((Code.RECORD, allocation, 0, stream))

    def finish(self, stream: int, n: int = -1) -> None:
        """Let n pieces of a stream's work complete; -1 = all."""
        self.rows.append((Code.FINISH, 0, n, stream))

    def empty(self, pool: int = 0) -> None:
        self.rows.append((Code.EMPTY, pool, 0, 0))

    def fraction(self, share: float) -> None:
        """Set the memory limit by a call."""
        self.rows.append((Code.FRACTION, 0, fraction_bits(share), 0))

    def settings(self, line: str) -> None:
        """Parse a settings line at run time."""
        self.rows.append((Code.SETTINGS, len(self.lines), 0, 0))
        self.lines.append(line)

    def others(self, size: int) -> None:
        """Let others hold `size` bytes of the device."""
        self.rows.append((Code.OTHERS, 0, size, 0))

    def begin(self, pool: int = 0, stream: int = ANY_STREAM, capture: bool = False) -> int:
        """Open a scope on a pool, 0 = a new one; returns the pool's number."""
        if not pool:
            self.pools += 1
            pool = self.pools
        self.rows.append((Code.CAPTURE_BEGIN if capture else Code.SCOPE_BEGIN, pool, 0, stream))
        self.scope = (pool, stream, capture)
        return pool

    def end(self) -> None:
        """Close the open scope."""
        assert self.scope is not None
        pool, stream, capture = self.scope
        self.rows.append((Code.CAPTURE_END if capture else Code.SCOPE_END, pool, 0, stream))
        self.scope = None

    def release(self, pool: int) -> None:
        """Take the last user of a pool away."""
        self.rows.append((Code.RELEASE, pool, 0, 0))

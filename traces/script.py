"""Script: a program written step by step, for examples and checks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .program import Layout, Op, Program


class Script:
    """A program written step by step; every method appends ops.

    Streams have the handles 0, 1, ...; pools are numbered from 0, the default ones.
    """

    def __init__(self, streams: int = 1, pools: int = 0, start: Layout | None = None) -> None:
        """Begin with nothing, or with a layout whose allocations are numbered in block order."""
        self.streams, self.pools = streams, pools
        self.start = start or Layout()
        self.ops: list[tuple[int, int]] = []
        self.requests: dict[tuple[int, int, int], int] = {}  # (size, stream, pool) -> number
        self.of_alloc: list[int] = []
        for i in range(len(self.start.segments["address"])):
            s = {name: int(column[i]) for name, column in self.start.segments.items()}
            for row in range(s["first_block"], s["first_block"] + s["n_blocks"]):
                if self.start.blocks["alloc"][row] >= 0:
                    size = int(self.start.blocks["requested_size"][row])
                    self.of_alloc.append(self._request(size, s["stream"], s["pool"]))

    def _request(self, size: int, stream: int, pool: int) -> int:
        return self.requests.setdefault((size, stream, pool), len(self.requests))

    def _each(self, op: Op, args: Iterable[int]) -> None:
        self.ops += [(op, arg) for arg in args]

    def malloc(self, size: int, stream: int = 0, pool: int = 0) -> int:
        """Ask for `size` bytes; returns the allocation's number."""
        self.of_alloc.append(self._request(size, stream, pool))
        self.ops.append((Op.MALLOC, len(self.of_alloc) - 1))
        return len(self.of_alloc) - 1

    def mallocs(self, *sizes: int, stream: int = 0, pool: int = 0) -> list[int]:
        """Ask for several sizes; returns the numbers of the allocations."""
        return [self.malloc(size, stream, pool) for size in sizes]

    def attempt(self, size: int, stream: int = 0, pool: int = 0) -> None:
        """Ask for `size` bytes as a request that failed when recorded."""
        self.ops.append((Op.TRY, self._request(size, stream, pool)))

    def free(self, *allocs: int) -> None:
        self._each(Op.FREE, allocs)

    def free_later(self, *allocs: int) -> None:
        self._each(Op.FREE_LATER, allocs)

    def complete(self, *allocs: int) -> None:
        self._each(Op.COMPLETE, allocs)

    def empty_cache(self, pool: int = 0) -> None:
        self._each(Op.EMPTY_CACHE, [pool])

    def release_pool(self, pool: int) -> None:
        self._each(Op.RELEASE_POOL, [pool])

    def capture(self, on: bool) -> None:
        self._each(Op.CAPTURE, [on])

    def program(self) -> Program:
        """Return what was written so far."""
        requests = np.array(list(self.requests), np.int64).reshape(-1, 3)
        ops = np.array(self.ops, np.int64).reshape(-1, 2)
        return Program(
            device=0,
            op=ops[:, 0].astype(np.uint8),
            arg=ops[:, 1].astype(np.int32),
            entry=np.full(len(ops), -1, np.int64),
            request=np.array(self.of_alloc, np.int32),
            req_size=requests[:, 0].copy(),
            req_stream=requests[:, 1].astype(np.int32),
            req_pool=requests[:, 2].astype(np.int32),
            streams=np.arange(self.streams, dtype=np.int64),
            pools=[(0, 0), *((0, k + 1) for k in range(self.pools))],
            start=self.start,
            addr=np.zeros(len(self.of_alloc), np.uint64),
        )

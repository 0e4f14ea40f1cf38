"""Twins of the policies over segments: each a list of blocks in the order of their addresses."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .playing import Block, Driver, Twin

MiB = 1 << 20


class Segments(Twin):
    """Segments of blocks; a subclass decides which block, how much of it, and what joins."""

    def __init__(self, values: Mapping[str, int], driver: Driver) -> None:
        super().__init__(values, driver)
        self.segments: list[list[Block]] = []

    def free_blocks(self) -> list[Block]:
        return [b for segment in self.segments for b in segment if b.is_free]

    def home(self, block: Block) -> list[Block]:
        return next(s for s in self.segments if block in s)

    def new_segment(self, size: int, lane: int = 0) -> Block | None:
        addr = self.driver.malloc(size)
        if addr is None:
            return None
        self.segments.append([Block(addr, size, lane)])
        return self.segments[-1][0]

    def cut(self, block: Block, size: int) -> None:
        segment = self.home(block)
        rest = Block(block.addr + size, block.size - size, block.lane, is_free=True)
        segment.insert(segment.index(block) + 1, rest)
        block.size = size

    def best(self, need: int, lane: int = 0) -> Block | None:
        fitting = [b for b in self.free_blocks() if b.lane == lane and b.size >= need]
        return min(fitting, key=lambda b: (b.size, b.addr), default=None)

    def free(self, block: Block) -> None:
        block.is_free = True
        segment = self.home(block)
        k = 0
        while k + 1 < len(segment):
            if segment[k].is_free and segment[k + 1].is_free:
                segment[k].size += segment.pop(k + 1).size
            else:
                k += 1

    def trim(self) -> int:
        given = 0
        for segment in list(self.segments):
            if len(segment) == 1 and segment[0].is_free:
                self.driver.unmap(segment[0].size)
                given += segment[0].size
                self.segments.remove(segment)
        return given


class CupyPool(Segments):
    streams = True

    def allocate(self, size: int, lane: int) -> Block | None:
        need = -(-size // self.p["unit"]) * self.p["unit"]
        block = self.best(need, lane)
        if block is None:
            return self.new_segment(need, lane)
        block.is_free = False
        if block.size > need:
            self.cut(block, need)
        return block


class CudaMallocAsync(Segments):
    streams = True

    def allocate(self, size: int, lane: int) -> Block | None:
        need = -(-size // 512) * 512
        block = self.best(need, lane)
        if block is None:
            block = self.new_segment(-(-need // self.p["chunk"]) * self.p["chunk"], lane)
        if block is not None:
            block.is_free = False
            if block.size > need:
                self.cut(block, need)
        return block


class Bfc(Segments):
    backpedalled = refused = False
    region = 0

    def extend(self, need: int) -> Block | None:
        room = self.driver.room
        limit = (1 << 62) if room is None else room
        available = (limit - self.driver.used) // 256 * 256
        if need > available:
            return None
        self.region = self.region or -(-min(limit, self.p["first_region"]) // 256) * 256
        increased = False
        while need > self.region:
            self.region, increased = self.region * 2, True
        size = min(self.region, available)
        block = self.new_segment(size)
        if block is None and not self.backpedalled:
            self.backpedalled = True
            while block is None:
                size = -(-int(np.float32(size) * np.float32(0.9)) // 256) * 256
                if size < need:
                    break
                block = self.new_segment(size)
        if block is not None and not increased:
            self.region *= 2  # as TensorFlow has it; no number overflows here
        return block

    def allocate(self, size: int, lane: int) -> Block | None:
        need = -(-size // 256) * 256
        block = self.best(need) or self.extend(need)
        if block is not None:
            block.is_free = False
            if block.size >= 2 * need or block.size - need >= self.p["waste"]:
                self.cut(block, need)
        self.refused = block is None
        return block

    def trim(self) -> int:
        given = super().trim()
        if given and not self.refused:
            self.region = 0
        return given


class Buddy(Segments):
    def allocate(self, size: int, lane: int) -> Block | None:
        need = self.p["min_block"]
        while need < size:
            need *= 2
        block = self.best(need) or self.new_segment(max(need, self.p["segment"]))
        if block is not None:
            block.is_free = False
            while block.size > need:
                self.cut(block, block.size // 2)
        return block

    def free(self, block: Block) -> None:
        block.is_free = True
        segment = self.home(block)
        joined = True
        while joined:
            joined = False
            for a, b in zip(segment, segment[1:], strict=False):
                offset = a.addr - segment[0].addr
                if a.is_free and b.is_free and a.size == b.size and offset % (2 * a.size) == 0:
                    a.size *= 2
                    segment.remove(b)
                    joined = True
                    break

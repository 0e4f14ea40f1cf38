"""Twins of the policies that never cut a block to size: slabs of slots, and pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .playing import Block, Driver, Twin


@dataclass(eq=False)
class Slab:
    addr: int
    size: int
    slot: int
    cut: int = 0
    used: list[Block] = field(default_factory=list)


class SizeClasses(Twin):
    def __init__(self, values: Mapping[str, int], driver: Driver) -> None:
        super().__init__(values, driver)
        self.slabs: list[Slab] = []
        self.stack: list[tuple[Slab, Block]] = []  # free slots, the one freed last at the end

    def slot_size(self, size: int) -> int:
        """Walk through all classes from the smallest."""
        low = 256
        if size <= low:
            return low
        while 2 * low < size:
            low *= 2
        step = max(256, low // self.p["spacing"])
        return next(x for x in range(low, 2 * low + 1, step) if x >= size)

    def allocate(self, size: int, lane: int) -> Block | None:
        want = self.slot_size(size)
        for k in reversed(range(len(self.stack))):
            slab, block = self.stack[k]
            if slab.slot == want:
                del self.stack[k]
                slab.used.append(block)
                return block
        for slab in self.slabs:
            if slab.slot == want and slab.cut * want < slab.size:
                break
        else:
            total = want * max(1, self.p["slab"] // want)
            addr = self.driver.malloc(total)
            if addr is None:
                return None
            slab = Slab(addr, total, want)
            self.slabs.append(slab)
        block = Block(slab.addr + slab.cut * want, want)
        slab.cut += 1
        slab.used.append(block)
        return block

    def free(self, block: Block) -> None:
        slab = next(s for s in self.slabs if block in s.used)
        slab.used.remove(block)
        self.stack.append((slab, block))

    def trim(self) -> int:
        empty = [s for s in self.slabs if not s.used]
        for slab in empty:
            self.driver.unmap(slab.size)
        self.slabs = [s for s in self.slabs if s.used]
        self.stack = [(s, b) for s, b in self.stack if s.used]
        return sum(s.size for s in empty)


class OneRegion(Twin):
    in_use = 0
    is_reserved = False

    def allocate(self, size: int, lane: int) -> Block | None:
        page, room = self.p["page"], self.driver.room
        need = -(-size // page) * page
        if room is None:
            lacks = self.in_use + need - self.driver.reserved
            if lacks > 0:
                self.driver.map(lacks)
        elif not self.is_reserved:
            unit = -(-page // self.driver.step) * self.driver.step
            self.is_reserved = True
            region = room * self.p["share"] // 100 // unit * unit
            self.driver.map(region)
        if self.in_use + need > self.driver.reserved:
            return None
        self.in_use += need
        return Block(self.driver.addresses(need), need)

    def free(self, block: Block) -> None:
        self.in_use -= block.size

"""Twins of the policies that are told something: what they are told is given to them as well."""

from __future__ import annotations

from collections.abc import Mapping

from .fits import BestFit
from .playing import Block, Driver, Twin
from .segments import Segments


class Planned(Twin):
    """A list of blocks in the plan's memory, gaps between them, and best fit for the others."""

    def __init__(self, values: Mapping[str, int], driver: Driver) -> None:
        super().__init__(values, driver)
        self.live: list[Block] = []
        self.base: int | None = None
        self.rest = BestFit({"quantum": 512, "page": 2 << 20, "segment": 0}, driver)

    def rows(self) -> list[tuple[int, int, int, int]]:
        """The plan: first byte, end, birth, death of each, in its order."""
        at = range(10, len(self.words), 4)
        return [tuple(self.words[k : k + 4]) for k in at]  # type: ignore

    def allocate(self, size: int, lane: int) -> Block | None:
        need = -(-size // 512) * 512
        if self.words[2] and self.base is None:
            self.base = self.driver.malloc(self.words[2])
        length = self.words[4]
        now, life = 0, None
        if self.hint > 0:
            first, _, born, dies = self.rows()[self.hint - 1]
            if self.base is not None and self.is_free(first, first + need):
                return self.settle(first, need)
            now, life = born, dies - born - 1
        elif self.hint < 0:
            now, life = divmod(-1 - self.hint, 1 << 31)
        recurring = self.rows()[self.words[5] : self.words[6]]
        while_there = [r for r in recurring if life is not None and self.meets(r, now, life)]
        is_long = life is not None and life >= length
        at = self.gap(need, recurring)
        if at is None and any(last - first >= need for first, last in self.rest.free_pieces):
            return self.rest.allocate(size, lane)
        if at is None and life is not None and not is_long:
            at = self.gap(need, while_there)
        if at is None and not is_long and need > 2 << 20:
            at = self.gap(need, [])
        return self.rest.allocate(size, lane) if at is None else self.settle(at, need)

    def meets(self, row: tuple[int, int, int, int], now: int, life: int) -> bool:
        """A row is in use at one of the moments in which something is there."""
        _, _, born, dies = row
        length = self.words[4]
        moments = range(now, now + min(life, length) + 1)
        return any(born <= t < dies or born + length <= t or t < dies - length for t in moments)

    def is_free(self, first: int, end: int) -> bool:
        assert self.base is not None
        return all(end <= b.addr - self.base or b.end - self.base <= first for b in self.live)

    def settle(self, first: int, size: int) -> Block:
        assert self.base is not None
        self.live.append(Block(self.base + first, size))
        return self.live[-1]

    def gap(self, need: int, rows: list[tuple[int, int, int, int]]) -> int | None:
        """The smallest gap between what is there and these rows, by trying every end of one."""
        if self.base is None:
            return None
        taken = [(b.addr - self.base, b.end - self.base) for b in self.live]
        taken += [(first, end) for first, end, _, _ in rows]
        gaps = []
        for start in {0, *(end for _, end in taken)}:
            if any(a <= start < b for a, b in taken):
                continue
            stop = min([a for a, _ in taken if a >= start] + [self.words[2]])
            if stop - start >= need:
                gaps.append((stop - start, start))
        return min(gaps)[1] if gaps else None

    def free(self, block: Block) -> None:
        if block in self.live:
            self.live.remove(block)
        else:
            self.rest.free(block)

    def trim(self) -> int:
        given = self.rest.trim()
        if self.base is not None and not self.live:
            self.driver.unmap(self.words[2])
            self.base = None
            given += self.words[2]
        return given


class Clairvoyant(BestFit):
    """Best fit that looks at the left neighbour of each of the smallest pieces that fit."""

    def __init__(self, values: Mapping[str, int], driver: Driver) -> None:
        super().__init__(values, driver)
        self.deaths: dict[int, int] = {}  # end of each block in use -> when it will be free
        self.need = 0

    def allocate(self, size: int, lane: int) -> Block | None:
        self.need = -(-size // self.p["quantum"]) * self.p["quantum"]
        return super().allocate(size, lane)

    def choose(self, pieces: list[list[int]]) -> list[int]:
        nearest = sorted(pieces, key=lambda x: (x[1] - x[0], x[0]))[: self.p["look"]]
        most = self.need + self.need * self.p["slack"] // 100
        nearest = [x for x in nearest if x is nearest[0] or x[1] - x[0] <= most]
        never = 1 << 63
        return min(nearest, key=lambda x: abs(self.deaths.get(x[0], never) - self.hint))

    def served(self, block: Block) -> None:
        self.deaths[block.end] = self.hint

    def free(self, block: Block) -> None:
        del self.deaths[block.end]
        super().free(block)


class LifetimeClasses(Segments):
    """Segments that belong to a class as long as something in them is in use."""

    def allocate(self, size: int, lane: int) -> Block | None:
        need = -(-size // 512) * 512
        tried = [self.hint] if self.hint == 0 else list(range(self.hint, 8))
        block = None
        for k in [*tried, 8]:
            block = block or self.best(need, k)
        if block is None:
            size = max(need, self.p["segment"])
            block = self.new_segment(-(-size // (2 << 20)) * (2 << 20), self.hint)
        if block is not None:
            if block.lane == 8:
                block.lane = self.hint
            block.is_free = False
            if block.size > need:
                self.cut(block, need)
        return block

    def free(self, block: Block) -> None:
        segment = self.home(block)
        super().free(block)
        if len(segment) == 1:
            segment[0].lane = 8

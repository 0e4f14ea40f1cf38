"""Twin of the arenas: free pieces of each stream and of the common arena, in sorted lists."""

from __future__ import annotations

from collections.abc import Mapping

from .playing import Block, Driver, Twin

COMMON = -1


class Arena(Twin):
    streams = True

    def __init__(self, values: Mapping[str, int], driver: Driver) -> None:
        super().__init__(values, driver)
        self.pieces: dict[int, list[tuple[int, int]]] = {COMMON: []}  # arena -> [first, end)
        self.base = self.end = 0

    @property
    def page(self) -> int:
        return -(-self.p["page"] // self.driver.step) * self.driver.step

    def put(self, arena: int, first: int, end: int) -> tuple[int, int]:
        """Add a piece and join it with those it touches; returns the joined piece."""
        pieces = self.pieces.setdefault(arena, [])
        for piece in list(pieces):
            if piece[1] == first:
                first = piece[0]
                pieces.remove(piece)
            elif piece[0] == end:
                end = piece[1]
                pieces.remove(piece)
        pieces.append((first, end))
        pieces.sort()
        return first, end

    def get(self, arena: int, need: int) -> int | None:
        """First fit; the address of `need` bytes, which leave the arena."""
        pieces = self.pieces.setdefault(arena, [])
        for k, (first, end) in enumerate(pieces):
            if end - first >= need:
                pieces[k : k + 1] = [(first + need, end)] if end - first > need else []
                return first
        return None

    def from_common(self, need: int) -> int | None:
        first = self.get(COMMON, need)
        if first is not None:
            return first
        if not self.base:
            self.base = self.end = self.driver.addresses(1 << 42)
        have = sum(end - first for first, end in self.pieces[COMMON] if end == self.end)
        more = -(-(need - have) // self.page) * self.page
        if not self.driver.map(more):
            return None
        self.put(COMMON, self.end, self.end + more)
        self.end += more
        return self.get(COMMON, need)

    def allocate(self, size: int, lane: int) -> Block | None:
        need = -(-size // 256) * 256
        first = self.get(lane, need) if need < self.p["superblock"] else None
        if first is None:
            size = max(need, self.p["superblock"])
            got = self.from_common(size)
            if got is None:
                return None
            self.put(lane, got, got + size)
            first = self.get(lane, need)
            assert first is not None
        return Block(first, need, lane)

    def free(self, block: Block) -> None:
        first, end = self.put(block.lane, block.addr, block.end)
        if end - first >= self.p["superblock"]:
            self.pieces[block.lane].remove((first, end))
            self.put(COMMON, first, end)

    def trim(self) -> int:
        pieces = self.pieces[COMMON]
        if not pieces or pieces[-1][1] != self.end:
            return 0
        first = pieces[-1][0]
        keep = self.base + -(-(first - self.base) // self.page) * self.page
        given = self.end - keep
        if given <= 0:
            return 0
        self.driver.unmap(given)
        self.end = keep
        pieces[-1:] = [(first, keep)] if first < keep else []
        return given

"""Twin of stitching: pieces and stitched blocks as objects that know each other, in plain lists."""

from __future__ import annotations

from collections.abc import Mapping

from .playing import Block, Driver, Twin
from .segments import Segments


class Piece(Block):
    """Physical memory at addresses of its own."""


class Stitched(Block):
    """Further addresses of some pieces' memory."""

    def __init__(self, addr: int, size: int, members: list[Piece]) -> None:
        super().__init__(addr, size)
        self.members = members

    @property
    def is_idle(self) -> bool:
        return all(p.is_free for p in self.members)


class Stitching(Twin):
    def __init__(self, values: Mapping[str, int], driver: Driver) -> None:
        super().__init__(values, driver)
        self.pieces: list[Piece] = []
        self.stitched: list[Stitched] = []
        self.small = Segments(values, driver)

    @property
    def chunk(self) -> int:
        return -(-self.p["chunk"] // self.driver.step) * self.driver.step

    @property
    def limit(self) -> int:
        return max(self.chunk, self.p["limit"])

    def new_piece(self, size: int) -> Piece | None:
        if not self.driver.map(size):
            return None
        self.pieces.append(Piece(self.driver.addresses(size), size))
        return self.pieces[-1]

    def cut(self, piece: Piece, size: int) -> None:
        rest = Piece(piece.addr + size, piece.size - size, is_free=True)
        piece.size = size
        self.pieces.append(rest)
        for s in self.stitched:
            if piece in s.members:
                s.members.insert(s.members.index(piece) + 1, rest)

    def allocate(self, size: int, lane: int) -> Block | None:
        if size < self.chunk:
            need = -(-size // 512) * 512
            block = self.small.best(need) or self.small.new_segment(self.chunk)
            if block is not None:
                block.is_free = False
                if block.size > need:
                    self.small.cut(block, need)
            return block
        need = -(-size // self.chunk) * self.chunk
        free = sorted((p for p in self.pieces if p.is_free), key=lambda p: (p.size, p.addr))
        fitting = [p for p in free if p.size >= need]
        if not fitting or fitting[0].size > need:
            same = [s for s in self.stitched if s.is_idle and s.size == need]
            if same:
                block = min(same, key=lambda s: s.addr)
                for p in block.members:
                    p.is_free = False
                return block
        if fitting:
            if fitting[0].size - need >= self.limit:
                self.cut(fitting[0], need)
            fitting[0].is_free = False
            return fitting[0]
        return self.stitch(need, [p for p in reversed(free) if p.size >= self.limit])

    def stitch(self, need: int, candidates: list[Piece]) -> Block | None:
        chosen: list[Piece] = []
        while candidates and sum(p.size for p in chosen) < need:
            chosen.append(candidates.pop(0))
        lacks = need - sum(p.size for p in chosen)
        fresh = None
        if lacks > 0:
            fresh = self.new_piece(lacks)
            if fresh is None or not chosen:
                return fresh
        if len(self.stitched) >= self.p["keep"]:
            self.stitched = [s for s in self.stitched if not s.is_idle]
        if -lacks >= self.limit:
            self.cut(chosen[-1], chosen[-1].size + lacks)
        members = chosen + ([fresh] if fresh else [])
        for p in members:
            p.is_free = False
        size = sum(p.size for p in members)
        self.stitched.append(Stitched(self.driver.addresses(size), size, members))
        return self.stitched[-1]

    def free(self, block: Block) -> None:
        if isinstance(block, Stitched):
            for p in block.members:
                p.is_free = True
        elif isinstance(block, Piece):
            block.is_free = True
        else:
            self.small.free(block)

    def trim(self) -> int:
        given = self.small.trim()
        gone = [p for p in self.pieces if p.is_free]
        for p in gone:
            self.driver.unmap(p.size)
        self.pieces = [p for p in self.pieces if not p.is_free]
        self.stitched = [s for s in self.stitched if not any(p in gone for p in s.members)]
        return given + sum(p.size for p in gone)

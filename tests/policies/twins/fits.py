"""Twins of the four fits: a sorted list of free pieces, searched from the front."""

from __future__ import annotations

from collections.abc import Mapping

from .playing import Block, Driver, Twin


class Fit(Twin):
    """One region, or segments; `choose` picks one of the pieces that fit."""

    def __init__(self, values: Mapping[str, int], driver: Driver) -> None:
        super().__init__(values, driver)
        self.free_pieces: list[list[int]] = []  # [first, end), by address, none touching another
        self.base = self.end = 0
        self.segments: dict[int, int] = {}  # first byte -> bytes

    def choose(self, pieces: list[list[int]]) -> list[int]:
        raise NotImplementedError

    @property
    def page(self) -> int:
        step = self.driver.step
        return -(-self.p["page"] // step) * step

    def allocate(self, size: int, lane: int) -> Block | None:
        quantum = self.p["quantum"]
        need = -(-size // quantum) * quantum
        fitting = [x for x in self.free_pieces if x[1] - x[0] >= need]
        if fitting:
            piece = self.choose(fitting)
        elif self.p.get("segment"):
            size = max(need, self.p["segment"])
            first = self.driver.malloc(size)
            if first is None:
                return None
            self.segments[first] = size
            piece = [first, first + size]
            self.free_pieces.append(piece)
        else:
            if not self.base:
                self.base = self.end = self.driver.addresses(1 << 42)
            ends_free = bool(self.free_pieces) and self.free_pieces[-1][1] == self.end
            have = self.free_pieces[-1][1] - self.free_pieces[-1][0] if ends_free else 0
            more = -(-(need - have) // self.page) * self.page
            if not self.driver.map(more):
                return None
            if not ends_free:
                self.free_pieces.append([self.end, self.end])
            self.end += more
            piece = self.free_pieces[-1]
            piece[1] = self.end
        block = Block(piece[0], need)
        piece[0] += need
        if piece[0] == piece[1]:
            self.free_pieces.remove(piece)
        self.served(block)
        return block

    def served(self, block: Block) -> None:
        pass

    def free(self, block: Block) -> None:
        pieces = sorted([*self.free_pieces, [block.addr, block.end]])
        joined = [pieces[0]]
        for piece in pieces[1:]:
            if piece[0] == joined[-1][1] and piece[0] not in self.segments:
                joined[-1][1] = piece[1]
            else:
                joined.append(piece)
        self.free_pieces = joined

    def trim(self) -> int:
        if self.p.get("segment"):
            whole = [x for x in self.free_pieces if self.segments.get(x[0]) == x[1] - x[0]]
            for piece in whole:
                self.free_pieces.remove(piece)
                self.driver.unmap(self.segments.pop(piece[0]))
            return sum(x[1] - x[0] for x in whole)
        if not self.free_pieces or self.free_pieces[-1][1] != self.end:
            return 0
        first = self.free_pieces[-1][0]
        keep = self.base + -(-(first - self.base) // self.page) * self.page
        given = self.end - keep
        if given <= 0:
            return 0
        self.driver.unmap(given)
        self.end = self.free_pieces[-1][1] = keep
        if first == keep:
            self.free_pieces.pop()
        return given


class BestFit(Fit):
    def choose(self, pieces: list[list[int]]) -> list[int]:
        return min(pieces, key=lambda x: (x[1] - x[0], x[0]))


class FirstFit(Fit):
    def choose(self, pieces: list[list[int]]) -> list[int]:
        return pieces[0]


class WorstFit(Fit):
    def choose(self, pieces: list[list[int]]) -> list[int]:
        return min(pieces, key=lambda x: (x[0] - x[1], x[0]))


class NextFit(Fit):
    rover = 0

    def choose(self, pieces: list[list[int]]) -> list[int]:
        return next((x for x in pieces if x[0] >= self.rover), pieces[0])

    def served(self, block: Block) -> None:
        self.rover = block.end


class Tlsf(Fit):
    """Lists by class, in a list of lists; the piece that became free last is the first of its."""

    def __init__(self, values: Mapping[str, int], driver: Driver) -> None:
        super().__init__(values, driver)
        self.since: dict[tuple[int, int], int] = {}  # piece -> when it came into its list
        self.clock = 0

    def bounds(self, size: int) -> tuple[int, int]:
        """The class of a size: the least size in it, and the least size above it."""
        low = 1
        while 2 * low <= size:
            low *= 2
        part = low >> self.p["class_bits"]
        first = low + (size - low) // part * part
        return first, first + part

    def note_new(self) -> None:
        now = {(a, b) for a, b in self.free_pieces}
        for piece in sorted(now - self.since.keys()):
            self.clock += 1
            self.since[piece] = self.clock
        self.since = {piece: t for piece, t in self.since.items() if piece in now}

    def free(self, block: Block) -> None:
        super().free(block)
        self.note_new()

    def allocate(self, size: int, lane: int) -> Block | None:
        quantum = self.p["quantum"]
        need = -(-size // quantum) * quantum
        first, above = self.bounds(need)
        least = need if need == first else above  # from here on every piece of a class fits
        good = [x for x in self.free_pieces if self.bounds(x[1] - x[0])[0] >= least]
        if good:
            lowest = min(self.bounds(x[1] - x[0])[0] for x in good)
            alike = [x for x in good if self.bounds(x[1] - x[0])[0] == lowest]
            self.chosen = max(alike, key=lambda x: self.since[x[0], x[1]])
            block = super().allocate(size, lane)
        else:
            block = self.from_the_end(need)
        self.note_new()
        return block

    def choose(self, pieces: list[list[int]]) -> list[int]:
        return self.chosen

    def from_the_end(self, need: int) -> Block | None:
        """Hide all pieces but the region's free end, so that it is used or grows."""
        hidden = [x for x in self.free_pieces if x[1] != self.end]
        self.free_pieces = [x for x in self.free_pieces if x[1] == self.end]
        if self.free_pieces:
            self.chosen = self.free_pieces[0]
        block = super().allocate(need, 0)
        self.free_pieces = hidden + self.free_pieces
        return block

    def trim(self) -> int:
        given = super().trim()
        self.note_new()
        return given

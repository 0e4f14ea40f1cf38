"""The board of the exact search: buffers, skyline, and moves that can be taken back. Compiled."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..traces.jit import inline

HUGE = 1 << 61
FRAME, CELL, TRAIL = 12, 6, 4  # columns of the stacks


class Board(NamedTuple):
    """Buffers and skyline. Buffers are sorted by (first, -last, size).

    Row n of first, last and size ends every walk along the buffers; row n + 1 is the head of the
    ring of unplaced ones.

    Attributes:
        first, last, size: shape (n + 2,); sections are half-open.
        rank: shape (n,); lower ranks are tried first.
        key: random bits, equal for equal buffers.
        twin: whether the buffer before is equal; then that one is placed first.
        offset: -1 = not placed.
        after, before: shape (n + 2,); ring of the unplaced buffers.
        height: shape (sections,); the skyline.
        slack: ceiling - height - bytes still to be placed, per section; never negative.
        choices, valley: shape (sections + 1,); scratch.
    """

    first: np.ndarray
    last: np.ndarray
    size: np.ndarray
    rank: np.ndarray
    key: np.ndarray
    twin: np.ndarray
    offset: np.ndarray
    after: np.ndarray
    before: np.ndarray
    height: np.ndarray
    slack: np.ndarray
    choices: np.ndarray
    valley: np.ndarray


class Paths(NamedTuple):
    """The search's stacks; see the comments where rows are written.

    Attributes:
        trail: what was done to the board, to be undone backwards.
        cells: goals: begin, end, parent frame, next goal, first unplaced buffer, buffers.
        frames: open choices.
        memo: hashes of goals that failed; a power of two of them.
        control: see the constants.
    """

    trail: np.ndarray
    cells: np.ndarray
    frames: np.ndarray
    memo: np.ndarray
    control: np.ndarray


@inline
def mixed(x):
    """Spread 64 bits over 64 bits."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@inline
def place(b, trail, n_trail, i, h):
    """Put buffer i on the valley floor at height h."""
    b.offset[i] = h
    b.after[b.before[i]] = b.after[i]
    b.before[b.after[i]] = b.before[i]
    for s in range(b.first[i], b.last[i]):
        b.height[s] = h + b.size[i]
    trail[n_trail, 0] = i
    trail[n_trail, 3] = h
    return n_trail + 1


@inline
def leave_hole(b, trail, n_trail, begin, end, h, v):
    """Leave a hole from height h to v in some sections of equal height."""
    for s in range(begin, end):
        b.height[s] = v
        b.slack[s] -= v - h
    trail[n_trail, 0] = -1
    trail[n_trail, 1] = begin
    trail[n_trail, 2] = end
    trail[n_trail, 3] = h
    return n_trail + 1


@inline
def undo(b, trail, n_trail, until):
    """Take back what was done since the trail had `until` rows."""
    while n_trail > until:
        n_trail -= 1
        i = trail[n_trail, 0]
        h = trail[n_trail, 3]
        if i >= 0:
            b.offset[i] = -1
            b.after[b.before[i]] = i
            b.before[b.after[i]] = i
            for s in range(b.first[i], b.last[i]):
                b.height[s] = h
        else:
            for s in range(trail[n_trail, 1], trail[n_trail, 2]):
                b.slack[s] += b.height[s] - h
                b.height[s] = h
    return n_trail


@inline
def split(b, cells, n_cells, goal, agenda):
    """Replace a goal by its parts that share no time, smallest first; return (agenda, n_cells)."""
    parts = 0
    end = cells[goal, 1]
    i = cells[goal, 4]
    while b.first[i] < end:
        head = i
        reach = b.last[i]
        members = 1
        i = b.after[i]
        while b.first[i] < reach:
            reach = max(reach, b.last[i])
            members += 1
            i = b.after[i]
        cells[n_cells, 0] = b.first[head]
        cells[n_cells, 1] = reach
        cells[n_cells, 2] = cells[goal, 2]
        cells[n_cells, 4] = head
        cells[n_cells, 5] = members
        behind = -1
        at = agenda
        for _ in range(parts):
            if cells[at, 5] >= members:
                break
            behind = at
            at = cells[at, 3]
        cells[n_cells, 3] = at
        if behind < 0:
            agenda = n_cells
        else:
            cells[behind, 3] = n_cells
        parts += 1
        n_cells += 1
    return agenda, n_cells, parts


@inline
def survey(b, x, y, head):
    """Find the valleys of sections x..y-1 and count the candidates over each section."""
    for s in range(x, y + 1):
        b.choices[s] = 0
    s = x
    left = HUGE
    while s < y:
        h = b.height[s]
        end = s + 1
        while end < y and b.height[end] == h:
            end += 1
        right = b.height[end] if end < y else HUGE
        mark = end if left > h and right > h else -1
        for t in range(s, end):
            b.valley[t] = mark
        left = h
        s = end
    i = head
    while b.first[i] < y:
        if b.valley[b.first[i]] >= b.last[i] and not (b.twin[i] and b.offset[i - 1] < 0):
            b.choices[b.first[i]] += 1
            b.choices[b.last[i]] -= 1
        i = b.after[i]
    total = 0
    for s in range(x, y):
        total += b.choices[s]
        b.choices[s] = total

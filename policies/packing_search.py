"""Exact search: can these buffers be packed below a ceiling? Compiled.

Buffers are laid on a skyline from below. A valley is a stretch of sections of equal height with
higher ground, or nothing more to place, on both sides:

    height        +--+
      |   +--+    |  |      Let gravity pull a packing down. Then directly above section s lies
      |   |  +----+  |      either a buffer that starts and ends inside the valley, or a hole at
      |   |    s     |      least as high as the lower shore or the smallest buffer of the valley.
      +---+----------+--->  These few choices are all there are.

Of all sections in all valleys the one with the fewest choices is decided first; none means that
this branch is dead. A hole is allowed only as far as the section's slack (ceiling minus what is
there and still to come) reaches. Where no unplaced buffer crosses a cut in time, both sides are
separate goals; when one fails, the search returns to the choice that made it, past everything
that was tried in the other. Goals that failed are remembered by a 64-bit hash of their unplaced
buffers and their skyline: two orders of stacking that end in the same picture are searched once.

The idea of an exact depth-first search with preorderings and partitions in time is that of
Moffitt, MiniMalloc, ASPLOS 2023; choosing by valleys, slack and memory of failures is our own.
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline, kernel
from .packing_board import HUGE, leave_hole, mixed, place, split, survey, undo

INFEASIBLE, SOLVED, MORE, FULL = 0, 1, 2, 3
EDGES, LEVEL = 1, 2  # which candidates first: those at the shores, those that end level with one
AGENDA, N_CELLS, DEPTH, N_TRAIL, FAILED, NODES = range(6)  # places in `control`
NOTHING = -2  # in control[FAILED]: no goal has failed; -1: the whole problem has


@inline
def _next_candidate(b, head, x, y, s, begin, end, h, tried, mode):
    """Return (buffer, order) of the best candidate over section s not tried yet, or (-1, _)."""
    n = len(b.rank)
    best = HUGE
    found = -1
    i = head
    while b.first[i] <= s:
        if b.first[i] >= begin and b.last[i] > s and b.last[i] <= end:
            if b.twin[i] and b.offset[i - 1] < 0:
                i = b.after[i]
                continue
            order = b.rank[i]
            at_begin = b.first[i] == begin
            at_end = b.last[i] == end
            if mode & EDGES:
                order += (2 - at_begin - at_end) * n
            if mode & LEVEL:
                top = h + b.size[i]
                if not (
                    (at_begin and begin > x and b.height[begin - 1] == top)
                    or (at_end and end < y and b.height[end] == top)
                ):
                    order += 4 * n
            if tried < order < best:
                best = order
                found = i
        i = b.after[i]
    return found, best


@kernel
def search(b, paths, ceiling, mode, max_nodes):
    """Search on for at most max_nodes goals; return INFEASIBLE, SOLVED, MORE or FULL.

    MORE and FULL can be continued, FULL after making the stacks longer.

    Args:
        b: Board, modified in place; solved means that every offset is set.
        paths: Paths, modified in place.
        ceiling: part of what failures are remembered by.
        mode: EDGES | LEVEL.
        max_nodes: how many goals to look at before returning.
    """
    trail, cells, frames, memo, control = paths
    agenda, n_cells, depth, n_trail, failed = (
        control[0],
        control[1],
        control[2],
        control[3],
        control[4],
    )
    mask = np.uint64(len(memo) - 1)
    nodes = 0
    result = MORE
    while nodes < max_nodes:
        if failed != NOTHING:
            # Take up the choice that made the failed goal, and try what comes next there.
            if failed < 0:
                result = INFEASIBLE
                break
            goal, s, h = frames[failed, 0], frames[failed, 3], frames[failed, 6]
            begin, end, tried = frames[failed, 4], frames[failed, 5], frames[failed, 7]
            n_trail = undo(b, trail, n_trail, frames[failed, 1])
            n_cells = frames[failed, 2]
            x, y, head = cells[goal, 0], cells[goal, 1], cells[goal, 4]
            i, order = _next_candidate(b, head, x, y, s, begin, end, h, tried, mode)
            if i < 0 and (tried == HUGE or frames[failed, 8] < 0):
                seen = np.uint64(frames[failed, 9])
                memo[seen & mask] = seen
                failed = cells[goal, 2]
                continue
            frames[failed, 7] = order
            cells[n_cells, 3] = frames[failed, 10]
            if i >= 0:
                n_trail = place(b, trail, n_trail, i, h)
                if i == head:
                    head = b.after[i]
            else:
                n_trail = leave_hole(b, trail, n_trail, s, s + 1, h, frames[failed, 8])
            if frames[failed, 11]:
                depth = failed  # the only choice: if it fails, so does the choice before
                failed = cells[goal, 2]
            else:
                depth = failed + 1
            cells[n_cells, 0] = x
            cells[n_cells, 1] = y
            cells[n_cells, 2] = failed
            cells[n_cells, 4] = head
            agenda = n_cells
            n_cells += 1
            failed = NOTHING
            continue

        if agenda < 0:
            result = SOLVED
            break
        room = cells[agenda, 1] - cells[agenda, 0] + 2
        if n_cells + room >= len(cells) or n_trail + room >= len(trail) or depth + 1 >= len(frames):
            result = FULL
            break
        nodes += 1
        goal = agenda
        agenda, n_cells, parts = split(b, cells, n_cells, goal, cells[goal, 3])
        if parts == 0:
            continue
        goal = agenda
        x, y, parent, head = cells[goal, 0], cells[goal, 1], cells[goal, 2], cells[goal, 4]
        survey(b, x, y, head)

        # Per section: how many choices? Where the only one is a hole, make it at once.
        fewest = HUGE
        least_slack = HUGE
        at, at_begin, at_end, hole = -1, 0, 0, -1
        dead = False
        before = n_trail
        i = head
        s = x
        while s < y and not dead:
            end = b.valley[s]
            if end < 0:
                s += 1
                continue
            h = b.height[s]
            v = HUGE
            while b.first[i] < s:
                i = b.after[i]
            while b.first[i] < end:
                if b.last[i] <= end:
                    v = min(v, h + b.size[i])
                i = b.after[i]
            if s > x:
                v = min(v, b.height[s - 1])
            if end < y:
                v = min(v, b.height[end])
            t = s
            while t < end:
                choices = b.choices[t]
                if choices == 0:
                    stop = t
                    while stop < end and b.choices[stop] == 0 and b.slack[stop] >= v - h:
                        stop += 1
                    if stop < end and b.choices[stop] == 0:
                        dead = True
                        break
                    n_trail = leave_hole(b, trail, n_trail, t, stop, h, v)
                    t = stop
                    continue
                if b.slack[t] >= v - h:
                    choices += 1
                if choices < fewest or (choices == fewest and b.slack[t] < least_slack):
                    fewest, least_slack, at, at_begin, at_end = choices, b.slack[t], t, s, end
                    hole = v if b.slack[t] >= v - h else -1
                t += 1
            s = end
        if dead:
            failed = parent
            continue
        if n_trail > before:
            continue  # the skyline has changed: look at this goal again

        seen = mixed(np.uint64(ceiling))
        i = head
        while b.first[i] < y:
            seen += b.key[i]
            i = b.after[i]
        for s in range(x, y):
            seen += mixed(np.uint64(b.height[s]) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(s))
        if memo[seen & mask] == seen:
            failed = parent
            continue
        frames[depth, 0] = goal
        frames[depth, 1] = n_trail
        frames[depth, 2] = n_cells
        frames[depth, 3] = at
        frames[depth, 4] = at_begin
        frames[depth, 5] = at_end
        frames[depth, 6] = b.height[at]
        frames[depth, 7] = -1  # order of the candidate tried last; HUGE = the hole was tried
        frames[depth, 8] = hole
        frames[depth, 9] = np.int64(seen)
        frames[depth, 10] = cells[goal, 3]
        frames[depth, 11] = fewest == 1
        failed = depth  # an open choice is taken up like a failed one
    control[0], control[1], control[2], control[3], control[4] = (
        agenda,
        n_cells,
        depth,
        n_trail,
        failed,
    )
    control[5] += nodes
    return result

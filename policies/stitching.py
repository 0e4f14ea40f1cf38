"""Stitching: free pieces of memory that lie apart are mapped side by side at new addresses.

    pieces      | A free | B used | C free |      physical memory, each at addresses of its own
    stitched    | A | C |                         further addresses of the same memory

A request is served by a piece or a stitched block of exactly its size; else by the smallest larger
piece, which is cut; else by stitching free pieces, the largest first, with new memory for what is
lacking. A stitched block stays known when it is free, and serves its size again without a call of
the driver, for as long as none of its pieces is in use. Requests below a chunk share segments.

Source: Guo et al.: GMLake, efficient and transparent GPU memory defragmentation for large-scale DNN
training with virtual memory stitching (ASPLOS 2024), algorithm 1, states S1 to S5.
Differs: GMLake stitches requests of 512 MiB and more only, unless told otherwise; here `limit` is
about pieces, which are neither cut below it nor stitched. Of the blocks known beyond `keep` all
free ones are forgotten at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..sim.free_tree import first_from, insert, last, last_before, remove
from ..sim.ground import FREE, USED, drop_block, new_block, wants_blocks
from ..sim.ground_driver import (
    driver_map,
    driver_unmap,
    map_again,
    reserve_addresses,
    unmap_again,
)
from ..sim.mechanism import Honours, Mechanism
from ..sim.param import Param
from ..sim.span import BY_SIZE, cut, drop_whole_segments, new_segment, release, take, whole_pages
from ..traces.jit import helper, inline
from ..traces.units import GiB, MiB

CHUNK, LIMIT, KEEP = 0, 1, 2  # parameters
PIECES, STITCHED, SMALL, LIST, ROWS, KNOWN = range(6)  # words of `own`: three trees; the list of
# all pieces; rows in use by pieces, stitched blocks and their members; stitched blocks known
UNIT = 512
# A piece's row: lane = PIECES, next = next piece of the list, prev = its first membership.
# A stitched block's row: lane = STITCHED, next = its first member, mark = its members in use.
# A membership's row: lane = the piece, mark = the stitched block, next = the block's next member,
# prev = the piece's next membership.


def own(values: Mapping[str, int], lanes: int) -> int:
    """Three trees, a list and two numbers."""
    return 6


@inline
def _row(m):
    m.own[ROWS] += 1
    return new_block(m)


@inline
def _drop_row(m, b):
    m.own[ROWS] -= 1
    drop_block(m, b)


@inline
def _enter(m, tree, b):
    """Put a free piece, or a stitched block of which nothing is in use, into its tree."""
    m.key[b] = m.size[b]
    m.tie[b] = m.addr[b]
    insert(m, tree, b)


@helper
def _use(m, p):
    """A free piece is in use from now on, and so is a part of every block that it is in."""
    remove(m, PIECES, p)
    m.state[p] = USED
    n = np.int64(m.prev[p])
    while n != 0:
        s = m.mark[n]
        if m.mark[s] == 0:
            remove(m, STITCHED, s)
        m.mark[s] += 1
        n = np.int64(m.prev[n])


@helper
def _unuse(m, p):
    m.state[p] = FREE
    _enter(m, PIECES, p)
    n = np.int64(m.prev[p])
    while n != 0:
        s = m.mark[n]
        m.mark[s] -= 1
        if m.mark[s] == 0:
            _enter(m, STITCHED, s)
        n = np.int64(m.prev[n])


@inline
def _piece(m, addr, size):
    """A row for a piece; it is in no tree yet."""
    p = _row(m)
    m.addr[p] = addr
    m.size[p] = size
    m.lane[p] = PIECES
    m.prev[p] = 0
    m.next[p] = m.own[LIST]
    m.own[LIST] = p
    m.state[p] = USED
    return p


@inline
def _new_piece(m, size, chunk):
    """New memory; 0 if the driver refused."""
    if not driver_map(m, size, chunk):
        return np.int64(0)
    return _piece(m, reserve_addresses(m, size), size)


@helper
def _cut_piece(m, p, size):
    """Keep the first `size` bytes of a free piece; blocks that it is in have two pieces there."""
    remove(m, PIECES, p)
    rest = _piece(m, m.addr[p] + size, m.size[p] - size)
    m.size[p] = size
    m.state[rest] = FREE
    n = np.int64(m.prev[p])
    while n != 0:
        k = _row(m)
        m.lane[k] = rest
        m.mark[k] = m.mark[n]
        m.next[k] = m.next[n]
        m.next[n] = k
        m.prev[k] = m.prev[rest]
        m.prev[rest] = k
        n = np.int64(m.prev[n])
    _enter(m, PIECES, p)
    _enter(m, PIECES, rest)


@helper
def _forget(m, s, chunk):
    """Unmap a stitched block; its pieces stay."""
    if m.mark[s] == 0:
        remove(m, STITCHED, s)
    n = np.int64(m.next[s])
    while n != 0:
        after = np.int64(m.next[n])
        p = np.int64(m.lane[n])
        if m.prev[p] == n:
            m.prev[p] = m.prev[n]
        else:
            k = np.int64(m.prev[p])
            while m.prev[k] != n:
                k = np.int64(m.prev[k])
            m.prev[k] = m.prev[n]
        _drop_row(m, n)
        n = after
    unmap_again(m, m.size[s], chunk)
    m.own[KNOWN] -= 1
    _drop_row(m, s)


@helper
def _stitch(m, need, chunk, limit):
    """A used block of free pieces, the largest first, and new memory; 0 if the driver refused."""
    have = np.int64(0)
    p = last(m, PIECES)
    while p != 0 and have < need and m.size[p] >= limit:
        have += m.size[p]
        p = last_before(m, PIECES, m.key[p], m.tie[p])
    fresh = np.int64(0)
    if have < need:
        fresh = _new_piece(m, need - have, chunk)
        if fresh == 0 or have == 0:
            return fresh
    if m.own[KNOWN] >= m.param[KEEP]:
        while m.own[STITCHED] != 0:
            _forget(m, last(m, STITCHED), chunk)
    s = _row(m)
    m.lane[s] = STITCHED
    m.next[s] = 0
    m.mark[s] = 0
    size = np.int64(0)
    tail = np.int64(0)
    while size < need:
        p = fresh
        if have > 0:
            p = last(m, PIECES)
            have -= m.size[p]
            if m.size[p] - (need - size) >= limit:
                _cut_piece(m, p, need - size)
            _use(m, p)
        k = _row(m)
        m.lane[k] = p
        m.mark[k] = s
        m.next[k] = 0
        m.prev[k] = m.prev[p]
        m.prev[p] = k
        if tail == 0:
            m.next[s] = k
        else:
            m.next[tail] = k
        tail = k
        size += m.size[p]
        m.mark[s] += 1
    m.size[s] = size
    m.addr[s] = reserve_addresses(m, size)
    map_again(m, size, chunk)
    m.own[KNOWN] += 1
    return s


@inline
def _small(m, size, chunk):
    """Best fit in segments of a chunk, as in PyTorch's small pool."""
    need = (size + UNIT - 1) // UNIT * UNIT
    b = first_from(m, SMALL, need, 0)
    if b != 0:
        take(m, b)
    else:
        b = new_segment(m, SMALL, chunk)
    if b != 0 and m.size[b] > need:
        cut(m, b, need, BY_SIZE)
    return b


@helper
def _large(m, size, chunk):
    need = (size + chunk - 1) // chunk * chunk
    limit = max(chunk, m.param[LIMIT])
    p = first_from(m, PIECES, need, 0)
    if p == 0 or m.size[p] > need:
        s = first_from(m, STITCHED, need, 0)
        if s != 0 and m.size[s] == need:
            n = np.int64(m.next[s])
            while n != 0:
                _use(m, np.int64(m.lane[n]))
                n = np.int64(m.next[n])
            return s
    if p == 0:
        return _stitch(m, need, chunk, limit)
    if m.size[p] - need >= limit:
        _cut_piece(m, p, need)
    _use(m, p)
    return p


def allocate(m, size, lane):
    chunk = whole_pages(m, m.param[CHUNK])
    b = np.int64(0)
    if size < chunk:
        b = _small(m, size, chunk)
    else:
        b = _large(m, size, chunk)
    # a cut adds a row to every block that the piece is in, a stitch one for every piece
    wants_blocks(m, 2 * m.own[ROWS] + 64)
    return b


def free(m, b):
    if m.lane[b] == SMALL:
        release(m, b, BY_SIZE)
    elif m.lane[b] == PIECES:
        _unuse(m, b)
    else:
        n = np.int64(m.next[b])
        while n != 0:
            _unuse(m, np.int64(m.lane[n]))
            n = np.int64(m.next[n])


def trim(m):
    chunk = whole_pages(m, m.param[CHUNK])
    given = drop_whole_segments(m, SMALL)
    before = np.int64(0)
    p = m.own[LIST]
    while p != 0:
        after = np.int64(m.next[p])
        if m.state[p] != FREE:
            before = p
        else:
            while m.prev[p] != 0:
                _forget(m, m.mark[m.prev[p]], chunk)
            if before == 0:
                m.own[LIST] = after
            else:
                m.next[before] = after
            remove(m, PIECES, p)
            driver_unmap(m, m.size[p], chunk)
            given += m.size[p]
            _drop_row(m, p)
        p = after
    return given


STITCHING = Mechanism(
    "stitching",
    "Guo et al.: GMLake (ASPLOS 2024), algorithm 1, virtual memory stitching",
    allocate,
    free,
    trim,
    params=(
        Param("chunk", 2 * MiB, 2 * MiB, 64 * MiB, "what memory is mapped in", "bytes", True),
        Param("limit", 2 * MiB, 2 * MiB, GiB, "pieces below it are not stitched", "bytes", True),
        Param("keep", 1024, 1, 1 << 20, "stitched blocks that are known at most", log=True),
    ),
    honours=Honours(returns=True, simulated="it shows one piece of memory at several addresses"),
    own=own,
)

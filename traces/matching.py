"""Which allocation each entry of a history is about: one pass, in order, over all entries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .addresses import AddressIndex
from .event import Action, BlockState
from .jit import kernel
from .live_blocks import DEAD, LIVE, PENDING, count, next_live, previous_live
from .rollback import Extents
from .view import History, completes_nothing
from .warm_start import StartBlocks

# Plain integers: compiled code takes them as constants.
ALLOC, FREE_REQUESTED, FREE_COMPLETED = (
    int(Action.ALLOC), int(Action.FREE_REQUESTED), int(Action.FREE_COMPLETED)
)  # fmt: skip
SEGMENT_ALLOC, SEGMENT_UNMAP = int(Action.SEGMENT_ALLOC), int(Action.SEGMENT_UNMAP)
SEGMENT_FREE, SEGMENT_MAP = int(Action.SEGMENT_FREE), int(Action.SEGMENT_MAP)

# What became of an entry: `fate` below.
NORMAL = 0
UNMATCHED = 1  # a free of an address where nothing is live, or live no longer
UNREQUESTED = 2  # a completed free that no request announced


@kernel
def _follow(
    action,
    rank,
    size,
    piece,
    addresses,
    seg_ranks,
    seg_pieces,
    seg_extent,
    owner,
    current,
    state,
    length,
    n_start,
    fc_absent,
    entry_alloc,
    fate,
    pending_after,
    alloc_extent,
    lost,
    seg_clash,
    seg_room,
    bounds,
):
    """Follow every block through the history.

    Addresses are named by rank: `addresses[rank]`. Driver memory is cut into pieces at every
    boundary that occurs, so that a segment is a range of pieces.

    Args:
        action: shape (n,) uint8.
        rank: shape (n,) int32; rank of the entry's address; any value for segment entries.
        size: shape (n,) int64; bytes.
        piece: shape (n,) int32; piece an alloc lies in, -1 = in none.
        addresses: shape (d,) int64, ascending.
        seg_ranks, seg_pieces: shape (k, 2) int64; half-open range of ranks and of pieces that
            each segment entry covers, in order.
        seg_extent: shape (k,) int32; extent each segment entry creates; for the others, output:
            extent it releases from, or -1.
        owner: shape (p,) int32; extent each piece belongs to at the start, -1 = none. Modified.
        current, state, length: shape (d,); allocation, DEAD/LIVE/PENDING and bytes of the block
            at each address at the start. Modified: what they are at the end.
        n_start: number of allocations at the start.
        fc_absent: completed frees were left out of the recording: requests complete at once.
        entry_alloc: shape (n,) int32, output; allocation of each alloc or free, else -1.
        fate: shape (n,) uint8, output; NORMAL, UNMATCHED or UNREQUESTED.
        pending_after: shape (n,) int32, output; blocks pending after each entry.
        alloc_extent: shape (allocations,) int32, output; -1 = outside all known memory.
        lost: shape (allocations, 3) int64, output; allocation, entry that contradicts it, and the
            state it was in.
        seg_clash: shape (k,) uint8, output; 1 = created over existing memory or released where
            there was none.
        seg_room: shape (k,) int64, output; bytes of the free block each release took memory from.
        bounds: shape (p + 1,) int64; where the pieces begin and end.

    Returns:
        Number of rows written to `lost`.
    """
    d = len(addresses)
    c1 = np.zeros((d >> 6) + 1, np.int32)
    c2 = np.zeros((d >> 12) + 1, np.int32)
    c3 = np.zeros((d >> 18) + 1, np.int32)
    pending = 0
    for r in range(d):
        if state[r] != DEAD:
            count(c1, c2, c3, r, 1)
            pending += state[r] == PENDING
    n_alloc = n_start
    n_lost = 0
    k = 0
    for i in range(len(action)):
        a = action[i]
        entry_alloc[i] = -1
        r = np.int64(rank[i])
        if a == FREE_REQUESTED:
            if state[r] == LIVE:
                entry_alloc[i] = current[r]
                if fc_absent:
                    state[r] = DEAD
                    count(c1, c2, c3, r, -1)
                else:
                    state[r] = PENDING
                    pending += 1
            else:
                fate[i] = UNMATCHED
        elif a == FREE_COMPLETED:
            if state[r] == DEAD:
                fate[i] = UNMATCHED
            else:
                entry_alloc[i] = current[r]
                if state[r] == LIVE:
                    fate[i] = UNREQUESTED
                else:
                    pending -= 1
                state[r] = DEAD
                count(c1, c2, c3, r, -1)
        elif a == ALLOC or (SEGMENT_ALLOC <= a and a <= SEGMENT_UNMAP):
            # Nothing may be live where a block is born, nor where memory goes.
            if a == ALLOC:
                low, high, end = r, d, addresses[r] + size[i]
            else:
                low, high, end = seg_ranks[k, 0], seg_ranks[k, 1], np.int64(0)
            begin = addresses[low] if low < d else np.int64(0)
            if a == ALLOC or a == SEGMENT_FREE or a == SEGMENT_UNMAP:
                q = previous_live(state, c1, c2, c3, low - 1)
                if q < 0 or low >= d or addresses[q] + length[q] <= begin:
                    q = next_live(state, c1, c2, c3, low)
                while q < high and (a != ALLOC or addresses[q] < end):
                    lost[n_lost, 0] = current[q]
                    lost[n_lost, 1] = i
                    lost[n_lost, 2] = state[q]
                    n_lost += 1
                    pending -= state[q] == PENDING
                    state[q] = DEAD
                    count(c1, c2, c3, q, -1)
                    q = next_live(state, c1, c2, c3, low)
            if a == ALLOC:
                current[r] = n_alloc
                entry_alloc[i] = n_alloc
                state[r] = LIVE
                length[r] = size[i]
                count(c1, c2, c3, r, 1)
                p = piece[i]
                alloc_extent[n_alloc] = owner[p] if p >= 0 else -1
                n_alloc += 1
            else:
                creates = a == SEGMENT_ALLOC or a == SEGMENT_MAP
                if not creates and seg_pieces[k, 0] < seg_pieces[k, 1]:
                    seg_extent[k] = owner[seg_pieces[k, 0]]
                    # A release of pages leaves up to a page of its free block on either side.
                    q = previous_live(state, c1, c2, c3, low - 1)
                    left = addresses[q] + length[q] if q >= 0 else np.int64(0)
                    q = next_live(state, c1, c2, c3, low)
                    right = addresses[q] if q < d else bounds[-1]
                    p = seg_pieces[k, 0]
                    while a == SEGMENT_UNMAP and p > 0 and owner[p - 1] >= 0 and bounds[p] > left:
                        p -= 1
                    left = max(left, bounds[p])
                    p = seg_pieces[k, 1]
                    while a == SEGMENT_UNMAP and p < len(owner) and owner[p] >= 0:
                        if bounds[p] >= right:
                            break
                        p += 1
                    seg_room[k] = min(right, bounds[p]) - left
                for p in range(seg_pieces[k, 0], seg_pieces[k, 1]):
                    if (owner[p] >= 0) == creates:
                        seg_clash[k] = 1
                    owner[p] = seg_extent[k] if creates else -1
                k += 1
        pending_after[i] = pending
    return n_lost


@dataclass
class Followed:
    """What became of every block; allocations of the start are numbered first.

    Attributes:
        n_start: allocations of the start.
        alloc_entry: shape (allocs,) int64; entry of each later allocation.
        alloc_extent: shape (n_start + allocs,) int32; extent each lies in, -1 = in none known.
        entry_alloc: shape (n,) int32; allocation of each alloc or free entry, else -1.
        fate: shape (n,) uint8; NORMAL, UNMATCHED or UNREQUESTED.
        pending_after: shape (n,) int32; frees pending after each entry.
        at_once: shape (n,) bool; frees completed by the very call that requested them.
        none_completes: completed frees were left out of the recording.
        lost: shape (m, 3) int64; allocation, the entry that shows it gone, LIVE or PENDING.
        from_extent: shape (k,) int32; extent each segment entry creates or releases from.
        room: shape (k,) int64; bytes of the free block each release took memory from.
        clashes: segment entries that create what exists or release what does not.
        addresses, current, state: shape (d,); at the end, the allocation at each address and
            whether it is DEAD, LIVE or PENDING.
    """

    n_start: int
    alloc_entry: np.ndarray
    alloc_extent: np.ndarray
    entry_alloc: np.ndarray
    fate: np.ndarray
    pending_after: np.ndarray
    at_once: np.ndarray
    none_completes: bool
    lost: np.ndarray
    from_extent: np.ndarray
    room: np.ndarray
    clashes: int
    addresses: np.ndarray
    current: np.ndarray
    state: np.ndarray


def follow(h: History, index: AddressIndex, start: StartBlocks, extents: Extents) -> Followed:
    """Follow every block of a history from the start's blocks to its end."""
    n, n_start = len(h.action), len(start.address)
    addresses = np.union1d(index.addresses, start.address)
    rank = np.zeros(n, np.int32)
    rank[index.entries] = np.searchsorted(addresses, index.addresses)[index.inverse]
    state = np.zeros(len(addresses), np.uint8)
    current = np.full(len(addresses), -1, np.int32)
    length = np.zeros(len(addresses), np.int64)
    at = np.searchsorted(addresses, start.address)
    state[at] = np.where(start.state == BlockState.PENDING, PENDING, LIVE)
    current[at] = np.arange(n_start)
    length[at] = np.where(start.size > 0, start.size, start.requested)
    alloc_entry = np.flatnonzero(h.action == Action.ALLOC)
    n_allocs = n_start + len(alloc_entry)
    piece = np.full(n, -1, np.int32)
    inside = np.searchsorted(extents.bounds, h.addr[alloc_entry], "right") - 1
    piece[alloc_entry] = np.where(inside < len(extents.owner), inside, -1)
    alloc_extent = np.full(n_allocs, -1, np.int32)
    slot = np.searchsorted(extents.bounds, start.address, "right") - 1
    held = (slot >= 0) & (slot < len(extents.owner))
    alloc_extent[:n_start][held] = extents.owner[slot[held]]
    begin, end = h.addr[extents.entries], h.addr[extents.entries] + h.size[extents.entries]
    entry_alloc = np.full(n, -1, np.int32)
    fate = np.full(n, NORMAL, np.uint8)
    pending_after = np.zeros(n, np.int32)
    lost = np.zeros((n_allocs, 3), np.int64)
    from_extent = extents.created.copy()
    clash = np.zeros(len(extents.entries), np.uint8)
    room = np.zeros(len(extents.entries), np.int64)
    none_completes = completes_nothing(h)
    n_lost = _follow(
        h.action, rank, h.size, piece, addresses,
        np.stack([np.searchsorted(addresses, x) for x in (begin, end)], axis=1),
        extents.pieces, from_extent, extents.owner.copy(), current, state, length,
        n_start, none_completes, entry_alloc, fate, pending_after, alloc_extent, lost, clash,
        room, extents.bounds,
    )  # fmt: skip
    at_once = np.zeros(n, bool)
    at_once[1:] = (
        (h.action[1:] == Action.FREE_COMPLETED)
        & (h.action[:-1] == Action.FREE_REQUESTED)
        & (h.addr[1:] == h.addr[:-1])
        & (entry_alloc[1:] == entry_alloc[:-1])
        # Completed by the next malloc, a free bears that malloc's stack.
        & (h.stack[1:] == h.stack[:-1])
    )
    return Followed(
        n_start, alloc_entry, alloc_extent, entry_alloc, fate, pending_after, at_once,
        none_completes, lost[:n_lost], from_extent, room, int(clash.sum()), addresses,
        current, state,
    )  # fmt: skip

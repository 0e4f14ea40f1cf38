"""Event words: one 64-bit word per op of a program, as the replay loop reads it.

A word is slot << 32 | class << 4 | op. A slot stands for an allocation while it is held; its number
is the lowest that is free, so that a program that repeats itself has words that do. A class is a
request number plus one; class 0 is no request. A pool, or what CAPTURE says, stands in the slot's
place.
"""

from __future__ import annotations

from .jit import inline, kernel
from .program import Op

OP_BITS, OP_MASK = 4, 15
CLASS_MASK = (1 << 28) - 1
SLOT_SHIFT = 32
MOST_SLOTS, MOST_CLASSES = 1 << 31, 1 << 28
MALLOC_REVIVES = 8  # a malloc that takes a released private pool back into use

MALLOC, FREE, FREE_LATER, COMPLETE, TRY = (
    int(Op.MALLOC), int(Op.FREE), int(Op.FREE_LATER), int(Op.COMPLETE), int(Op.TRY),
)  # fmt: skip
EMPTY_CACHE, RELEASE_POOL, CAPTURE = int(Op.EMPTY_CACHE), int(Op.RELEASE_POOL), int(Op.CAPTURE)
NO_SLOT, PENDING = 0, 1 << 28  # what a checked slot holds: nothing, or a class, perhaps pending
# What is wrong with a word, by its number.
FAULTS = (
    "",
    "an op that does not exist",
    "a request that is not in the table",
    "a slot beyond the last one",
    "an allocation into a slot that is held",
    "a free of a slot that holds no such request",
    "a free of an allocation whose free was requested before",
    "the completion of a free that was not requested",
    "a pool that is not in the table",
)
# What `check_words` counts.
LIVE, MOST_LIVE, REQUESTED, PEAK_REQUESTED, PEAK_WANTED, HIGHEST_SLOT = range(6)
N_COUNTS = 6


@inline
def take_lowest(spare, m):
    """Take the least number out of a binary heap of m numbers, shape (>= m,)."""
    x = spare[0]
    m -= 1
    last = spare[m]
    j = 0
    while True:
        k = 2 * j + 1
        if k >= m:
            break
        if k + 1 < m and spare[k + 1] < spare[k]:
            k += 1
        if spare[k] >= last:
            break
        spare[j] = spare[k]
        j = k
    spare[j] = last
    return x


@inline
def give_number(spare, m, x):
    """Add number x to a binary heap of m numbers, shape (> m,)."""
    j = m
    while j > 0 and spare[(j - 1) // 2] > x:
        spare[j] = spare[(j - 1) // 2]
        j = (j - 1) // 2
    spare[j] = x


@kernel
def check_words(words, req_size, n_pools, slots, counts, ops):
    """Hold words against the rules, and count what they do.

    Args:
        words: shape (n,) int64; what follows the words checked before.
        req_size: shape (R + 1,) int64; bytes of each class, class 0 none.
        n_pools: number of pools.
        slots: shape (n_slots,) int64; what each slot holds: its class, | PENDING; modified.
        counts: shape (N_COUNTS,) int64; LIVE ..., modified.
        ops: shape (16,) int64; how often each op occurs, modified.

    Returns:
        (index of the first word that breaks a rule, which: FAULTS); (n, 0) if none does.
    """
    n_classes, n_slots = req_size.size, slots.size
    for i in range(words.size):
        e = words[i]
        op = e & OP_MASK
        klass = (e >> OP_BITS) & CLASS_MASK
        slot = e >> SLOT_SHIFT
        if op > MALLOC_REVIVES:
            return i, 1
        ops[op] += 1
        if op == MALLOC or op == MALLOC_REVIVES:
            if klass == 0 or klass >= n_classes:
                return i, 2
            if slot <= 0 or slot >= n_slots:
                return i, 3
            if slots[slot] != NO_SLOT:
                return i, 4
            slots[slot] = klass
            counts[LIVE] += 1
            counts[MOST_LIVE] = max(counts[MOST_LIVE], counts[LIVE])
            counts[HIGHEST_SLOT] = max(counts[HIGHEST_SLOT], slot)
            requested = counts[REQUESTED] + req_size[klass]
            counts[REQUESTED] = requested
            counts[PEAK_REQUESTED] = max(counts[PEAK_REQUESTED], requested)
            counts[PEAK_WANTED] = max(counts[PEAK_WANTED], requested)
        elif op == FREE or op == FREE_LATER or op == COMPLETE:
            if slot <= 0 or slot >= n_slots:
                return i, 3
            held = slots[slot]
            if klass == 0 or held & CLASS_MASK != klass:
                return i, 5
            if op == COMPLETE:
                if held & PENDING == 0:
                    return i, 7
            elif held & PENDING != 0:
                return i, 6
            if op == FREE_LATER:
                slots[slot] = held | PENDING
            else:
                slots[slot] = NO_SLOT
                counts[LIVE] -= 1
                counts[REQUESTED] -= req_size[klass]
        elif op == TRY:
            if klass == 0 or klass >= n_classes:
                return i, 2
            if slot != 0:
                return i, 3
            counts[PEAK_WANTED] = max(counts[PEAK_WANTED], counts[REQUESTED] + req_size[klass])
        elif klass != 0:
            return i, 2
        elif op == CAPTURE:
            if slot != 0 and slot != 1:
                return i, 1
        elif slot < 0 or slot >= n_pools:
            return i, 8
    return words.size, 0


@kernel
def pack_rows(is_malloc, at, klass, slot_of, spare, state, words):
    """Write mallocs and frees as words.

    Args:
        is_malloc: shape (n,) bool; the other rows are frees.
        at: shape (n,) int64; the allocation of each row, as a row of `slot_of`.
        klass: shape (m,) int64; class of each allocation.
        slot_of: shape (m,) int64; slot of each allocation held; modified.
        spare: heap of freed slot numbers; large enough for every slot; modified.
        state: shape (2,) int64: numbers in the heap, first slot never used; modified.
        words: shape (n,) int64, filled.
    """
    m, top = state[0], state[1]
    for i in range(at.size):
        a = at[i]
        if is_malloc[i]:
            if m == 0:
                x = top
                top += 1
            else:
                x = take_lowest(spare, m)
                m -= 1
            slot_of[a] = x
            words[i] = (x << SLOT_SHIFT) | (klass[a] << OP_BITS) | MALLOC
        else:
            x = slot_of[a]
            words[i] = (x << SLOT_SHIFT) | (klass[a] << OP_BITS) | FREE
            give_number(spare, m, x)
            m += 1
    state[0], state[1] = m, top

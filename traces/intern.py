"""Number equal things alike: strings, pairs, triples and runs of integers, by content.

Open-addressing hash tables in arrays. A slot holds number + 1; 0 is free. The hash is seeded per
process, and a search that meets too many strangers gives up: a file made of colliding strings
costs its reader an error message, not an afternoon.
"""

from __future__ import annotations

import numpy as np

from .jit import helper, inline

MAX_PROBES = 2000  # a table at most half full needs a few dozen at worst


@inline
def _mix(h, x, seed):
    """Stir x into h; seed is odd."""
    h = (h ^ x) * seed
    return h ^ ((h >> 32) & 0xFFFFFFFF)


@inline
def hash_text(data, at, n, seed):
    """Return the hash of the string data[at:at + n]."""
    h = np.int64(n)
    for k in range(n):
        h = (h ^ np.int64(data[at + k])) * seed
        if k & 3 == 3:
            h ^= (h >> 32) & 0xFFFFFFFF
    return _mix(h, n, seed)


@helper
def find_text(
    data, at, n, text_at, text_len, text_word, slots, used, count, words, word_at, seed
):  # fmt: skip
    """Return the number of the string data[at:at + n], new or known; -1 = crafted collisions."""
    limit = len(slots) - 1
    place = hash_text(data, at, n, seed) & limit
    for _ in range(MAX_PROBES):
        found = np.int64(slots[place]) - 1
        if found < 0:
            number = used[count]
            used[count] = number + 1
            slots[place] = number + 1
            text_at[number] = at
            text_len[number] = n
            text_word[number] = 0
            for w in range(len(word_at) - 1):
                if word_at[w + 1] - word_at[w] == n:
                    same = True
                    for k in range(n):
                        if words[word_at[w] + k] != data[at + k]:
                            same = False
                            break
                    if same:
                        text_word[number] = w + 1
            return number
        if text_len[found] == n:
            same = True
            for k in range(n):
                if data[text_at[found] + k] != data[at + k]:
                    same = False
                    break
            if same:
                return found
        place = (place + 1) & limit
    return -1


@helper
def find_pair(pairs, slots, used, count, a, b, seed):
    """Return the number of the pair (a, b); pairs is shape (n, 2). -1 = crafted collisions."""
    limit = len(slots) - 1
    place = _mix(_mix(0, a, seed), b, seed) & limit
    for _ in range(MAX_PROBES):
        found = np.int64(slots[place]) - 1
        if found < 0:
            number = used[count]
            used[count] = number + 1
            slots[place] = number + 1
            pairs[number, 0] = a
            pairs[number, 1] = b
            return number
        if pairs[found, 0] == a and pairs[found, 1] == b:
            return found
        place = (place + 1) & limit
    return -1


@helper
def find_triple(triples, slots, used, count, a, b, c, seed):
    """Return the number of (a, b, c); triples is shape (n, 3). -1 = crafted collisions."""
    limit = len(slots) - 1
    place = _mix(_mix(_mix(0, a, seed), b, seed), c, seed) & limit
    for _ in range(MAX_PROBES):
        found = np.int64(slots[place]) - 1
        if found < 0:
            number = used[count]
            used[count] = number + 1
            slots[place] = number + 1
            triples[number, 0] = a
            triples[number, 1] = b
            triples[number, 2] = c
            return number
        if triples[found, 0] == a and triples[found, 1] == b and triples[found, 2] == c:
            return found
        place = (place + 1) & limit
    return -1


@helper
def find_run(items, ends, slots, used, count, start, stop, seed):
    """Return the number of the run items[start:stop], at least 1; -1 = crafted collisions.

    Run k is items[ends[k - 1]:ends[k]]; run 0 is empty. A new run must start at the end of the
    last one, and stays where it is; of an old one the copy at `start` is not needed.
    """
    h = np.int64(stop - start)
    for k in range(start, stop):
        h = _mix(h, np.int64(items[k]), seed)
    limit = len(slots) - 1
    place = _mix(h, h, seed) & limit
    for _ in range(MAX_PROBES):
        found = np.int64(slots[place]) - 1
        if found < 0:
            number = used[count]
            used[count] = number + 1
            slots[place] = number + 1
            ends[number] = stop
            return number
        old = ends[found - 1]
        if ends[found] - old == stop - start:
            same = True
            for k in range(stop - start):
                if items[old + k] != items[start + k]:
                    same = False
                    break
            if same:
                return found
        place = (place + 1) & limit
    return -1

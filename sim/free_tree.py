"""A search tree of free blocks: best, first, next and worst fit in logarithmic time.

A treap (Seidel, Aragon: Randomized search trees, 1996) in the order (key, tie), whose nodes also
know the largest block below them. Priorities are scrambled row numbers, so a replay repeats itself.
The root is word `root` of the policy's own words; 0 there is the empty tree.
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import helper, inline


@inline
def _priority(b):
    # two rounds of multiply and fold in 31 bits, so that no product leaves an int64
    x = np.int64(b) * 0x5E3779B1 & 0x7FFFFFFF
    x = (x ^ (x >> 15)) * 0x25EBCA77 & 0x7FFFFFFF
    return x ^ (x >> 13)


@inline
def _less(m, a, b):
    return m.key[a] < m.key[b] or (m.key[a] == m.key[b] and m.tie[a] < m.tie[b])


@inline
def _sum_up(m, b):
    """Set the largest block below b from its children."""
    # row 0 has the size 0 and no children
    m.largest[b] = max(m.size[b], m.largest[m.left[b]], m.largest[m.right[b]])


@inline
def _hang(m, root, above, old, new):
    """Put subtree `new` where `old` hangs below `above`, 0 being above the root."""
    if new != 0:
        m.up[new] = above
    if above == 0:
        m.own[root] = new
    elif m.left[above] == old:
        m.left[above] = new
    else:
        m.right[above] = new


@inline
def _lift(m, root, b):
    """Rotate b above its parent."""
    p = np.int64(m.up[b])
    above = np.int64(m.up[p])
    _hang(m, root, above, p, b)
    if m.left[p] == b:
        child = np.int64(m.right[b])
        m.left[p] = child
        m.right[b] = p
    else:
        child = np.int64(m.left[b])
        m.right[p] = child
        m.left[b] = p
    if child != 0:
        m.up[child] = p
    m.up[p] = b
    _sum_up(m, p)
    _sum_up(m, b)


@helper
def insert(m, root, b):
    """Add block b by its key, tie and size."""
    m.left[b] = 0
    m.right[b] = 0
    m.up[b] = 0
    m.largest[b] = m.size[b]
    node = m.own[root]
    if node == 0:
        m.own[root] = b
        return
    while True:
        m.largest[node] = max(m.largest[node], m.size[b])
        if _less(m, b, node):
            child = np.int64(m.left[node])
            if child == 0:
                m.left[node] = b
                break
        else:
            child = np.int64(m.right[node])
            if child == 0:
                m.right[node] = b
                break
        node = child
    m.up[b] = node
    while m.up[b] != 0 and _priority(b) < _priority(m.up[b]):
        _lift(m, root, b)


@helper
def remove(m, root, b):
    """Take block b out; its key, tie and size must be those it was inserted with."""
    while True:
        left, right = np.int64(m.left[b]), np.int64(m.right[b])
        if left == 0 or right == 0:
            break
        _lift(m, root, left if _priority(left) < _priority(right) else right)
    above = np.int64(m.up[b])
    _hang(m, root, above, b, left + right)  # at most one of them is a block
    while above != 0:
        _sum_up(m, above)
        above = np.int64(m.up[above])


@inline
def first_from(m, root, key, tie):
    """The least block at or after (key, tie); 0 if there is none."""
    found = np.int64(0)
    node = m.own[root]
    while node != 0:
        if m.key[node] < key or (m.key[node] == key and m.tie[node] < tie):
            node = np.int64(m.right[node])
        else:
            found = node
            node = np.int64(m.left[node])
    return found


@inline
def last_before(m, root, key, tie):
    """The greatest block before (key, tie); 0 if there is none."""
    found = np.int64(0)
    node = m.own[root]
    while node != 0:
        if m.key[node] < key or (m.key[node] == key and m.tie[node] < tie):
            found = node
            node = np.int64(m.right[node])
        else:
            node = np.int64(m.left[node])
    return found


@inline
def last(m, root):
    """The greatest block in order; 0 in an empty tree."""
    node = m.own[root]
    while node != 0 and m.right[node] != 0:
        node = np.int64(m.right[node])
    return node


@inline
def _first_below(m, node, need):
    """The first block of a subtree with at least `need` bytes; there is one."""
    while True:
        left = np.int64(m.left[node])
        if m.largest[left] >= need:
            node = left
        elif m.size[node] >= need:
            return node
        else:
            node = np.int64(m.right[node])


@inline
def first_fit_from(m, root, need, key, tie):
    """The first block at or after (key, tie) with at least `need` bytes; 0 if there is none."""
    b = first_from(m, root, key, tie)
    while b != 0:
        if m.size[b] >= need:
            return b
        right = np.int64(m.right[b])
        if m.largest[right] >= need:
            return _first_below(m, right, need)
        # everything below b was looked at: up to the next block that follows it
        while m.up[b] != 0 and m.right[m.up[b]] == b:
            b = np.int64(m.up[b])
        b = np.int64(m.up[b])
    return b


@inline
def first_fit(m, root, need):
    """The first block in order with at least `need` bytes; 0 if there is none."""
    node = m.own[root]
    if node == 0 or m.largest[node] < need:
        return np.int64(0)
    return _first_below(m, node, need)


@inline
def largest(m, root):
    """Bytes of the largest block; 0 in an empty tree."""
    return m.largest[m.own[root]]

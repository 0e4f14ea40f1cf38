"""Which entries name which address."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .event import Action
from .view import NEVER, History


@dataclass
class AddressIndex:
    """The alloc and free entries of a history, address by address.

    Attributes:
        entries: their indices.
        addresses: distinct addresses, ascending.
        inverse: index into `addresses` of each.
        first, second: first and second entry at each address; NEVER = none.
        first_alloc: first alloc at each address; NEVER = none.
    """

    entries: np.ndarray
    addresses: np.ndarray
    inverse: np.ndarray
    first: np.ndarray
    second: np.ndarray
    first_alloc: np.ndarray

    @classmethod
    def of(cls, h: History) -> AddressIndex:
        entries = np.flatnonzero(h.action <= Action.FREE_COMPLETED)
        addr = h.addr[entries]
        order = np.argsort(addr, kind="stable")
        sorted_addr = addr[order]
        is_new = np.ones(len(order), bool)
        is_new[1:] = sorted_addr[1:] != sorted_addr[:-1]
        begin = np.flatnonzero(is_new)
        inverse = np.empty(len(order), np.int64)
        inverse[order] = np.cumsum(is_new) - 1
        second = np.full(len(begin), NEVER)
        more = np.diff(np.append(begin, len(order))) > 1
        second[more] = entries[order[begin[more] + 1]]
        first_alloc = np.full(len(begin), NEVER)
        allocs = np.flatnonzero(h.action[entries] == Action.ALLOC)[::-1]
        first_alloc[inverse[allocs]] = entries[allocs]  # backwards: the earliest is written last
        return cls(entries, sorted_addr[begin], inverse, entries[order[begin]], second, first_alloc)

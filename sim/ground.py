"""Ground: what a simulation remembers while a mechanism of its own hands out memory.

The counters and options have the places they have in `state.py`, so that both kinds of policies are
measured alike. Blocks are rows of index arrays; row 0 is nobody.
"""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

import numpy as np

from ..traces.jit import JIT, inline
from .memory import Buffer
from .policy import MOST_PARAMS
from .spares import all_spare, give_row, more_spare, take_row
from .state import N_COUNTERS, N_OPTIONS, SPARES_NEEDED

MOST_NEW_BLOCKS = 64  # rows one call may take, unless the mechanism says otherwise
CLASS_WORDS = 2  # bytes asked for, lane
ASKED, LANE = 0, 1

# --- block states ---
DEAD, USED, FREE, WAITING = 0, 1, 2, 3  # WAITING: freed, but another stream still reads it

GROUND = Buffer(
    [
        ("g", "i8", N_COUNTERS),
        ("opt", "i8", N_OPTIONS),
        ("param", "i8", MOST_PARAMS),  # the policy's parameters, in the order of their declaration
        ("own", "i8", "own"),  # the policy's own words, zero at the start
        ("size", "i8", "blocks"),  # bytes
        ("addr", "i8", "blocks"),  # first byte
        ("mark", "i8", "blocks"),  # the policy's own word about a block
        ("state", "i4", "blocks"),
        ("lane", "i4", "blocks"),  # whose memory it is: stream and pool, as far as they matter
        ("klass", "i4", "blocks"),  # class of the request served; the replay loop's
        ("held", "i4", "blocks"),  # slot of a waiting block; the replay loop's
        ("earlier", "i4", "blocks"),  # queue of waiting blocks; the replay loop's
        ("later", "i4", "blocks"),
        ("prev", "i4", "blocks"),  # neighbours in memory, 0 = none
        ("next", "i4", "blocks"),
        ("left", "i4", "blocks"),  # links of a search tree, or of a list
        ("right", "i4", "blocks"),
        ("up", "i4", "blocks"),
        ("key", "i8", "blocks"),  # order in a tree: key, then tie
        ("tie", "i8", "blocks"),
        ("largest", "i8", "blocks"),  # largest block in a subtree
        ("spare", "i4", "blocks"),  # stack of rows in use before
        ("slot", "i4", "slots"),  # block held by a slot of the program
        ("classes", "i8", "classes"),
        ("hint", "i8", "hints"),  # what a policy with foresight was told about each event
    ]
)

Ground = namedtuple("Ground", [f[0] for f in GROUND.fields])

if JIT and not TYPE_CHECKING:
    from .memory import address_of, i4_at, i8_at

    def _constructor() -> Any:
        fields = [f"{code}_at(a, s[{1 + k}])" for k, (_, code, _) in enumerate(GROUND.fields)]
        namespace: dict[str, Any] = {
            "Ground": Ground, "zero": np.int64(0), "i8_at": i8_at, "i4_at": i4_at,
        }  # fmt: skip
        exec(  # spelt out from the declared fields, so that their order is written down once
            f"def ground_at(a):\n    s = i8_at(a, zero)\n    return Ground({', '.join(fields)})\n",
            namespace,
        )
        return inline(namespace["ground_at"])

    ground_at = _constructor()

    @inline
    def ground(buffer):
        """The fields of a ground's buffer as raw pointers."""
        return ground_at(address_of(buffer))

else:

    def ground_at(address: int) -> Any:
        """Of compiled code alone: an address means nothing here."""
        raise NotImplementedError

    def ground(buffer):
        """The fields of a ground's buffer as NumPy arrays."""
        return Ground(**GROUND.views(buffer))


def new_ground(blocks: int, slots: int, classes: int, own: int, hints: int = 1) -> np.ndarray:
    """Return an empty ground with room for so many rows."""
    buffer = GROUND.new(
        blocks=blocks, slots=slots, classes=classes * CLASS_WORDS, own=own, hints=hints
    )
    f = GROUND.views(buffer)
    all_spare(f, blocks - 1)
    f["g"][SPARES_NEEDED] = MOST_NEW_BLOCKS
    return buffer


def grown(buffer: np.ndarray, slots: int, classes: int, own: int, hints: int = 1) -> np.ndarray:
    """Return the same ground with twice the room for blocks."""
    old = GROUND.views(buffer)
    blocks = len(old["size"])
    bigger = new_ground(2 * blocks, slots, classes, own, hints)
    new = GROUND.views(bigger)
    for name, field in old.items():
        m = min(len(field), len(new[name]))
        new[name][:m] = field[:m]
    more_spare(new, blocks)
    return bigger


@inline
def new_block(m):
    """Take an unused row; the replay loop guarantees that some are left."""
    return take_row(m, 1)


@inline
def wants_blocks(m, rows):
    """Say that the next call may take so many rows, if that is more than MOST_NEW_BLOCKS."""
    m.g[SPARES_NEEDED] = max(np.int64(MOST_NEW_BLOCKS), rows)


@inline
def drop_block(m, b):
    """Give a row back."""
    m.state[b] = DEAD
    give_row(m, b)

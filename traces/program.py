"""Program: what a device's program asked of its allocator, without the allocator's answers.

A program is what stays the same when the settings change: the order of requests and frees,
their sizes, streams and private pools. `history.py` lifts it out of a recording.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from .event import BLOCK_COLUMNS, empty_columns
from .recording import Finding


class Op(IntEnum):
    """One step of a program; `arg` says which allocation, request or pool."""

    MALLOC = 0  # arg = allocation number
    FREE = 1  # arg = allocation number; requested and completed at once
    FREE_LATER = 2  # arg = allocation number; requested, pending until COMPLETE or a synchronize
    COMPLETE = 3  # arg = allocation number; a pending free completes (nothing if it already has)
    TRY = 4  # arg = request number; a malloc that failed when recorded; freed at once if served
    EMPTY_CACHE = 5  # arg = pool number; 0 = the default pools and every freeable private pool
    RELEASE_POOL = 6  # arg = pool number; its last user is gone, it becomes freeable
    CAPTURE = 7  # arg = 1/0; capture context begins/ends (no synchronize, no release-everything)
    CHANGE = 9  # arg = 1, 2, ... in order; a settings call, or whatever change the replay is told


@dataclass(frozen=True)
class SettingsCall:
    """A call of torch.cuda.memory._set_allocator_settings(line), made by the program itself.

    Attributes:
        entry: the recorded entry before which it is made.
        line: the line; PyTorch parses it on top of what is in force then.
    """

    entry: int
    line: str


# Layout of segments a replay can start from or end in. Addresses are as recorded or simulated.
# For expandable memory one row is one maximal mapped run, as a snapshot shows it; `reservation`
# says which runs lie in one reservation (the lowest address the recording shows mapped there).
LAYOUT_SEGMENT_COLUMNS = {
    "address": np.dtype("u8"),
    "size": np.dtype("i8"),
    "stream": np.dtype("i4"),  # index into Program.streams
    "pool": np.dtype("i4"),  # index into Program.pools
    "is_small": np.dtype("u1"),
    "is_expandable": np.dtype("u1"),
    "reservation": np.dtype("u8"),  # base address of the expandable reservation; 0 otherwise
    "first_block": np.dtype("i8"),
    "n_blocks": np.dtype("i8"),
}
LAYOUT_BLOCK_COLUMNS = {
    **{k: BLOCK_COLUMNS[k] for k in ("address", "size", "requested_size", "state")},
    "alloc": np.dtype("i4"),  # allocation number that owns an active block; -1 otherwise
}


@dataclass
class Layout:
    """Segments and their blocks at one moment; blocks tile their segment, ascending address.

    Segments are in creation order where it is known, else in address order.
    """

    segments: dict[str, np.ndarray] = field(
        default_factory=lambda: empty_columns(LAYOUT_SEGMENT_COLUMNS)
    )
    blocks: dict[str, np.ndarray] = field(
        default_factory=lambda: empty_columns(LAYOUT_BLOCK_COLUMNS)
    )

    @property
    def reserved_bytes(self) -> int:
        return int(self.segments["size"].sum())


@dataclass
class Program:
    """The requests of one device, ready for replay.

    Allocations are numbered 0..A-1: first those live (or pending) at the start, in the order of
    `start`'s blocks, then one per MALLOC in program order.

    Attributes:
        device: device index.
        op, arg: shape (n,), uint8 and int32; see Op.
        entry: shape (n,) int64; the recorded entry each op stands for (for MALLOC the `alloc`, for
            FREE/FREE_LATER the `free_requested`, COMPLETE the `free_completed`, TRY the `oom`);
            -1 = inferred, no entry of its own.
        request: shape (A,) int32; request number of each allocation.
        req_size, req_stream, req_pool: shape (R,); distinct requests: bytes asked for (> 0), index
            into `streams`, index into `pools`. For TRY the size is the rounded one.
        streams: raw stream handles, ascending, int64.
        pools: private pool ids; pools[0] is (0, 0), the default pools.
        start: what the device held when the recording began (empty for a cold start).
        end: what it held when the snapshot was taken.
        addr: shape (A,) uint64; recorded address of each allocation.
        driver_op, driver_action, driver_addr, driver_size: recorded SEGMENT_* entries in order;
            driver_op is the index of the op during which the driver was called.
        settings_calls: what each CHANGE is, in order; () = the replay is told otherwise.
        complete: True if nothing had to be guessed.
        findings: what had to be inferred or could not be known.
    """

    device: int
    op: np.ndarray
    arg: np.ndarray
    entry: np.ndarray
    request: np.ndarray
    req_size: np.ndarray
    req_stream: np.ndarray
    req_pool: np.ndarray
    streams: np.ndarray
    pools: list[tuple[int, int]]
    start: Layout = field(default_factory=Layout)
    end: Layout = field(default_factory=Layout)
    addr: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    driver_op: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    driver_action: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))
    driver_addr: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    driver_size: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    settings_calls: tuple[SettingsCall, ...] = ()
    complete: bool = True
    findings: list[Finding] = field(default_factory=list)

    @property
    def n_ops(self) -> int:
        return len(self.op)

    def count(self, op: Op) -> int:
        """How often an op occurs."""
        return int(np.count_nonzero(self.op == op))

    def entry_of(self, op: int) -> int:
        """The recorded entry that op number `op` stands for; -1 = none of its own."""
        return int(self.entry[op])

    @property
    def n_start(self) -> int:
        """Number of allocations live or pending at the start."""
        return int((self.start.blocks["alloc"] >= 0).sum())


# For a program that was changed: what the driver did for the recorded one says nothing of it.
NO_DRIVER = {
    "driver_op": np.zeros(0, np.int64),
    "driver_action": np.zeros(0, np.uint8),
    "driver_addr": np.zeros(0, np.uint64),
    "driver_size": np.zeros(0, np.int64),
}

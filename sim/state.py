"""What a simulation remembers: the fields of its state, of its plan, and how kernels see them.

The plan holds what depends on the requests alone and is shared by all runs of one configuration;
the state is what a run changes. Kernels see both through one View.
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import inline
from .memory import Buffer

# --- counters, s.g[...] -------------------------------------------------------------------------
(
    ALLOCATED,  # bytes in blocks handed out
    PEAK_ALLOCATED,  # until PENDING last changed
    LATEST_PEAK,  # of ALLOCATED since then, so that a malloc need not look at what is pending
    PENDING,  # bytes freed but awaiting another stream; active = allocated + pending
    PEAK_ACTIVE,  # until PENDING last changed
    REQUESTED,  # bytes asked for by active blocks
    PEAK_REQUESTED,
    RESERVED,  # bytes obtained from the driver
    PEAK_RESERVED,
    DEVICE_ALLOCS,
    DEVICE_FREES,
    ALLOC_RETRIES,
    OOMS,
    SYNCS,
    OOM_REJECTIONS,
    FIRST_OOM,  # op index + 1; 0 = none
    FIRST_OOM_BYTES,
    DRIVER_USED,  # reserved bytes in the driver's granularity
    NOW,  # index of the op being carried out
    SPARES,  # number of spare block ids
    SPARES_NEEDED,  # an op may start only with more spares than this
    NEXT_ADDRESS,  # where the driver puts the next segment or reservation
    NEXT_ORDER,  # next creation counter of a segment (or block, release 2.12)
    IN_CAPTURE,
    FIRST_PENDING,  # slots of pending blocks in order of request, plus 1, linked through `later`
    LAST_PENDING,  # and `earlier`; 0 = none
    LOG_ROWS,  # rows the log would have; beyond its capacity they are counted, not written
    SCRIPT_NEXT,  # first unconsumed row of the recorded driver script
    DIVERGED,  # how often the recorded driver was asked for what the recording does not show
    REJECTED,  # the current malloc was rejected before the driver was asked
    HIGHEST_ID,  # of all block ids ever in use
    FRESH,  # number of block ids above it
    # calls of the driver by name, and their bytes, for the time they take (costs.py)
    MALLOCS,  # cudaMalloc
    MALLOC_BYTES,
    FREES,  # cudaFree
    FREE_BYTES,
    CREATES,  # cuMemCreate
    CREATE_BYTES,
    RELEASES,  # cuMemRelease
    RELEASE_BYTES,
    MAPS,  # cuMemMap
    MAP_BYTES,
    ACCESSES,  # cuMemSetAccess
    ACCESS_BYTES,
    UNMAPS,  # cuMemUnmap
    UNMAP_BYTES,
) = range(46)
N_COUNTERS = 64

# --- fixed options of a run, s.opt[...] -----------------------------------------------------------
(
    CAPACITY,  # bytes the driver can give out; huge = never runs out
    GRANULARITY,
    LIMIT,  # allocator's own limit in bytes; huge = none
    THROW_LIMIT,  # throw_on_cudamalloc_oom's limit; huge = off
    RESERVE_BYTES,  # virtual bytes of a new reservation
    MAX_SPLIT,
    MAX_NON_SPLIT_ROUNDING,
    GC_BYTES,  # collect garbage above this many reserved bytes less one; 0 = off
    TIE_BREAK,  # TIE_ADDRESS, TIE_SEGMENT or TIE_BLOCK
    TRACK,  # 1: keep the full statistics
    STOP_AT_OOM,
    CAPTURE_EMPTIES_POOLS,  # 1: empty_cache in capture context releases freeable pools (2.8)
    N_POOLS,
    N_LANES,
    LOG_CAPACITY,
    SCRIPTED,  # 1: the driver answers as the recording says
    SCRIPT_ROWS,
    REFUSES_SMALL_RESERVE,  # 1: a request larger than a fresh reservation fails (2.15)
    EXPANDABLE,  # 1: the setting expandable_segments is on
    MIXED,  # 1: it is off, but the start layout holds expandable memory
    SINGLE_POOL_EMPTY,  # 1: empty_cache knows pool ids (2.8)
    AGES,  # 1: garbage is collected under the conditions of now or later
    BOUND,  # the run is over when more bytes than this are reserved; huge = it is not
) = range(23)
N_OPTIONS = 32
TIE_ADDRESS, TIE_SEGMENT, TIE_BLOCK = 0, 1, 2
HUGE = 1 << 62

# --- block states, low bits of s.tag[...] ---------------------------------------------------------
USED, FREE, UNMAPPED, DEAD = 0, 1, 2, 3
STATE_MASK = 3
IS_EXPANDABLE = 4
OLD_PAGE = 8  # an expandable block of the start layout, in pages of the lane's START_PAGE
KIND_MASK = IS_EXPANDABLE | OLD_PAGE
BIN_SHIFT = 4

# --- rows of the class table: one class = one distinct request ------------------------------------
CLASS_WORDS = 8
# CEILING: from this size on a block is too large to be handed out for the request; huge = never.
NEED, ASKED, SEGMENT, LEAST_REST, LANE, FIRST_BIN, END_BIN, CEILING = range(8)

# --- rows of the lane table: one lane = one pool's blocks of one stream ---------------------------
LANE_WORDS = 16
(
    POOL,  # row of the pool table
    STREAM,  # index into Program.streams
    PAGE,  # bytes of an expandable page
    BINS,  # first bin; a block that holds k of the lane's request sizes belongs in BINS + k
    FRONTIER,  # bin of free blocks that could grow into unmapped space
    CELLS,  # first cell of the rank table
    CELL_BITS,  # cells per octave = 2 ** CELL_BITS
    CELL_ZEROS,  # leading zeros of a number of the first octave: 63 - CELL_BITS
    TOP_UNITS,  # where the rank table ends, in 512-byte units; larger blocks are ranked like that
    EXPANDS,  # 1: new memory of this lane is expandable
    IS_SMALL,  # 1: a lane of the small pool
    START_PAGE,  # bytes of an expandable page of the start layout
    CAPTURED,  # 1: only a capture can ask for memory of this lane
    ROOM,  # bins it has room for, where sizes are not known beforehand (live_plan.py); else 0
) = range(14)

# A cell of a rank table: (bin of its smallest block + 1 << CELL_BIN) - least larger request. Both
# that and a size in units are less than 1 << CELL_BIN, so that the sum of a cell and a size has the
# size's bin in its upper half.
CELL_BIN, CELL_LIMIT = 32, (1 << 32) - 1
TABLE_UNITS = 1 << 31  # a TiB: larger blocks are ranked by steps, not by the table

# --- rows of the pool table (pool number * 2 + large) ---
POOL_WORDS = 8
FIRST_LANE, END_LANE, FREEABLE, CLOCK, HELD = range(5)  # HELD: bytes from the driver

TABLE_SIZE = 64  # addresses of the functions compiled apart, see apart.py
LOG_WORDS = 6  # op, action, addr, size, lane, unused

STATE = Buffer(
    [
        ("g", "i8", N_COUNTERS),
        ("opt", "i8", N_OPTIONS),
        ("table", "i8", TABLE_SIZE),  # addresses of the functions compiled apart, see apart.py
        ("param", "i8", 16),  # a policy's parameters, in the order of their declaration
        ("extra", "i8", 64),  # scratch of hook-based policies, part of the state
        ("spare", "i4", "blocks"),  # stack of block ids in use before
        ("slot", "i4", "slots"),  # block held by a slot, 0 = none
        ("earlier", "i4", "slots"),  # neighbours among the pending ones, plus 1
        ("later", "i4", "slots"),
        ("root", "i4", "bins"),  # heap of a bin, 0 = empty
        ("bits0", "u8", "words0"),  # non-empty bins
        ("bits1", "u8", "words1"),  # words of bits0 that are not empty, or were
        ("unmapped", "i4", "lanes"),  # first unmapped range, by address
        ("pool", "i8", "pools"),  # pool table
        ("stat", "i8", "stats"),
        ("log", "i8", "log"),
        ("scratch", "i4", "blocks"),
        # By row, not by id: pool clock when the block became free (garbage collection).
        ("born", "i4", "blocks"),
    ],
    "blocks",
    [
        ("size", "i8"),  # bytes
        ("addr", "i8"),  # first byte
        ("prev", "i4"),  # neighbours in the segment, 0 = none
        ("next", "i4"),
        ("tag", "i4"),  # bin << 4 | old page << 3 | expandable << 2 | state
        ("back", "i4"),  # left sibling or parent in the heap of its bin
        ("child", "i4"),
        ("sibling", "i4"),  # also links unmapped ranges
        ("order", "i4"),  # age of the segment or block, where addr does not tell it; see ties.py
        ("phase", "i4"),  # expandable: base of the reservation modulo its page size
        ("asked", "i8", "child"),  # used: bytes of the request served
    ],
)
ID_STEP = STATE.step  # from the id of a block to the next one's
PLAN = Buffer(
    [
        ("classes", "i8", "classes"),
        ("lanes", "i8", "lanes"),
        ("limits", "i8", "bins"),  # least request size that is too large for the bin's blocks
        ("lane_of_bin", "i4", "bins"),
        ("cells", "i8", "cells"),  # rank tables: see CELL_BIN
        ("script", "i8", "script"),  # op, action, addr, size per recorded driver call
    ]
)


@inline
def state_of(s, b):
    return s.tag[b] & STATE_MASK


@inline
def is_free(s, b):
    """Whether b, a block that exists or none (0), is free: of these states only FREE is odd."""
    return (s.tag[b] & FREE) != 0


@inline
def lane_of(s, b):
    """Lane of a block: whatever it is, its tag names a bin of the lane."""
    return np.int64(s.lane_of_bin[np.int64(s.tag[b]) >> BIN_SHIFT])


@inline
def page_of(s, b):
    """Bytes of a page of the expandable segment that block b lies in."""
    row = lane_of(s, b) * LANE_WORDS
    if (s.tag[b] & OLD_PAGE) != 0:
        return s.lanes[row + START_PAGE]
    return s.lanes[row + PAGE]


@inline
def is_split(s, b):
    """A block is split if its segment holds another one."""
    return s.prev[b] != 0 or s.next[b] != 0

"""What a live allocator remembers beside its policy's state, and how C functions find it.

A live allocator is a policy called by a running program instead of a replay loop. Its state has one
buffer per device; the root, one short array per process, says where these are. Machine code on disk
must not have addresses of one process in it, so it refers to the root by a name that the linker
resolves.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..traces.errors import ConfigError
from ..traces.jit import JIT, c_function, inline
from .apart import invokers
from .memory import Buffer

MOST_DEVICES = 64
MOST_STREAMS = 1024  # per device; PyTorch itself has at most 129
MOST_LANES = 256  # streams of a device under a policy that keeps them apart
MOST_BLOCKS = 1 << 20  # rows of the policy's ground or state
MOST_CLASSES = 1 << 18  # pairs of size and stream that are known at a time
PAGE = 2 << 20  # bytes; the driver's granularity
SPACE = 1 << 44  # bytes of addresses a device may use; memory is mapped only where it is needed
UNPREPARED = -1  # what SERVE returns of a request that Python must be asked about first

# --- words of the root ---
(
    WAKE,  # C function: device -> address of its LIVE buffer, 0 = there cannot be one
    YIELD,  # C function: lets another thread run
    MESSAGE,  # address and length of what an out-of-memory error says
    MESSAGE_LENGTH,
    MESSAGE_NUMBER,  # where in it the request's bytes are written
    NO_POOLS,  # what is said about private pools, zero-terminated
    CHECK_FAIL,  # how errors are thrown, see live_errors.py; 0 = not at all
    OOM_CONSTRUCTOR,
    OOM_TYPE,
    OOM_VTABLE,  # what makes a plain error one of this type, where it has no constructor; else 0
    CXA_ALLOCATE,
    CXA_THROW,
    OPERATOR_NEW,
    MEMCPY,
) = range(14)
FIRST_DEVICE = 16  # addresses of the LIVE buffers, 0 = none yet
ROOT_WORDS = FIRST_DEVICE + MOST_DEVICES

# --- words of a LIVE buffer ---
(
    LOCK,
    SERVE,  # C functions of the kind of policy, see live_mechanism.py and live_hooks.py
    TAKE_BACK,
    GIVE_BACK,
    KEEP,
    PREPARE,  # C function: (bytes, stream) -> 1 = now known, 0 = cannot be; only for UNPREPARED
    STATE_AT,  # address of the policy's ground, or of its state
    PLAN_AT,  # of its plan, if it has one
    ALLOCATE,  # the policy's calls, compiled apart
    FREE,
    TRIM,
    KEEPS_STREAMS,  # 1: the policy has a lane for each stream
    BASE,  # real address that stands for FIRST_ADDRESS
    SPACE_BYTES,
    KIND,  # STAND_IN or CUDA
    MAP,  # C functions; of the stand-in mprotect and madvise, else the driver's
    UNMAP,
    CREATE,
    RELEASE,
    SET_ACCESS,
    SYNCHRONIZE,
    PUSH,  # make the context in CONTEXT current, and undo it
    POP,
    CONTEXT,
    HANDLE,  # room for a result
    N_STREAMS,
    EPOCH,  # number of waits for the whole device so far, plus one
    SWEEP,  # number of searches for pages nobody needs
    MAPPED,  # pages mapped
    PEAK_MAPPED,
    HIGH_PAGE,  # one more than the last page ever mapped
    LIVE_BLOCKS,
    WAITS,  # waits because memory went from one stream to another
    UNKNOWN_FREES,  # addresses that are none of ours
    REFUSED_ROWS,  # requests refused because a table is full
    REFUSED_STREAMS,
    REFUSED_SPACE,
    REFUSED_PAGES,  # the driver had less than was promised
    REFUSED_SIZES,  # sizes that could not be made known
    POOLS,  # private pools asked for
    N_CLASSES,  # of a plan that grows: classes so far, the empty one included
    N_BINS,  # bins that lanes have room for, bin 0 included
) = range(42)
STAND_IN, CUDA = 0, 1
_call0 = invokers[0]

ENTRY_WORDS = 4  # of the table of addresses, see live_table.py
ENTRIES = 2 * MOST_BLOCKS
KNOWN_WORDS = 2  # of the table of known requests, see live_plan.py: size and stream, class

LIVE = Buffer(
    [
        ("word", "i8", 64),
        ("properties", "i8", 8),  # CUmemAllocationProp
        ("access", "i8", 4),  # CUmemAccessDesc
        ("stream", "i8", MOST_STREAMS),  # handles, in the order of their appearance
        ("table", "i8", "entries"),
        ("page", "i8", "pages"),  # the driver's handle of the memory there, 0 = not mapped
        ("freed", "i8", "pages"),  # epoch << 16 | stream that last freed here; MANY = several
        ("kept", "i4", "pages"),  # the last sweep that found it needed
        ("known", "i8", "known"),  # requests known so far, see live_plan.py
    ]
)
MANY = 0xFFFF

Live = namedtuple("Live", [f[0] for f in LIVE.fields])

_fixed = dict(zip([f[0] for f in LIVE.fields], LIVE.fixed_offsets(), strict=False))
WORDS_AT, PROPERTIES_AT, ACCESS_AT = _fixed["word"], _fixed["properties"], _fixed["access"]


@inline
def first_page(offset):
    """Number of the page in which a block at an offset of the region begins."""
    return offset // PAGE


@inline
def end_page(offset, size):
    """One more than the number of the page in which a block of `size` bytes ends."""
    return (offset + size - 1) // PAGE + 1


def new_live() -> np.ndarray:
    """An empty LIVE buffer; what nobody touches of its 300 MiB takes no memory."""
    buffer = LIVE.new(
        entries=ENTRIES * ENTRY_WORDS, pages=SPACE // PAGE, known=2 * MOST_CLASSES * KNOWN_WORDS
    )
    word = LIVE.views(buffer)["word"]
    word[EPOCH] = word[N_CLASSES] = word[N_BINS] = 1
    return buffer


if JIT and not TYPE_CHECKING:
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    from .memory import i4_at, i8_at

    ROOT_SYMBOL = "tightfit_live_root"
    _WORD = ir.IntType(64)

    @intrinsic
    def root_address(typingctx):  # noqa: ANN001, ANN201
        """Address of this process's root, which the linker knows by name."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            there = builder.module.globals.get(ROOT_SYMBOL)
            there = there or ir.GlobalVariable(builder.module, _WORD, ROOT_SYMBOL)
            return builder.ptrtoint(there, _WORD)

        return types.int64(), codegen

    @intrinsic
    def try_lock(typingctx, address):  # noqa: ANN001, ANN201
        """Set the word at an address from 0 to 1; whether it was 0."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            at = builder.inttoptr(args[0], _WORD.as_pointer())
            done = builder.cmpxchg(at, _WORD(0), _WORD(1), "acquire", "monotonic")
            return builder.extract_value(done, 1)

        return types.boolean(types.int64), codegen

    @intrinsic
    def unlock(typingctx, address):  # noqa: ANN001, ANN201
        """Set the word at an address to 0; what was written before is seen by who locks next."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            at = builder.inttoptr(args[0], _WORD.as_pointer())
            builder.store_atomic(_WORD(0), at, "release", 8)
            return context.get_dummy_value()

        return types.void(types.int64), codegen

    def _constructor() -> Any:
        fields = [f"{code}_at(a, s[{1 + k}])" for k, (_, code, _) in enumerate(LIVE.fields)]
        namespace: dict[str, Any] = {
            "Live": Live, "zero": np.int64(0), "i8_at": i8_at, "i4_at": i4_at,
        }  # fmt: skip
        exec(  # spelt out from the declared fields, so that their order is written down once
            f"def live_at(a):\n    s = i8_at(a, zero)\n    return Live({', '.join(fields)})\n",
            namespace,
        )
        return inline(namespace["live_at"])

    live_at = _constructor()

    @inline
    def root():
        """The root's words."""
        return i8_at(root_address(), np.int64(0))

    def c_functions_of(*functions: tuple[Callable[..., Any], str, tuple[str, ...]]) -> Any:
        """C functions by name, compiled or found on disk, each with its `address`.

        Args:
            functions: each with what it returns and takes, "i8" and "i4" integers; "" is nothing.
        """
        kinds = {"i8": types.int64, "i4": types.int32, "": types.void}
        return {
            function.__name__: c_function(kinds[returns](*[kinds[code] for code in takes]))(
                function
            )
            for function, returns, takes in functions
        }

    def publish_root(words: np.ndarray) -> None:
        """Let the linker find the root; once per process, before any C function is loaded.

        Args:
            words: shape (ROOT_WORDS,) int64; must live as long as the process.
        """
        from llvmlite import binding

        binding.add_symbol(ROOT_SYMBOL, words.ctypes.data)

else:

    def _needs_compiling(*_: Any) -> Any:
        raise ConfigError("a live policy runs as compiled code; unset NUMBA_DISABLE_JIT")

    try_lock = unlock = live_at = root = c_functions_of = publish_root = _needs_compiling


@inline
def lock_device(at):
    """Wait until nobody else is at the device whose state is at an address."""
    while not try_lock(at + WORDS_AT + 8 * LOCK):
        _call0(root()[YIELD])


@inline
def unlock_device(at):
    """Let the next one to the device."""
    unlock(at + WORDS_AT + 8 * LOCK)

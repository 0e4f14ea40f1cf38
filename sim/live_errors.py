"""Errors of a live allocator, thrown into the program that called it.

PyTorch 2.15 does not look at what an allocator of the user's returns: after a null pointer a tensor
has no memory, and its first kernel fails. So an allocation that cannot be served throws what
PyTorch's own allocator throws, c10::OutOfMemoryError, through PyTorch's and the compiler's exported
functions. Where those are not to be had (another processor, another build), torchCheckFail throws
an ordinary error with the same words; where there is no PyTorch at all, null is returned.

Source: c10/util/Exception.h; the calling convention of classes on x86-64 (Itanium C++ ABI, 3.1.2)
"""

from __future__ import annotations

import numpy as np

from ..traces.jit import helper
from .apart import invokers
from .live_state import (
    CHECK_FAIL,
    CXA_ALLOCATE,
    CXA_THROW,
    MEMCPY,
    MESSAGE,
    MESSAGE_LENGTH,
    MESSAGE_NUMBER,
    NO_POOLS,
    OOM_CONSTRUCTOR,
    OOM_TYPE,
    OOM_VTABLE,
    OPERATOR_NEW,
    root,
)
from .memory import i8_at

ROOM = 1024  # bytes for the error object; it has some 200
DIGITS = 16  # of the number in the message
BLANKS = 0x2020202020202020
call1, call3, call4, call9 = (invokers[n] for n in (1, 3, 4, 9))


@helper
def _write_number(at, number):
    """Write a number into 16 bytes, blanks before it."""
    low, high = np.int64(0), np.int64(0)
    n = number
    for k in range(DIGITS):
        digit = np.int64(32)
        if n > 0 or k == 0:
            digit = 48 + n % 10
            n //= 10
        if k < 8:
            high |= digit << (8 * (7 - k))
        else:
            low |= digit << (8 * (15 - k))
    i8_at(at, np.int64(0))[0] = low
    i8_at(at, np.int64(8))[0] = high


@helper
def throw_out_of_memory(size):
    """Throw that a request of `size` bytes cannot be served; return where nobody could catch it."""
    r = root()
    if r[CHECK_FAIL] == 0:
        return
    n = r[MESSAGE_LENGTH]
    text = call1(r[OPERATOR_NEW], n + 1)
    call3(r[MEMCPY], text, r[MESSAGE], n + 1)
    _write_number(text + r[MESSAGE_NUMBER], size)
    name = r[MESSAGE] + n  # an empty text, for function and file
    if r[OOM_CONSTRUCTOR] == 0:
        call4(r[CHECK_FAIL], name, name, 0, text)
        return
    error = call1(r[CXA_ALLOCATE], ROOM)
    string = call1(r[OPERATOR_NEW], 32)  # a std::string: where, length, room; the error takes it
    i8_at(string, np.int64(0))[0] = text
    i8_at(string, np.int64(8))[0] = n
    i8_at(string, np.int64(16))[0] = n
    # The SourceLocation is passed by value: its words follow the six arguments in registers.
    call9(r[OOM_CONSTRUCTOR], error, string, 0, 0, 0, 0, name, name, 0)
    if r[OOM_VTABLE] != 0:
        i8_at(error, np.int64(0))[0] = r[OOM_VTABLE]
    call3(r[CXA_THROW], error, r[OOM_TYPE], 0)


@helper
def throw_no_pools():
    """Throw that private pools are not to be had."""
    r = root()
    if r[CHECK_FAIL] != 0:
        call4(r[CHECK_FAIL], r[NO_POOLS], r[NO_POOLS], 0, r[NO_POOLS])

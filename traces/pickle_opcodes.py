"""The pickle opcodes a memory snapshot may contain, as tables; every other opcode is refused.

Allowed is what CPython's picklers (protocols 2 to 5) and TorchScript's pickler write for dicts,
lists, tuples, strings, bytes, integers, floats, booleans and None. Nothing in the list can import
a name, call a function or refer to anything outside the file.

Source: Lib/pickletools.py of CPython; torch/csrc/jit/serialization/pickler.cpp.
"""

from __future__ import annotations

import pickletools

import numpy as np

# What an opcode means for the reader.
UNKNOWN, RUNS_CODE, TEXTUAL, UNUSED, PLAIN, MARK, TO_MARK, PUT, STOP, PROTO, FRAME = range(11)
ALLOWED = PLAIN  # this and everything after it is allowed

BINFLOAT, BININT, BININT1, BININT2, LONG1, LONG4 = 0x47, 0x4A, 0x4B, 0x4D, 0x8A, 0x8B
NONE, NEWTRUE, NEWFALSE = 0x4E, 0x88, 0x89
SHORT_BINUNICODE, BINUNICODE, BINUNICODE8 = 0x8C, 0x58, 0x8D
SHORT_BINBYTES, BINBYTES, BINBYTES8 = 0x43, 0x42, 0x8E
EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE = 0x7D, 0x5D, 0x29
TUPLE, TUPLE1, TUPLE2, TUPLE3 = 0x74, 0x85, 0x86, 0x87
APPEND, APPENDS, SETITEM, SETITEMS = 0x61, 0x65, 0x73, 0x75
BINGET, LONG_BINGET, BINPUT, LONG_BINPUT, MEMOIZE = 0x68, 0x6A, 0x71, 0x72, 0x94
OP_MARK, OP_STOP, OP_PROTO, OP_FRAME = 0x28, 0x2E, 0x80, 0x95

# opcode: (bytes of argument or of its length, is it a length?, items taken, items left)
_PLAIN = {
    NONE: (0, 0, 0, 1), NEWTRUE: (0, 0, 0, 1), NEWFALSE: (0, 0, 0, 1),
    BININT1: (1, 0, 0, 1), BININT2: (2, 0, 0, 1), BININT: (4, 0, 0, 1),
    LONG1: (1, 1, 0, 1), LONG4: (4, 1, 0, 1), BINFLOAT: (8, 0, 0, 1),
    SHORT_BINUNICODE: (1, 1, 0, 1), BINUNICODE: (4, 1, 0, 1), BINUNICODE8: (8, 1, 0, 1),
    SHORT_BINBYTES: (1, 1, 0, 1), BINBYTES: (4, 1, 0, 1), BINBYTES8: (8, 1, 0, 1),
    EMPTY_DICT: (0, 0, 0, 1), EMPTY_LIST: (0, 0, 0, 1), EMPTY_TUPLE: (0, 0, 0, 1),
    TUPLE1: (0, 0, 1, 1), TUPLE2: (0, 0, 2, 1), TUPLE3: (0, 0, 3, 1),
    APPEND: (0, 0, 2, 1), SETITEM: (0, 0, 3, 1),
    BINGET: (1, 0, 0, 1), LONG_BINGET: (4, 0, 0, 1),
}  # fmt: skip

# These import, call, or hand over to whoever reads the file.
_RUNS_CODE = {
    "GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD",
    "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID",
}  # fmt: skip
# Protocol 0, or Python 2 strings: no release of PyTorch writes its snapshots so.
_TEXTUAL = {"INT", "LONG", "FLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "GET"}
_TEXTUAL |= {"PUT", "DICT", "LIST"}


def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    what = np.full(256, UNKNOWN, np.int64)
    width, counted, takes, leaves = (np.zeros(256, np.int64) for _ in range(4))
    for op in pickletools.opcodes:
        code = ord(op.code)
        if op.name in _RUNS_CODE:
            what[code] = RUNS_CODE
        elif op.name in _TEXTUAL:
            what[code] = TEXTUAL
        else:
            what[code] = UNUSED
    for code, row in _PLAIN.items():
        what[code] = PLAIN
        width[code], counted[code], takes[code], leaves[code] = row
    for code in (TUPLE, APPENDS, SETITEMS):
        what[code] = TO_MARK
    for code, bytes_ in ((BINPUT, 1), (LONG_BINPUT, 4), (MEMOIZE, 0)):
        what[code], width[code], takes[code], leaves[code] = PUT, bytes_, 1, 1
    what[OP_MARK], what[OP_STOP], what[OP_PROTO], what[OP_FRAME] = MARK, STOP, PROTO, FRAME
    width[OP_PROTO], width[OP_FRAME] = 1, 8
    return what, width, counted, takes, leaves


WHAT, WIDTH, COUNTED, TAKES, LEAVES = _tables()
NAMES = {ord(op.code): op.name for op in pickletools.opcodes}

"""One flat buffer per simulation: raw pointers to compiled code, NumPy views to Python.

A NumPy array inside a tuple costs an atomic reference count at every call it crosses (measured:
a factor of 5 to 50 for this kernel); a raw pointer costs nothing. And as one buffer is one
simulation, a checkpoint is one copy.

With NUMBA_DISABLE_JIT the same code runs interpreted on the NumPy views, bounds checks included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..traces.jit import JIT, inline

ALIGN = 64  # bytes; every field starts on a cache line
WORD = 8  # bytes

if JIT and not TYPE_CHECKING:
    import operator

    from llvmlite import ir
    from numba import types
    from numba.core.typing.templates import AbstractTemplate, infer_global, signature
    from numba.extending import intrinsic, lower_builtin, models, register_model

    @intrinsic
    def count_trailing_zeros(typingctx, x):  # noqa: ANN001, ANN201
        """Number of trailing zero bits of a non-zero uint64."""

        def codegen(context, builder, signature, args):  # noqa: ANN001, ANN202
            return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

        return types.int64(types.uint64), codegen

    @intrinsic
    def count_leading_zeros(typingctx, x):  # noqa: ANN001, ANN201
        """Number of leading zero bits of a positive int64."""

        def codegen(context, builder, signature, args):  # noqa: ANN001, ANN202
            return builder.ctlz(args[0], ir.Constant(ir.IntType(1), 1))

        return types.int64(types.int64), codegen

    @intrinsic
    def is_less(typingctx, high, low, high2, low2):  # noqa: ANN001, ANN201
        """Whether the pair (high, low) comes before (high2, low2), in two instructions."""

        def codegen(context, builder, signature, args):  # noqa: ANN001, ANN202
            pair = ir.IntType(128)
            high, low, high2, low2 = (builder.zext(x, pair) for x in args)
            half = ir.Constant(pair, 64)
            one, other = builder.shl(high, half), builder.shl(high2, half)
            return builder.icmp_unsigned("<", builder.or_(one, low), builder.or_(other, low2))

        return types.boolean(*[types.int64] * 4), codegen

    @intrinsic
    def prefetch(typingctx, pointer, index):  # noqa: ANN001, ANN201
        """Start to load pointer[index] into the cache; it need not exist."""

        def codegen(context, builder, signature, args):  # noqa: ANN001, ANN202
            kind = signature.args[0]
            if isinstance(kind, Column):
                at = _cell(context, builder, kind, *args)
            else:
                at = builder.gep(args[0], [args[1]])
            byte = ir.IntType(8).as_pointer()
            word = ir.IntType(32)
            name = "llvm.prefetch.p0"
            function = builder.module.globals.get(name) or ir.Function(
                builder.module, ir.FunctionType(ir.VoidType(), [byte, word, word, word]), name
            )
            builder.call(function, [builder.bitcast(at, byte), word(0), word(3), word(1)])
            return context.get_dummy_value()

        return types.none(pointer, types.int64), codegen

    def _pointer(element: Any) -> Any:
        result = types.CPointer(element)

        @intrinsic
        def at(typingctx, base, offset):  # noqa: ANN001, ANN201
            """Pointer to `element`s at base + offset bytes."""

            def codegen(context, builder, signature, args):  # noqa: ANN001, ANN202
                address = builder.add(args[0], args[1])
                return builder.inttoptr(address, context.get_value_type(result))

            return result(types.int64, types.int64), codegen

        return at

    i8_at, u8_at = _pointer(types.int64), _pointer(types.uint64)
    i4_at, f8_at = _pointer(types.int32), _pointer(types.float64)

    class Column(types.Type):
        """Pointer to a table of records, of which it means one column; an index is a record's id.

        All columns of a table are one and the same pointer, so that a loop needs one register.
        """

        def __init__(self, element: Any, offset: int) -> None:
            self.element, self.offset = element, offset
            super().__init__(name=f"Column[{element}, {offset}]")

    register_model(Column)(models.OpaqueModel)

    @infer_global(operator.getitem)
    class _GetItem(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            column, index = args
            if isinstance(column, Column) and isinstance(index, types.Integer):
                return signature(column.element, column, types.int64)

    @infer_global(operator.setitem)
    class _SetItem(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            column, index, value = args
            if isinstance(column, Column) and isinstance(index, types.Integer):
                return signature(types.none, column, types.int64, column.element)

    def _cell(context: Any, builder: Any, column: Any, pointer: Any, index: Any) -> Any:
        word = ir.IntType(64)
        row = builder.mul(index, ir.Constant(word, WORD))
        offset = builder.add(row, ir.Constant(word, column.offset))
        at = builder.gep(pointer, [offset], source_etype=ir.IntType(8))
        return builder.bitcast(at, context.get_value_type(column.element).as_pointer())

    @lower_builtin(operator.getitem, Column, types.int64)
    def _get(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_cell(context, builder, sig.args[0], *args))

    @lower_builtin(operator.setitem, Column, types.int64, types.Any)
    def _set(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer, index, value = args
        builder.store(value, _cell(context, builder, sig.args[0], pointer, index))
        return context.get_dummy_value()

    def column(code: str, offset: int) -> Any:
        """Make `at(table)`: the column `offset` bytes into each record of the table there."""
        result = Column({"i8": types.int64, "i4": types.int32}[code], offset)

        @intrinsic
        def at(typingctx, table):  # noqa: ANN001, ANN201
            def codegen(context, builder, signature, args):  # noqa: ANN001, ANN202
                return builder.inttoptr(args[0], context.get_value_type(result))

            return result(types.int64), codegen

        return at

    @intrinsic
    def address_of(typingctx, array):  # noqa: ANN001, ANN201
        """Address of an array's first byte, as int64."""

        def codegen(context, builder, signature, args):  # noqa: ANN001, ANN202
            from numba.np.arrayobj import make_array

            data = make_array(signature.args[0])(context, builder, args[0]).data
            return builder.ptrtoint(data, ir.IntType(64))

        return types.int64(array), codegen

    @inline
    def words_of(array):  # noqa: ANN001, ANN201
        """An int64 array as a pointer: no negative indices to make up for."""
        return i8_at(address_of(array), np.int64(0))

else:

    def i8_at(base: Any, offset: Any) -> Any:
        """Of compiled code alone: an address means nothing here."""
        raise NotImplementedError

    def count_trailing_zeros(x: np.uint64) -> int:
        """Number of trailing zero bits of a non-zero uint64."""
        return (int(x) & -int(x)).bit_length() - 1

    def is_less(high: int, low: int, high2: int, low2: int) -> bool:
        """Whether the pair (high, low), neither negative, comes before (high2, low2)."""
        return (int(high), int(low)) < (int(high2), int(low2))

    def prefetch(pointer: np.ndarray, index: Any) -> None:
        """Nothing to start."""

    def words_of(array: np.ndarray) -> np.ndarray:
        """The array itself."""
        return array

    def count_leading_zeros(x: int) -> int:
        """Number of leading zero bits of a positive int64."""
        return 64 - int(x).bit_length()


@inline
def highest_bit(x):
    """Index of the highest set bit of a positive int64."""
    return 63 - count_leading_zeros(x)


class Buffer:
    """A layout of named typed fields, and perhaps a table of records, over one flat int64 buffer.

    Word 0 of a buffer holds its size in bytes, word 1 + k the byte offset of field k, so that
    compiled code finds the fields from the buffer's address alone; a table has one offset. The
    columns of a record lie side by side. A record is known by an id: where it lies in the table, in
    words, which the processor adds to an address without further ado. Record 0 is nobody's.

    Args:
        fields: (name, NumPy type code "i8"/"u8"/"i4"/"f8", length: a number or a dimension name).
        records: the dimension that counts the table's rows.
        columns: (name, type code "i8"/"i4") of the table's columns; one that begins where another
            does, as they are never in use together, also names that one.

    Attributes:
        step: words of a record, and from one id to the next.
    """

    def __init__(
        self,
        fields: list[tuple[str, str, int | str]],
        records: str = "",
        columns: Sequence[tuple[str, ...]] = (),
    ) -> None:
        self.fields, self.records = fields, records
        self.columns = [(c[0], c[1]) for c in columns]
        self.names = [f[0] for f in fields] + [c[0] for c in columns]
        offset_of: dict[str, int] = {}
        end = 0
        for name, code, *over in columns:
            offset_of[name] = offset_of[over[0]] if over else end
            end = max(end, offset_of[name] + np.dtype(code).itemsize)
        self.column_offsets = list(offset_of.values())
        self.step = -(-end // WORD)
        # The next run's dimensions are often the same.
        self._header = lru_cache(64)(self._made_header)
        n = len(fields)
        last = n - 1 + bool(records)
        codes = [np.dtype(f[1]) for f in fields] + [np.dtype(c[1]) for c in self.columns]
        # Of each name: which words of the header hold its first byte and the one behind it, its
        # type, and which of the values between are its own.
        self.places = {
            name: (
                1 + min(k, n),
                2 + k if k < last else 0,
                codes[k],
                slice(None)
                if k < n
                else slice(self.column_offsets[k - n] // codes[k].itemsize, None,
                           WORD // codes[k].itemsize),
            )
            for k, name in enumerate(self.names)
        }  # fmt: skip

    def _offsets(self, dimensions: dict[str, int]) -> list[int]:
        """Byte offset of each field and of the table, and the buffer's size."""
        spans = [
            (length if isinstance(length, int) else dimensions[length]) * np.dtype(code).itemsize
            for _, code, length in self.fields
        ]
        if self.records:
            spans.append(dimensions[self.records] * self.step * WORD)
        offset = -(-(len(spans) + 1) * 8 // ALIGN) * ALIGN
        offsets = [offset]
        for span in spans:
            offset += -(-span // ALIGN) * ALIGN
            offsets.append(offset)
        return offsets

    def fixed_offsets(self) -> list[int]:
        """Byte offsets of the leading fields whose place does not depend on any dimension."""
        n = next((k for k, f in enumerate(self.fields) if isinstance(f[2], str)), len(self.fields))
        dimensions = {f[2]: 0 for f in self.fields[n:] if isinstance(f[2], str)}
        return self._offsets({**dimensions, self.records: 0})[: n + 1]

    def new(self, **dimensions: int) -> np.ndarray:
        """Return a zeroed buffer, aligned to a cache line."""
        header = self._header(**dimensions)
        buffer = _aligned(int(header[0]))
        buffer[: len(header)] = header
        return buffer

    def _made_header(self, **dimensions: int) -> np.ndarray:
        """First words of a buffer of such dimensions."""
        *offsets, size = self._offsets(dimensions)
        header = np.array([size, *offsets], np.int64)
        header.flags.writeable = False
        return header

    def renew(self, buffer: np.ndarray, end: int, **dimensions: int) -> bool:
        """Make a used buffer as `new` would make it; False if its dimensions are others.

        Args:
            buffer: modified in place.
            end: id behind the last record that may have been written.
            dimensions: as for `new`.
        """
        header = self._header(**dimensions)
        n = len(header)
        if buffer[:n].tobytes() != header.tobytes():
            return False
        table = int(header[-1]) >> 3
        buffer[n:table] = 0
        buffer[table : table + end] = 0
        return True

    def views(self, buffer: np.ndarray) -> Fields:
        """Return the fields of a buffer as NumPy views (padding included at their ends)."""
        return Fields(self, buffer)


def copied(buffer: np.ndarray) -> np.ndarray:
    """Return a copy of a buffer, aligned like it."""
    new = _aligned(len(buffer) * 8)
    new[:] = buffer
    return new


def _aligned(size: int) -> np.ndarray:
    """`size` zero bytes as int64 words, starting at a multiple of ALIGN."""
    raw = np.zeros((size + ALIGN) // 8, np.int64)
    shift = (-raw.ctypes.data % ALIGN) // 8
    return raw[shift : shift + size // 8]


class Fields(Mapping[str, np.ndarray]):
    """The fields and columns of one buffer by name; each view is made when it is first asked for.

    Attributes:
        buffer: shape (n,) int64.
    """

    def __init__(self, layout: Buffer, buffer: np.ndarray) -> None:
        self._layout, self.buffer = layout, buffer
        self._made: dict[str, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        view = self._made.get(name)
        if view is None:
            start, end, code, own = self._layout.places[name]
            buffer = self.buffer
            low, high = int(buffer[start]) >> 3, int(buffer[end]) >> 3
            view = self._made[name] = buffer[low:high].view(code)[own]
        return view

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.names)

    def __len__(self) -> int:
        return len(self._layout.names)

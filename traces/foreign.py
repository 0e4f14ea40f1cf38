"""Traces of other tools: what kind a text file is, its first lines say.

Such recordings have allocations and frees but no segments; their findings say what their format
cannot tell. A further format is one module with a reader and two lines here.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from .errors import TraceError, did_you_mean
from .kineto import read_kineto
from .lifetimes_csv import is_lifetimes, read_lifetimes
from .plain_csv import read_plain_csv
from .recording import Recording
from .rmm_log import COLUMNS, read_rmm_log
from .stalloc_log import LIKE_ROW, MARK, read_stalloc_log
from .text_lines import header_of, lines

TABLES = {
    "an RMM log": COLUMNS,
    "lifetimes (minimalloc)": ("id", "lower", "upper", "size"),
    "plain CSV": ("action", "id", "size"),
}


def read_foreign(head: bytes, chunks: Iterable[bytes], name: str) -> Recording | None:
    """Read a file of another tool's format.

    Args:
        head: the first bytes of the file, at least 512 where it has them.
        chunks: the rest.
        name: file name, shown in messages.

    Returns:
        None if no importer knows the format.

    Raises:
        TraceError: an importer knows it and the file is broken; the message says where.
    """
    content = chain([head], chunks)
    try:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"["):
            return read_kineto(_without_mark(content), name)
        first = _first_lines(head)
        header = header_of(first[0]) if first else []
        if set(COLUMNS) <= set(header):
            return read_rmm_log(content, name)
        if is_lifetimes(header):
            return read_lifetimes(first[0], content, name)
        if {"action", "id"} <= set(header):
            return read_plain_csv(content, name)
        rows = [line for line in first if not MARK.match(line)]
        if rows and LIKE_ROW.fullmatch(rows[0]):
            return read_stalloc_log(content, name)
        _refuse_almost(header)
    except TraceError as error:
        own = f"{name}: "  # already there where unpacking failed
        raise TraceError(own + str(error).removeprefix(own)) from None
    except MemoryError:
        raise TraceError(f"{name}: not enough memory to read it") from None
    return None


def _refuse_almost(header: list[str]) -> None:
    """Refuse a table that has most columns of a format.

    Raises:
        TraceError: it has; the message names the column that it lacks.
    """
    for tool, columns in TABLES.items():
        lacks = [column for column in columns if column not in header]
        if 0 < len(lacks) <= len(columns) // 3:
            raise TraceError(
                f"line 1: found the columns {','.join(header)[:80]}, expected those of {tool}, "
                f"{','.join(columns)}; '{lacks[0]}' is missing{did_you_mean(lacks[0], header)}"
            )


def _first_lines(head: bytes) -> list[str]:
    """Return the whole lines within the first bytes; nothing if those are no text."""
    whole, newline, rest = head.rpartition(b"\n")
    try:
        return [line for _, line in lines([whole if newline else rest])]
    except TraceError:
        return []


def _without_mark(content: Iterable[bytes]) -> Iterable[bytes]:
    """Leave out the mark with which some editors begin a UTF-8 file."""
    is_first = True
    for chunk in content:
        yield chunk.removeprefix(b"\xef\xbb\xbf") if is_first else chunk
        is_first = False

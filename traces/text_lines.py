"""Lines of a text file that comes in pieces, and tables of comma-separated values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .errors import TraceError, did_you_mean

LONGEST_LINE = 65_536  # bytes


def lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of each line that is not blank.

    Raises:
        TraceError: a line is longer than LONGEST_LINE, or not UTF-8.
    """
    number, rest = 0, b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            number += 1
            text = _text(line, number)
            if text:
                yield number, text
        _check_length(rest, number + 1)
    text = _text(rest, number + 1)
    if text:
        yield number + 1, text


def _text(line: bytes, number: int) -> str:
    _check_length(line, number)
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError:
        raise TraceError(f"line {number:,}: found bytes that are not text: {line[:16]!r}") from None


def _check_length(line: bytes, number: int) -> None:
    if len(line) > LONGEST_LINE:
        raise TraceError(
            f"line {number:,}: found more than {LONGEST_LINE:,} bytes in one line, "
            f"starting with {line[:24]!r}"
        )


def header_of(line: str) -> list[str]:
    """Return the column names of a table's first line, in lower case."""
    return [name.strip().strip('"').lower() for name in line.split(",")]


def table(
    chunks: Iterable[bytes], needed: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, values) of a table, in the order of `needed` and `optional`.

    Other columns are ignored; an absent optional one reads as "".

    Raises:
        TraceError: a needed column is missing or named twice, or a line has other columns.
    """
    rows = lines(chunks)
    number, first = next(rows, (1, ""))
    header = header_of(first)
    for name in (*needed, *optional):
        if header.count(name) > 1 or (name in needed and name not in header):
            found = "twice" if name in header else "not at all" + did_you_mean(name, header)
            raise TraceError(
                f"line {number:,}: expected the column '{name}' once, found it {found}"
            )
    at = [header.index(name) if name in header else -1 for name in (*needed, *optional)]
    for number, line in rows:
        values = line.split(",")
        if len(values) != len(header):
            raise TraceError(
                f"line {number:,}: found {len(values)} values, expected {len(header)} "
                f"({','.join(header)[:80]})"
            )
        yield number, [values[k] if k >= 0 else "" for k in at]

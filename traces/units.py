"""Byte units: constants, parsing of "24GiB", formatting of 25769803776."""

from __future__ import annotations

import re

from .errors import ConfigError

KiB, MiB, GiB, TiB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_SUFFIX = {
    "": 1, "b": 1,
    "k": KiB, "kib": KiB, "kb": 1000,
    "m": MiB, "mib": MiB, "mb": 1000**2,
    "g": GiB, "gib": GiB, "gb": 1000**3,
    "t": TiB, "tib": TiB, "tb": 1000**4,
}  # fmt: skip


def round_up(size: int, quantum: int) -> int:
    """Round a size up to a multiple of quantum (both in bytes)."""
    return -(-size // quantum) * quantum


def parse_bytes(text: str, where: str = "size") -> int:
    """Parse a positive size such as "24GiB", "512 MiB", "40G" or "1073741824".

    K, M, G and T are binary, as in PyTorch's messages; kB, MB, GB, TB are decimal.

    Raises:
        ConfigError: the text is not a positive size.
    """
    m = re.fullmatch(r"\s*(\d+(?:_\d+)*(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    factor = _SUFFIX.get(m.group(2).lower()) if m else None
    value = 0
    if m and factor:
        whole, point, part = m.group(1).replace("_", "").partition(".")
        whole = whole.lstrip("0") or "0"
        if len(whole) <= 19:  # as 2**62 has; int() refuses thousands, and floats overflow
            value = int(float(whole + point + part) * factor) if point else int(whole) * factor
    if value <= 0 or value >= 1 << 62:
        raise ConfigError(
            f"{where}: found {shortened(text)!r}, expected a size such as 24GiB or 1073741824"
        )
    return value


def shortened(text: str, most: int = 60) -> str:
    """A text as a message shows it: of thousands of characters the first few."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def parse_memory(text: str, where: str) -> int:
    """Parse memory of a GPU: as `parse_bytes`, but a few bytes are taken for a forgotten unit.

    Raises:
        ConfigError: the text is not a positive size, or a number below 1 MiB without a unit.
    """
    size = parse_bytes(text, where)
    meant = with_its_unit(text, size)
    if meant:
        raise ConfigError(
            f"{where}: found {size:,} bytes, expected memory of a GPU; did you mean {meant}?"
        )
    return size


def with_its_unit(text: str, size: int) -> str:
    """What was meant by memory of a GPU that would be a few bytes for want of a unit; else ""."""
    number = text.strip()
    if size >= MiB or number[-1].isalpha():
        return ""
    return number + ("GiB" if size < 1024 else "MiB")  # as on a data sheet; as in nvidia-smi


def exact_bytes(size: int) -> str:
    """Write a size without loss, as `parse_bytes` reads it, in the largest unit that divides it.

    Decimal units are for what binary ones of a MiB and more do not divide, such as 80GB.
    """
    units = ((GiB, "GiB"), (MiB, "MiB"), (10**9, "GB"), (10**6, "MB"), (KiB, "KiB"))
    for unit, name in units:
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{size}"


def format_bytes(size: int) -> str:
    """Format a size for people: MiB below 10 GiB, GiB above, bytes below 1 MiB."""
    if abs(size) >= 10 * GiB:
        return f"{size / GiB:,.2f} GiB"
    if abs(size) >= MiB:
        return f"{size / MiB:,.1f} MiB"
    return f"{size:,} B"

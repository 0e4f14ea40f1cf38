"""Numbers as PyTorch's parser reads them: by the rules of C's strtol family, not Python's.

They stop at the first character that does not belong to the number ("20.7" is the integer 20,
"64MB" is 64), wrap negative unsigned numbers around, and refuse what does not fit.

Source: the C and C++ standard libraries (glibc strtoull, strtol and strtod; libstdc++ stoull, stoi,
stod and the stream extraction of a double), as c10/core/AllocatorConfig.h and
c10/cuda/CUDAAllocatorConfig.cpp call them on Linux.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

U64 = 1 << 64
_SPACE = "[ \\t\\n\\v\\f\\r]*"
_INTEGER = re.compile(_SPACE + "([+-]?)([0-9]+)")
_DECIMAL = re.compile(_SPACE + r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)")
_HEXADECIMAL = re.compile(
    _SPACE + r"([+-]?0[xX](?=\.?[0-9a-fA-F])([0-9a-fA-F]*)\.?([0-9a-fA-F]*)(?:[pP]([+-]?[0-9]+))?)"
)
_NAMED = re.compile(_SPACE + "([+-]?(?:inf|nan))", re.IGNORECASE)
_SMALLEST_NORMAL = 2.0**-1022
_MOST_DIGITS = 767  # that a double has, from the first to the last that is not 0


def to_u64(text: str) -> int | None:
    """Read an unsigned 64-bit integer; "-1" is 2**64 - 1; None if there is none or it overflows."""
    value = _integer(text)
    if value is None or abs(value) >= U64:
        return None
    return value % U64


def to_int32_as_u64(text: str) -> int | None:
    """Read a 32-bit signed integer and widen it to unsigned 64 bits; None as in `to_u64`."""
    value = _integer(text)
    if value is None or not -(1 << 31) <= value < 1 << 31:
        return None
    return value % U64


def to_double(text: str) -> float | None:
    """Read a double; None if there is none, or it overflows or underflows.

    Hexadecimal, "inf" and "nan" are numbers too.
    """
    hexadecimal = _HEXADECIMAL.match(text)
    if hexadecimal:
        number, whole, part, power = hexadecimal.groups()
        try:
            value = float.fromhex(number)
        except OverflowError:
            return None
        digits = int(whole + part, 16)
        if value == 0 or not _is_subnormal(value):
            return None if value == 0 and digits else value
        exact = Fraction(2) ** (_power(power) - 4 * len(part)) * digits
        return None if exact != abs(Fraction(value)) else value
    decimal = _DECIMAL.match(text)
    if decimal:
        value = float(decimal[1])
        if value == 0:
            return None if re.search("[1-9]", re.split("[eE]", decimal[1])[0]) else value
        if math.isinf(value) or (_is_subnormal(value) and not _is_exact(decimal[1], value)):
            return None
        return value
    named = _NAMED.match(text)
    return float(named[1]) if named else None


def extract_double(text: str) -> float | None:
    """Read a double that must be the whole text, as a C++ stream does; None otherwise.

    Neither hexadecimal nor "inf" and "nan"; underflow is no error here.
    """
    decimal = _DECIMAL.fullmatch(text)
    if decimal is None:
        return None
    value = float(decimal[1])
    return None if math.isinf(value) else value


def _integer(text: str) -> int | None:
    found = _INTEGER.match(text)
    if found is None:
        return None
    digits = found[2].lstrip("0") or "0"
    if len(digits) > 20:  # more than 2**64 has; int() refuses thousands of digits
        return U64
    return -int(digits) if found[1] == "-" else int(digits)


def _is_subnormal(value: float) -> bool:
    """Return whether a result is below the normals: if it is inexact, glibc reports an error."""
    return abs(value) < _SMALLEST_NORMAL


def _is_exact(text: str, value: float) -> bool:
    """Return whether a subnormal value, not 0, is exactly the decimal number it was read from."""
    mantissa, _, power = text.lower().lstrip("+-").partition("e")
    whole, _, part = mantissa.partition(".")
    digits = (whole + part).lstrip("0")
    kept = digits.rstrip("0")
    if len(kept) > _MOST_DIGITS:
        return False
    ten = Fraction(10) ** (_power(power) - len(part) + len(digits) - len(kept))
    return int(kept) * ten == abs(Fraction(value))


def _power(text: str | None) -> int:
    """Read an exponent, of which int() would refuse thousands of zeros in front."""
    sign, digits = ("-" if text and text[0] == "-" else ""), (text or "").lstrip("+-").lstrip("0")
    return int(sign + (digits or "0"))

"""Numbers as the C library reads them: against the C library itself where there is one."""

import ctypes
import ctypes.util
import math
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightfit.sim.c_numbers import extract_double, to_double, to_int32_as_u64, to_u64


@pytest.fixture(scope="module")
def libc():
    name = ctypes.util.find_library("c")
    if name is None:
        pytest.skip("the C library was not found")
    library = ctypes.CDLL(name, use_errno=True)
    if not hasattr(library, "gnu_get_libc_version"):
        pytest.skip("the C library is not glibc, whose rules are imitated")
    library.strtod.restype = ctypes.c_double
    library.strtoull.restype = ctypes.c_ulonglong
    library.strtol.restype = ctypes.c_long
    return library


def called(function, text, *more):
    """Call a function of the strtol family as std::stoull and its kin do; None = it throws."""
    ctypes.set_errno(0)
    buffer = ctypes.create_string_buffer(text.encode())
    end = ctypes.c_void_p()
    value = function(buffer, ctypes.byref(end), *more)
    if end.value == ctypes.addressof(buffer) or ctypes.get_errno() == 34:  # ERANGE
        return None
    return value


CASES = [
    "", "0", "-0", "20", "20.7", "64MB", "+30", "\t30", " \n\v\f\r7", "-1", "--1", "+-1", "abc",
    "0x20",     "18446744073709551615", "18446744073709551616", "-18446744073709551615",
    "-18446744073709551616", "9" * 40, "0" * 40 + "7", "2147483647", "2147483648", "-2147483648",
    "-2147483649", "0.5", ".5", "5.", ".", "+.5e1", "1e5", "1e", "1e+", "1e400", "-1e400", "1e-400",
    "1e-310", "2.2250738585072014e-308", "2.2250738585072011e-308", "4.9406564584124654e-324",
    "0e-999999999", "0.0e999999999", "1e-999999999", "1e999999999", "0x", "0x.", "0x.8", "0x1p-1",
    "0x1p-1074", "0x1p-1075", "0x1.8p-1074", "0x0p-99999", "0x1p99999", "0x1P+2z", "0x1p", "inf",
    "-Infinity", "infinit", "nan", "NAN(1)", "1_000", "1,5", "٣",
]  # fmt: skip


def same(a, b):
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))


# Thousands of digits, of which the last decides whether a number below the normals is exact.
LEAST_BUT_ONE = format(Decimal(2.0**-1022 - 2.0**-1074), "f")
CASES += [
    "0." + "9" * 100_000, "9" * 5000, "9" * 5000 + "e-5000", "0." + "0" * 400 + "9" * 5000,
    "0" * 5000 + ".5", "1e-" + "0" * 5000 + "310", "1" + "0" * 5000 + "e-5310", LEAST_BUT_ONE,
    LEAST_BUT_ONE + "0" * 5000, LEAST_BUT_ONE + "0" * 5000 + "1", "-" + LEAST_BUT_ONE + "1",
    LEAST_BUT_ONE[2:].lstrip("0") + f"e-{len(LEAST_BUT_ONE) - 2}", "1e" + "9" * 5000,
    "1e-" + "9" * 5000, "0x1p-" + "0" * 5000 + "1074", "0x1.8p-" + "0" * 5000 + "1074",
    "0x" + "f" * 6000 + "p-24000", "0x1p-" + "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", CASES, ids=range(len(CASES)))
def test_integers_and_doubles_are_read_as_glibc_reads_them(libc, text):
    assert to_u64(text) == called(libc.strtoull, text, 10)
    assert same(to_double(text), called(libc.strtod, text))
    narrow = called(libc.strtol, text, 10)
    if narrow is not None and not -(1 << 31) <= narrow < 1 << 31:
        narrow = None
    assert to_int32_as_u64(text) == (None if narrow is None else narrow % (1 << 64))


number = st.text("0123456789abcdefxXpPeE+-. \tnif", max_size=14) | st.builds(
    "{}{}.{}{}{}".format,
    st.sampled_from(["", "-", "+"]),
    st.integers(0, 1 << 70),
    st.integers(0, 99999),
    st.sampled_from(["e-", "e", ""]),
    st.integers(0, 340),
)


@settings(max_examples=400, deadline=None)
@given(text=number | st.sampled_from(["0x1p-", "0x3p-"]).flatmap(
    lambda p: st.integers(1000, 1090).map(lambda n: f"{p}{n}")
))  # fmt: skip
def test_any_text_is_read_as_glibc_reads_it(libc, text):
    assert to_u64(text) == called(libc.strtoull, text, 10)
    assert same(to_double(text), called(libc.strtod, text))


@pytest.mark.parametrize(
    "text, value",
    [
        ("0.5", 0.5), ("40", 40.0), ("+2", 2.0), (".5", 0.5), ("5.", 5.0), ("1e5", 1e5),
        ("-1", -1.0), ("1e-400", 0.0), ("1e999", None), ("", None), ("x", None), ("0x10", None),
        ("nan", None), ("inf", None), ("40G", None), ("1e", None), ("1 2", None),
    ],
)  # fmt: skip
def test_a_stream_wants_the_whole_text(text, value):
    assert extract_double(text) == value

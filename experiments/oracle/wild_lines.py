"""Settings lines as a parser should fear them: valid ones, and what typing does to them."""

from __future__ import annotations

import random

from ...sim.release import Release
from ...sim.settings_keys import (
    COUNT,
    DIVISIONS,
    FLAG,
    FRACTION,
    KEYS,
    MIB,
    NAME,
    RESERVE,
    RESERVES,
    Key,
)
from .lines import random_line

# Bounds of every key, one below and one above; and what C reads as a number, or not as one.
WHOLE = (
    "0", "1", "2", "3", "4", "10", "11", "12", "19", "20", "21", "31", "32", "63", "64", "127",
    "128", "129", "256", "-1", "-0", "-20", "+30", "007", "20.7", "20.", ".5", "1e3", "0x40",
    "64MB", "3 0", "\t30", "1_000", "2147483647", "2147483648", "-2147483648", "-2147483649",
    "17592186044415", "17592186044416", "18446744073709551615", "18446744073709551616",
    "-18446744073709551615", "99999999999999999999999", "one", "\xa064", "٣",
)  # fmt: skip
REAL = (
    "0", "1", "0.5", "0.0", "1.0", "0.999999999", "1.0000001", "-0.5", "-0", ".5", "5e-1", "5e-1x",
    "0x1p-1", "nan", "inf", "-inf", "1e-310", "1e-400", "1e400", "0.5.5", "0,5", "half", "+0.25",
    "4.9406564584124654e-324", "2.2250738585072014e-308", "0.1 ", "1e", "1e-3", "０.５",
)  # fmt: skip
FLAGS = ("True", "False", "true", "FALSE", "1", "0", "yes", "", "True False", "Tru", "True:", "[")
LISTS = (
    "[]", "[1:2]", "[1:2,>:4]", "[256:1,512:2,1024:4,>:8]", "[>:4,1:2]", "[>:4]", "[4:0,8:2]",
    "[3:2]", "[4:3]", "[0:2]", "[4:2,2:8]", "[[1:2]]", "[1:[2]]", "[65536:4]", "[4;2]", "[4:2 8:4]",
    "[1:2,]", "[,1:2]", "[1:2,,4:2]", "[1::2]", "[-1:2]", "[1:-2]", "[4294967296:2]", "]", "[1:2]]",
    "[32768:16,>:1]", "[1:2]4", "[ 1 : 2 ]", "[1:18446744073709551616]", "[1:9223372036854775808]",
    "[1:2", "[1:2,", "[", "[1", "[1:",
)  # fmt: skip
RESERVED = (
    "0.5", "40G", "40g", "0.1g", "0", "-1", "1e20G", "G", "x", "nan", "inf", "0x1p-1", "1.5.5",
    "1e400", "1e-400", " 1G", "2GG", "5 G", "1e3", "+2G", "",
)  # fmt: skip
CLASSES = ("[a:0.5]", "[a:0.5,b:2G]", "[]", "[a:x]", "[a]", "[a:]", "[:1]", "a:1", "[a:1,]", "[")
VALID = {
    MIB: ("20", "21", "40", "64", "300", "20.7", "64MB", "-1"),
    COUNT: ("1", "2", "8", "128"),
    FLAG: ("True", "False"),
    FRACTION: ("0.5", "0.8", "5e-1", "0.999", ".25", "0x1p-1"),
    NAME: ("native", "native", "cudaMallocAsync"),
    DIVISIONS: ("1", "4", "64", "[1:2,>:4]", "[256:1,512:2,1024:4,>:8]", "[65536:4]", "[>:4]"),
    RESERVE: ("0.5", "40G", "1e20G", "x"),
    RESERVES: ("[a:0.5]", "[a:0.5,b:2G]", "[]"),
}
BACKENDS = ("native", "cudaMallocAsync", "Native", "cudamallocasync", "", "native2", "[native]")
NAMES = ("no_such_key", "max_split_size", "Backend", "", " ", "expandable_segments ", "größe", "≥")
BETWEEN = (*(",",) * 24, " , ", ",,", ";", ":", "]", "", " ", "\n", ",\t")
COLONS = (*(":",) * 40, " : ", "=", "::", "", "[", ",", ":\t", " ")
TOKENS = ("[", "]", ":", ",", ">", "1", "2", "4", "0", " ", "True", "20", "0.5", "é")


def wild_line(rng: random.Random, rules: Release, seeds: tuple[str, ...] = ()) -> str:
    """Return one line; without NUL, which no environment can hold.

    Args:
        rng: where chance comes from.
        rules: whose keys stand in it, mostly.
        seeds: lines of which some are taken, and spoilt.
    """
    x = rng.random()
    if x < 0.1:
        return random_line(rng, rules)
    if x < 0.25:
        return _spoilt(rng, random_line(rng, rules))
    if x < 0.4 and seeds:
        line = rng.choice(seeds)
        return line if rng.random() < 0.3 else _spoilt(rng, line)
    if x < 0.5:
        words = (*TOKENS, *(rng.choice(KEYS).name for _ in range(5)))
        return "".join(rng.choice(words) for _ in range(rng.randrange(14)))
    line = ""
    known = [key for key in KEYS if key.known_to(rules)]
    for k in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        key = rng.choice(known if rng.random() < 0.93 else KEYS)
        name = rng.choice(NAMES) if rng.random() < 0.03 else key.alias or key.name
        if key.alias and rng.random() < 0.5:
            name = key.name
        line += rng.choice(BETWEEN) if k else ""
        line += name + rng.choice(COLONS) + _value(rng, key)
    return line + rng.choice(("", "", "", "", ",", " ", ",,", ":", "\n"))


def _value(rng: random.Random, key: Key) -> str:
    x = rng.random()
    if x < 0.6:  # one of those that most releases take
        return rng.choice(VALID[key.type])
    if x < 0.65:
        return rng.choice(rng.choice((WHOLE, REAL, FLAGS, LISTS, RESERVED, BACKENDS)))
    return rng.choice(
        {
            MIB: WHOLE, COUNT: WHOLE, FLAG: FLAGS, FRACTION: REAL, NAME: BACKENDS,
            RESERVE: RESERVED, RESERVES: CLASSES,
        }.get(key.type, LISTS if rng.random() < 0.6 else WHOLE)
    )  # fmt: skip


def _spoilt(rng: random.Random, line: str) -> str:
    """Return a line after a slip or two of the fingers."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(line) + 1)
        how = rng.randrange(6)
        if how == 0:
            line = line[:at] + line[at + 1 :]
        elif how == 1:
            line = line[:at] + rng.choice(TOKENS) + line[at:]
        elif how == 2:
            line = line[:at] + line[at : at + 1].swapcase() + line[at + 1 :]
        elif how == 3:
            line = f"{line},{line}"[:400]  # every key twice
        elif how == 4:
            line = line[:at]
        else:
            line = line.replace(rng.choice(("1", "2", "0", ":", ",")), rng.choice(TOKENS), 1)
    return line

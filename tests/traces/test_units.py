"""Sizes as people write them."""

from __future__ import annotations

import pytest

from tightfit.traces.errors import ConfigError
from tightfit.traces.units import GiB, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * GiB), ("1.5 g", 3 * GiB // 2), ("80GB", 80 * 10**9), ("1_000", 1000),
        ("0" * 5000 + "7", 7), ("0" * 5000 + "1.5k", 1536), ("1." + "0" * 5000 + "k", 1024),
        (str((1 << 62) - 1), (1 << 62) - 1),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_a_size_is_read_to_the_byte(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["9" * 5000, "9" * 400 + ".5", "9" * 5000 + "GiB", str(1 << 62), "0"]
)
def test_more_than_any_memory_is_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(ConfigError, match="--other: found '.*', expected a size such") as error:
        parse_bytes(text, "--other")
    assert len(str(error.value)) < 150

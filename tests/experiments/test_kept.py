"""What is read from files of our own has the types it was written with, or counts as not there."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest

from tightfit.experiments.kept import fits, mark_of, read_back
from tightfit.experiments.row import Row
from tightfit.experiments.smallest import Smallest

ROW = Row("best_fit", "policy", "a paper", 5 << 20, 0.25, driver_seconds=1, ignores=("a", "b"))


def test_a_row_comes_back_as_it_was() -> None:
    assert read_back(Row, json.loads(json.dumps(asdict(ROW)))) == ROW
    assert read_back(Smallest, {"bytes": 1, "proven": True, "sure_bytes": 2}).proven


@pytest.mark.parametrize(
    "change",
    [
        {"policy": 5}, {"peak_reserved_bytes": "5"}, {"peak_reserved_bytes": True}, {"ooms": None},
        {"ooms": 0.5}, {"above_bound": "0.25"}, {"min_capacity_proven": 1}, {"ignores": "ab"},
        {"ignores": [1]}, {"ignores": {}}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_field_of_another_type_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        read_back(Row, json.loads(json.dumps(asdict(ROW) | change)))


@pytest.mark.parametrize("value", [5, None, [], "x", {}, {"bytes": 1}])
def test_what_is_no_such_object_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        read_back(Smallest, value)


def test_hints_are_looked_into() -> None:
    assert fits({"a": [1, 2]}, dict[str, list[int]]) and not fits(
        {"a": ["2"]}, dict[str, list[int]]
    )
    assert fits(None, dict | None) and not fits([], dict | None)


def test_a_mark_is_for_a_key_and_a_value() -> None:
    assert len({mark_of("a", 1), mark_of("a", 2), mark_of("b", 1)}) == 3

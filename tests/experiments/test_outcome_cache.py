"""Outcomes are kept for the same question only, and a broken file is no obstacle."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tightfit.experiments.kept import mark_of
from tightfit.experiments.outcome import Outcome
from tightfit.experiments.outcome_cache import KEEP, OutcomeCache, identity
from tightfit.sim.device import Device
from tightfit.sim.packing import pack
from tightfit.sim.release import release

from ..strategies import random_program

KEY = b"\x01" * 16
ONE = {KEY: [Outcome(1, 2, 3, 4, 5, 6, 7, None), Outcome(1, 1, 1, 1, 1, 1, 0, 9)]}


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    OutcomeCache("a" * 32, tmp_path).save(ONE)
    assert OutcomeCache("a" * 32, tmp_path).load() == ONE
    assert OutcomeCache("b" * 32, tmp_path).load() == {}


def test_a_broken_file_is_as_good_as_none(tmp_path: Path) -> None:
    cache = OutcomeCache("a" * 32, tmp_path)
    cache.save(ONE)
    assert cache.path is not None
    for text in ("", "[]", '{"zz": []}', '{"01": [{"peak": 1}]}', "{", "[" * 100_000):
        cache.path.write_text(text)
        assert cache.load() == {}


def test_a_changed_digit_is_not_believed(tmp_path: Path) -> None:
    cache = OutcomeCache("a" * 32, tmp_path)
    cache.save(ONE)
    assert cache.path is not None
    text = cache.path.read_text()
    cache.path.write_text(text.replace('"peak_reserved_bytes": 1,', '"peak_reserved_bytes": 7,'))
    assert cache.load() == {}
    cache.path.write_text(text)
    assert cache.load() == ONE
    other = OutcomeCache("b" * 32, tmp_path)
    assert other.path is not None
    cache.path.rename(other.path)  # the answer to another question
    assert other.load() == {}


@pytest.mark.parametrize(
    "rows",
    [5, [], {"01": 5}, {"01": [{**asdict(ONE[KEY][0]), "ooms": "7"}]},
     {"01": [asdict(ONE[KEY][0])], "02": []}],
    ids=["5", "list", "5 inside", "type", "length"],
)  # fmt: skip
def test_other_shapes_are_as_good_as_none_even_with_a_mark(rows: object, tmp_path: Path) -> None:
    cache = OutcomeCache("a" * 32, tmp_path)
    cache.save(ONE)
    assert cache.path is not None
    cache.path.write_text(json.dumps({"mark": mark_of("a" * 32, rows), "rows": rows}))
    assert cache.load() == {}


def test_only_the_newest_files_stay(tmp_path: Path) -> None:
    for k in range(KEEP + 5):
        OutcomeCache(f"{k:032x}", tmp_path).save(ONE)
    assert len(list((tmp_path / "outcomes").iterdir())) == KEEP


def test_the_name_changes_with_the_question() -> None:
    a, b = pack(random_program(1, 50)), pack(random_program(2, 50))
    names = {
        identity([a], release("2.15"), Device()),
        identity([b], release("2.15"), Device()),
        identity([a, b], release("2.15"), Device()),
        identity([a], release("2.11"), Device()),
        identity([a], release("2.15"), Device(1 << 34)),
    }
    assert len(names) == 5
    assert identity([a], release("2.15"), Device()) in names

"""Planted faults: each edit still fits the source, so that the hunt tests what it says it tests."""

from __future__ import annotations

import pytest

from tightfit.experiments.oracle.mutants import FAULTS, ROOT, Fault, edited


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_the_edit_changes_exactly_one_place(fault: Fault) -> None:
    text = (ROOT / fault.file).read_text()
    assert edited(fault, text) != text


def test_there_are_enough_of_them_with_names_of_their_own() -> None:
    assert len({f.name for f in FAULTS}) == len(FAULTS) >= 12


def test_a_text_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="occurs 0 times"):
        edited(Fault("x", "sim/state.py", "no such text", "y"), "some text")

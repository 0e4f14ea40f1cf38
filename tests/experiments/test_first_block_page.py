"""docs/first-block.md is what its command writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tightfit.experiments.first_block_page import DATA, Row, cells, page, recordings, row_of
from tightfit.traces.units import MiB

PAGE = Path(__file__).resolve().parents[2] / "docs" / "first-block.md"


@pytest.mark.parametrize("name", ["devlog.default", "gpt_checkpoint.default", "mlp_train"])
def test_rows_are_measured_not_typed(name: str) -> None:
    row = row_of(DATA / f"{name}.npz")
    assert cells(row) in PAGE.read_text(encoding="utf-8").splitlines()
    assert row.held <= row.first <= min(row.smaller, row.larger)


def test_every_recording_has_a_row() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for path in recordings():
        name = path.name.removesuffix(".npz").removesuffix(".default")
        assert f"\n| {name} | " in text
    assert text.count("\n| ") == len(recordings()) + 1


@pytest.mark.interpreted
def test_the_best_of_a_row_is_bold_and_the_last_lines_count() -> None:
    rows = [
        Row("a", *(n * MiB for n in (80, 200, 100, 90, 85, 110, 91))),
        Row("b", *(n * MiB for n in (80, 90, 100, 105, 85, 110, 91))),
    ]
    assert cells(rows[0]) == "| a | 80 | 200 | 100 | **90** | 85 | 110 | 91 |"
    last = " ".join(page(rows).splitlines()[-3:])
    assert "Of 2 programs, one block first is better than expandable segments for 1," in last
    assert "or at most 1 % worse for 1." in last and "at most 55 %" in last
    assert last.endswith("it is worse for b.")

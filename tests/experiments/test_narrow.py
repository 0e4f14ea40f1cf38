"""Tables on screens too narrow for them: no number is cut, no word is broken."""

from __future__ import annotations

from typing import Any

import pytest

from tightfit.experiments import screen
from tightfit.experiments.narrow import as_paragraphs, gap_that_fits, least_widths

pytestmark = pytest.mark.interpreted

LINE = "large_segment_size_mb:48,\nexpandable_segments:True"
COLUMNS = ["", "settings", screen.Column("peak reserved", "bytes"), "driver calls"]
ROWS = [["default", "(default)", 4140 << 20, 42], ["best", LINE, 3980 << 20, None]]


def drawn(width: int, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    monkeypatch.setattr(screen, "WIDTH", width)
    screen.table("", COLUMNS, ROWS)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", range(20, 101))
def test_no_number_is_cut_and_no_word_broken_at_any_width(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    text = drawn(width, monkeypatch, capsys)
    for number in ("4,140.0", "3,980.0", "42"):
        assert number in text
    if "─" in text or width > len(LINE) + len("- best: ;"):
        assert "expandable_segments:True" in text
    assert max(map(len, text.splitlines())) <= width


def test_columns_move_together_before_they_are_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    least = sum(least_widths([("", "", ["default", "best"]), ("settings", "", ["(default)", LINE]),
                              ("peak reserved", "MiB", ["4,140.0", "3,980.0"]),
                              ("driver calls", "", ["42", "–"])],
                             [True, True, False, False]))  # fmt: skip
    assert least == 7 + 25 + 8 + 6
    assert "─" in drawn(least + 9, monkeypatch, capsys)
    assert "─" in drawn(least + 3, monkeypatch, capsys)
    assert "─" not in drawn(least + 2, monkeypatch, capsys)
    assert [gap_that_fits([10, 10], w) for w in (23, 22, 21, 20)] == [3, 1, 1, None]


def test_a_paragraph_names_every_value() -> None:
    shown = [("device", "", ["0"]), ("peak", "MiB", ["4.0"]), ("calls", "", ["–"])]
    assert as_paragraphs(shown, [True, False, False]) == ["- device 0; peak 4.0 MiB; calls –"]

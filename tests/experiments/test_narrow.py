"""Tables on screens too narrow for them: no number is cut, no word is broken."""

from __future__ import annotations

from typing import Any

import pytest

from tightfit.experiments import screen
from tightfit.experiments.narrow import as_paragraphs, least_widths, widths_that_fit

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
    two = [("", "", ["1234567890"])] * 2
    assert [widths_that_fit(two, [False] * 2, w) for w in (23, 22, 21, 20)] == [
        (3, [10, 10]), (1, [10, 10]), (1, [10, 10]), None,
    ]  # fmt: skip


@pytest.mark.parametrize("label", ["best", "expandable, best", "expandable, best, recorded"])
def test_a_last_column_of_text_is_not_cut_to_make_room(
    label: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    columns = ["", "settings", *(screen.Column(f"c{k} of it", "bytes") for k in range(5)), "fits"]
    line = "expandable_segments:True"
    rows = [[label, line, *([6 << 30] * 5), "OOM at\n9,173"], ["", line, *([9] * 5), "yes"]]
    for width in range(70, 101):
        monkeypatch.setattr(screen, "WIDTH", width)
        screen.table("", columns, rows)
        text = capsys.readouterr().out
        assert "9,173" in text and text.count("6,144.0") == 5, width
        assert max(map(len, text.splitlines())) <= width


def test_a_paragraph_names_every_value() -> None:
    shown = [("device", "", ["0"]), ("peak", "MiB", ["4.0"]), ("calls", "", ["–"])]
    assert as_paragraphs(shown, [True, False, False]) == ["- device 0; peak 4.0 MiB; calls –"]

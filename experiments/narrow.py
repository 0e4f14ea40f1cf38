"""A table on a screen too narrow for it: one paragraph per row, and no number is cut."""

from __future__ import annotations

import re
from collections.abc import Sequence

GAPS = (3, 1)  # columns between two columns of a table; the second where the first is too wide
LONGEST_WORD = 40  # a longer one, a path or a settings list, may be broken anywhere
SHORTEST = 12  # a narrower text column is no column

# Shown column: (name, unit, cells as text).
Shown = tuple[str, str, list[str]]


def least_widths(shown: Sequence[Shown], is_text: Sequence[bool]) -> list[int]:
    """Return how narrow each column may become: numbers whole, text broken between its words."""
    widths = []
    for (name, unit, cells), text in zip(shown, is_text, strict=True):
        if not text:
            words = [*cells, *name.split(), unit]
        else:
            words = [w for part in (name, *cells) for w in part.split()]
            words = [w[:LONGEST_WORD] for w in words]
        least = max(map(len, words), default=0)
        longest = max((len(line) for cell in cells for line in cell.split("\n")), default=0)
        widths.append(max(least, min(longest, SHORTEST)) if text else least)
    return widths


def whole_widths(shown: Sequence[Shown]) -> list[int]:
    """Return how wide columns are without breaking a cell; headings may break between words."""
    return [
        max(
            max((len(line) for cell in cells for line in cell.split("\n")), default=0),
            *map(len, (*name.split(), unit)),
        )
        for name, unit, cells in shown
    ]


def gap_that_fits(widths: Sequence[int], width: int) -> int | None:
    """Return the widest gap with which columns of these widths stand side by side; None = none."""
    return next((g for g in GAPS if sum(widths) + g * (len(widths) - 1) <= width), None)


def as_paragraphs(shown: Sequence[Shown], is_text: Sequence[bool]) -> list[str]:
    """Return each row as a line: "- " and its leading texts, then "name value unit" for the rest.

    Args:
        shown: the columns, all with equally many cells.
        is_text: which of them hold text.
    """
    lead = next((k for k, text in enumerate(is_text) if not text), len(is_text))
    lines = []
    for row in zip(*(cells for _, _, cells in shown), strict=True):
        texts = [re.sub(r",\s+(?=\S)", ",", " ".join(cell.split())) for cell in row]
        head = ": ".join(text for text in texts[:lead] if text)
        if lead and shown[0][0]:
            head = f"{shown[0][0]} {head}"
        facts = [
            " ".join(part for part in (name, text, unit if text != "–" else "") if part)
            for (name, unit, _), text in zip(shown[lead:], texts[lead:], strict=True)
        ]
        lines.append("- " + "; ".join(part for part in (head, *facts) if part))
    return lines

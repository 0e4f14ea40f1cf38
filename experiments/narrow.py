"""A table on a screen too narrow for it: one paragraph per row, and no number is cut."""

from __future__ import annotations

import re
import textwrap
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


def widths_that_fit(
    shown: Sequence[Shown], is_text: Sequence[bool], width: int
) -> tuple[int, list[int]] | None:
    """Return the gap and the widths with which columns stand side by side; None = they do not.

    Nothing is broken if that is possible; else text is, between its words.

    Args:
        shown: the columns, all with equally many cells.
        is_text: which of them hold text.
        width: of the screen.
    """
    least = least_widths(shown, is_text)
    whole = [
        max(
            small,
            *(len(line) for cell in cells for line in cell.split("\n")),
            *map(len, heading(name, unit, small)),
            0,
        )
        for (name, unit, cells), small in zip(shown, least, strict=True)
    ]
    for gap in GAPS:
        if sum(whole) + gap * (len(whole) - 1) <= width:
            return gap, whole
    gap = next((g for g in GAPS if sum(least) + g * (len(least) - 1) <= width), None)
    if gap is None:
        return None
    spare = width - sum(least) - gap * (len(least) - 1)
    for k, (small, large) in enumerate(zip(list(least), whole, strict=True)):
        more = min(spare, max(0, large - small)) if is_text[k] else 0
        least[k] += more
        spare -= more
    return gap, least


def heading(name: str, unit: str, width: int) -> list[str]:
    """Return the lines above a column: no wider than it, if two lines suffice; the unit below."""
    lines = textwrap.wrap(name, max(len(name) // 2 + 1, width, *map(len, name.split() or [""])))
    return lines + ([unit] if unit else [])


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
            if text
        ]
        lines.append("- " + "; ".join(part for part in (head, *facts) if part))
    return lines

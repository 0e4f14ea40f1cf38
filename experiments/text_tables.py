"""Tables as text: Markdown and LaTeX from cells that are text already."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from .screen import printable

_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "–": "--", "<": "$<$", ">": "$>$", "±": r"$\pm$", "×": r"$\times$",
}  # fmt: skip


def markdown_table(
    lines: Sequence[Sequence[str]], bold: Container[tuple[int, int]] = ()
) -> list[str]:
    """Return the lines of a Markdown table: the first column left, the others right.

    Args:
        lines: cells; the first line holds the headings.
        bold: (line, column) of what stands out.
    """

    def plain(text: str) -> str:
        return printable(text).replace("|", "\\|")

    rules = (":--", *["--:"] * (len(lines[0]) - 1))
    texts = _cells(lines, bold, plain, "**{}**")
    return [f"| {' | '.join(line)} |" for line in (texts[0], rules, *texts[1:])]


def latex_table(lines: Sequence[Sequence[str]], bold: Container[tuple[int, int]] = ()) -> list[str]:
    """Return the lines of a LaTeX tabular; it wants the package booktabs.

    Args:
        lines: cells; the first line holds the headings.
        bold: (line, column) of what stands out.
    """

    def plain(text: str) -> str:
        return "".join(_LATEX.get(c, c) for c in printable(text))

    texts = _cells(lines, bold, plain, r"\textbf{{{}}}")
    rows = [" & ".join(line) + r" \\" for line in texts]
    return [
        r"\begin{tabular}{l" + "r" * (len(lines[0]) - 1) + r"}\toprule",
        rows[0] + r" \midrule",
        *rows[1:],
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _cells(
    lines: Sequence[Sequence[str]],
    bold: Container[tuple[int, int]],
    plain: Callable[[str], str],
    strong: str,
) -> list[list[str]]:
    return [
        [strong.format(plain(c)) if (i, j) in bold else plain(c) for j, c in enumerate(line)]
        for i, line in enumerate(lines)
    ]


def latex_remark(text: str) -> str:
    """Return a line of a LaTeX file that is not set."""
    return f"% {printable(text)}"

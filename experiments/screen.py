"""What people and programs read: verdicts, tables, notes, progress and JSON.

Answers go to standard output, everything said on the way to standard error. With `--json` standard
output carries one JSON document and nothing else. Rich is imported when something is drawn.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, TextIO

from ..traces.units import GiB, MiB

if TYPE_CHECKING:
    from rich.console import Console

    from ..traces.recording import Finding

WIDTH = 100  # columns; a table that needs more does not fit a page or a bug report
PATIENCE = 2.0  # seconds before a progress bar appears
# Names in sim/assumed.py, of a command that checks a recording and then replays it often: what is
# best compiled beside PLAIN, which such a command comes to while the second of these is compiled.
BESIDE_PLAIN = ("NOTHING", "EXPANDING")
INTERVAL = 10.0  # seconds between progress lines where there is no terminal
_announced: set[str] = set()  # what this command has said, or will say, of compiling

Cell = str | int | float | None


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of numbers in one unit.

    Attributes:
        name: heading, without the unit.
        unit: "bytes" (shown in the one of B, MiB, GiB that suits the column's largest value),
            "%" (of a fraction of 1), "s", "ms", or "" for a plain count.
        largest: for "bytes": the value that decides the unit, where several tables are to have one.
    """

    name: str
    unit: Literal["", "bytes", "%", "s", "ms"] = ""
    largest: int | None = None


def verdict(line: str) -> None:
    """Print the answer in one sentence; the first line of every command's output."""
    _print(line, "bold")


def say(line: str = "") -> None:
    """Print a line that belongs to the answer, wrapped to the width of the screen."""
    _print(line)


def printable(text: str, keep: str = "") -> str:
    """Return text without what would steer a terminal: names in recordings are others' data.

    Args:
        text: to be shown.
        keep: characters that stay. Every other unprintable one becomes its escape, such as "\\x1b".
    """
    if text.isprintable():
        return text
    return "".join(
        c if c in keep or c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def suggest(*commands: str) -> None:
    """Print what to type next. Never wrapped: such lines are copied."""
    print("next:", printable(" / ".join(commands), keep="\n"))


def note(findings: Sequence[Finding]) -> None:
    """Print what a user should know about the input, one paragraph each."""
    for finding in findings:
        where = "" if finding.device is None else f"device {finding.device}: "
        _print(f"note: {where}{finding.text}")


def warn(line: str) -> None:
    """Print a line about the work, not part of the answer, on standard error."""
    print(printable(line, keep="\n"), file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str | Column], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table of at most 100 columns: text left, numbers right, one unit down a column.

    On a screen too narrow for it each row becomes a paragraph.

    Args:
        title: a line above the table; "" for none.
        columns: headings; a plain string heads text or counts, as its cells are.
        rows: one cell per column; None prints as a dash, "not applicable".
    """
    from rich import box
    from rich.table import Table

    from .narrow import as_paragraphs, heading, widths_that_fit

    given = [Column(c) if isinstance(c, str) else c for c in columns]
    cells = [[row[k] for row in rows] for k in range(len(given))]
    shown = [_one_unit(column, own) for column, own in zip(given, cells, strict=True)]
    is_text = [any(isinstance(cell, str) for cell in own) for own in cells]
    found = widths_that_fit(shown, is_text, _console(sys.stdout).width)
    if found is None:
        for line in [title, *as_paragraphs(shown, is_text)]:
            if line:
                say(line)
        return
    gap, widths = found
    drawn = Table(
        title=printable(title) or None,
        title_justify="left",
        title_style="",
        box=box.SIMPLE_HEAD,
        padding=(0, (gap - 1) // 2),
        pad_edge=False,
        show_edge=False,
    )
    headings = [
        heading(name, unit, width) for (name, unit, _), width in zip(shown, widths, strict=True)
    ]
    height = max(map(len, headings), default=0)
    for above, text, width in zip(headings, is_text, widths, strict=True):
        drawn.add_column(
            "\n".join([""] * (height - len(above)) + above),  # all end on the same line
            justify="left" if text else "right",
            width=width,  # said, not left to rich, which would cut numbers to make room for text
            no_wrap=not text,
            overflow="fold",
        )
    for line in zip(*(texts for _, _, texts in shown), strict=True):
        drawn.add_row(*line)
    _draw(drawn)


def rounded(value: float, digits: int) -> str:
    """Return a number as text; one too small for its digits as "<0.1", never as nothing."""
    text = f"{value:,.{digits}f}"
    if value == 0 or text.strip("-0.,"):
        return text
    least = f"{10**-digits:.{digits}f}"
    return f"<{least}" if value > 0 else f">-{least}"


def emit_json(value: object) -> None:
    """Print a value as one JSON document on standard output.

    Dataclasses become objects, NumPy numbers and arrays plain ones, NaN and infinity null.
    """
    json.dump(_plain(value), sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[..., None]]:
    """Show on standard error how far a long piece of work is.

    A bar on a terminal, once the work has lasted two seconds; elsewhere a line every ten seconds.

    Args:
        total: number of steps.
        what: what is being done, e.g. "replaying".

    Yields:
        `advance(n=1)`, to be called after every n steps.
    """
    start = time.monotonic()
    done = 0
    bar: Any = None
    task: Any = None
    is_terminal = sys.stderr.isatty()
    due = start + (PATIENCE if is_terminal else INTERVAL)

    def advance(n: int = 1) -> None:
        nonlocal done, bar, task, due
        done += n
        now = time.monotonic()
        if bar is not None:
            bar.update(task, completed=done)
        elif now >= due and is_terminal:
            from rich.progress import Progress

            bar = Progress(console=_console(sys.stderr), transient=True)
            task = bar.add_task(what, total=total, completed=done)
            bar.start()
        elif now >= due:
            due = now + INTERVAL
            warn(f"{what}: {done:,} of {total:,} after {now - start:.0f} s")

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def announce_compiling(seconds: int, loops: tuple[str, ...] = ("NOTHING",)) -> None:
    """Say on standard error that a first run compiles, if it is one, and let a second core help.

    Later runs may need kernels that no earlier one did: another loop, a policy, a reader. Those
    say so when it comes to that.

    Args:
        seconds: about how long it takes to compile all.
        loops: the assumptions of sim/assumed.py that the replay loop is needed under, soonest
            first; none = nothing is replayed.
    """
    from ..traces.jit import is_cold

    forget_compiling()
    if loops:
        from ..sim.engine import play

        cold = is_cold(play)
    else:
        cold = is_cold()
    if cold:
        _announced.add("all")
        warn(f"first run: compiling kernels (once, about {seconds} s)")
        if loops:
            from .beside import compile_beside

            compile_beside(loops)
    else:
        announce_more_compiling(seconds, loops)


def announce_more_compiling(seconds: int, loops: tuple[str, ...] = ()) -> None:
    """Say so on standard error, and let a second core help, as soon as anything is compiled.

    Nothing is done where this command has been announced before, in either way.

    Args:
        seconds, loops: as for `announce_compiling`.
    """
    from ..traces.jit import before_compiling

    if _announced:
        return
    _announced.add("more")

    def tell() -> None:
        warn(f"first run: compiling kernels not needed before (once, up to about {seconds} s)")
        if loops:
            from .beside import start_beside

            start_beside(loops)

    before_compiling(tell)


def forget_compiling() -> None:
    """Announce nothing any more: the command has ended, and this process may go on."""
    if _announced:  # else Numba need not have been imported
        from ..traces.jit import before_compiling

        _announced.clear()
        before_compiling(None)


def _console(stream: TextIO) -> Console:
    """Return a console on a stream; no wider than WIDTH, colours only on a terminal."""
    from rich.console import Console

    is_terminal = stream.isatty()
    width = WIDTH
    if is_terminal:
        try:
            width = min(WIDTH, os.get_terminal_size(stream.fileno()).columns or WIDTH)
        except (OSError, ValueError):  # a terminal that does not know its size
            pass
    return Console(
        file=stream,
        width=width,
        force_terminal=is_terminal,  # whatever FORCE_COLOR says
        markup=False,
        emoji=False,
        highlight=False,
    )


def _print(line: str, style: str = "") -> None:
    from rich.text import Text

    _draw(Text(printable(line), style=style))


def _draw(what: Any) -> None:
    """Print something rich on standard output, without blanks at the ends of lines."""
    console = _console(sys.stdout)
    with console.capture() as capture:
        console.print(what)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _one_unit(column: Column, cells: Sequence[Cell]) -> tuple[str, str, list[str]]:
    """Return a column's name, its unit, and its cells as text in that unit."""
    numbers = [abs(cell) for cell in cells if isinstance(cell, int | float)]
    largest = max(numbers, default=0) if column.largest is None else column.largest
    factor, digits, unit = 1.0, 0, column.unit
    if column.unit == "bytes":
        if largest >= 10 * GiB:
            factor, digits, unit = GiB, 2, "GiB"
        elif largest >= MiB:
            factor, digits, unit = MiB, 1, "MiB"
        else:
            unit = "B"
    elif column.unit == "%":
        factor, digits = 0.01, 1
    elif column.unit in ("s", "ms"):
        digits = 1

    def text(cell: Cell) -> str:
        if cell is None:
            return "–"
        if isinstance(cell, str):
            return printable(cell, keep="\n")
        return rounded(cell / factor, digits)

    return column.name, unit, [text(cell) for cell in cells]


def _plain(value: Any) -> Any:
    """Return a value made of what JSON knows."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    to_list = getattr(value, "tolist", None)
    if to_list is not None:  # NumPy scalars and arrays, without importing NumPy
        return _plain(to_list())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, PurePath) else value

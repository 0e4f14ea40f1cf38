"""The screen: tables in one unit, rounded figures, notes, progress and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments import beside, cli, screen
from tightfit.sim.engine import play
from tightfit.traces import jit
from tightfit.traces.recording import Finding


def test_several_tables_can_have_one_unit(capsys: Any) -> None:
    for size in (512 << 20, 12 << 30):
        screen.table("", ["x", screen.Column("reserved", "bytes", 12 << 30)], [["a", size]])
    out = capsys.readouterr().out
    assert out.count("GiB") == 2 and "MiB" not in out and "0.50" in out


def test_what_is_too_small_for_its_digits_is_not_shown_as_nothing() -> None:
    assert screen.rounded(0.04, 1) == "<0.1" and screen.rounded(0.0, 1) == "0.0"
    assert screen.rounded(1234.56, 1) == "1,234.6" and screen.rounded(-0.04, 1) == ">-0.1"


def test_a_table_shows_one_unit_down_a_column(capsys: Any) -> None:
    screen.table(
        "two runs",
        ["run", screen.Column("reserved", "bytes"), screen.Column("waste", "%"), "calls"],
        [["default", 12 << 30, 0.018, 1234567], ["a " * 80, 512 << 20, None, 3]],
    )
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1].split() == ["reserved", "waste"] and lines[2].split() == [
        "run",
        "GiB",
        "%",
        "calls",
    ]
    assert "12.00" in text and "0.50" in text and "1.8" in text and "1,234,567" in text
    ends = {len(line.rstrip()) for line in lines if line.rstrip().endswith(("1,234,567", " 3"))}
    assert len(ends) == 1, "numbers are aligned at the right"


def test_notes_name_their_device(capsys: Any) -> None:
    screen.note([Finding("truncated", 1, "the beginning is lost", 1), Finding("x", 1, "y")])
    assert capsys.readouterr().out == "note: device 1: the beginning is lost\nnote: y\n"


def test_progress_is_silent_when_short_and_plain_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    clock = iter([0.0, 1.0, 9.0, 11.0, 12.0, 25.0])
    monkeypatch.setattr("tightfit.experiments.screen.time.monotonic", lambda: next(clock))
    with screen.progress(2000, "replaying") as advance:
        for _ in range(5):
            advance(300)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "replaying: 900 of 2,000 after 11 s",
        "replaying: 1,500 of 2,000 after 25 s",
    ]


def test_json_knows_numpy_and_refuses_nan(capsys: Any) -> None:
    import numpy as np

    screen.emit_json({"n": np.int64(3), "a": np.arange(2), "x": float("nan"), "p": Path("a/b")})
    assert json.loads(capsys.readouterr().out) == {"n": 3, "a": [0, 1], "x": None, "p": "a/b"}


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Which kernels are on disk, who is told when the compiler begins, and what was started."""
    seen: dict[str, Any] = {"cold": False, "asked": None, "tell": None, "beside": []}

    def is_cold(*kernels: Any) -> bool:
        seen["asked"] = kernels
        return seen["cold"]

    def before_compiling(tell: Any) -> None:
        seen["tell"] = tell

    screen.forget_compiling()
    monkeypatch.setattr(jit, "is_cold", is_cold)
    monkeypatch.setattr(jit, "before_compiling", before_compiling)
    for name in ("compile_beside", "start_beside"):
        note = partial(lambda name, loops: seen["beside"].append((name, loops)), name)
        monkeypatch.setattr(beside, name, note)
    yield seen
    screen.forget_compiling()


def test_a_first_run_is_announced_at_once_and_once(compiling: dict[str, Any], capsys: Any) -> None:
    compiling["cold"] = True
    screen.announce_compiling(9, ("PLAIN",))
    assert capsys.readouterr().err == "first run: compiling kernels (once, about 9 s)\n"
    assert compiling["beside"] == [("compile_beside", ("PLAIN",))]
    screen.announce_more_compiling(9)
    assert compiling["tell"] is None


def test_what_no_earlier_run_needed_is_announced_when_it_is_compiled(
    compiling: dict[str, Any], capsys: Any
) -> None:
    """Kernels on disk do not say that those of this command are among them."""
    screen.announce_compiling(9, ("PLAIN",))
    assert compiling["asked"] == (play,), "a reader's kernels are no replay loop"
    screen.announce_more_compiling(7)  # of a part of the command: the whole is announced
    assert capsys.readouterr().err == "" and not compiling["beside"]
    compiling["tell"]()
    said = "first run: compiling kernels not needed before (once, up to about 9 s)\n"
    assert capsys.readouterr().err == said
    assert compiling["beside"] == [("start_beside", ("PLAIN",))]
    screen.forget_compiling()
    assert compiling["tell"] is None


def test_where_nothing_is_replayed_no_second_process_helps(
    compiling: dict[str, Any], capsys: Any
) -> None:
    screen.announce_compiling(9, loops=())
    assert compiling["asked"] == ()
    compiling["tell"]()
    assert capsys.readouterr().err and not compiling["beside"]


def test_a_command_that_has_ended_announces_nothing(
    compiling: dict[str, Any], story: Path, capsys: Any
) -> None:
    assert cli.main(["info", str(story), "--json"]) == 0
    assert compiling["asked"] == () and compiling["tell"] is None

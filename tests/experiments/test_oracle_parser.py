"""Settings lines against the compiled parsers of ten releases: kept answers, and fresh ones."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tightfit.experiments import cli
from tightfit.experiments.oracle import parser as parsing
from tightfit.experiments.oracle.build import build_program
from tightfit.experiments.oracle.golden_lines import NAME, read_lines
from tightfit.experiments.oracle.parser import (
    BEYOND,
    Lines,
    ask_parser,
    difference,
    left_open,
    prove_lines,
)
from tightfit.experiments.oracle.wheels import RELEASES, find_wheel
from tightfit.experiments.oracle.wild_lines import wild_line
from tightfit.sim.release import release
from tightfit.traces.errors import VerificationError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(scope="module")
def kept() -> list[tuple[str, str, Any]]:
    return read_lines(GOLDEN / NAME)


@pytest.mark.parametrize("version", RELEASES)
def test_every_kept_line_is_read_as_the_compiled_parser_read_it(kept: Any, version: str) -> None:
    mine = [(line, values) for torch, line, values in kept if torch == version]
    wrong = {line: difference(line, values, release(version)) for line, values in mine}
    assert {line: words for line, words in wrong.items() if words} == {}
    accepted = sum(values is not None for _, values in mine)
    assert accepted > 45 and len(mine) - accepted > 100  # both kinds were met


def test_a_line_read_otherwise_is_noticed(kept: Any) -> None:
    rules = release("2.15.0")
    values = next(v for torch, line, v in kept if torch == "2.15.0" and line == "")
    assert difference("", values, rules) == ""
    assert difference("", None, rules) == "PyTorch refuses it"
    assert difference("max_split_size_mb:1", values, rules) == "PyTorch accepts it"
    for name, value in values.items():
        other = "x" if isinstance(value, str) else (1,) if isinstance(value, tuple) else 7
        assert difference("", values | {name: other}, rules).startswith(f"{name}: PyTorch")
    reserve = "expandable_segments_reserve"
    assert reserve in difference("", values | {reserve: 1 << 40}, rules)
    assert reserve in difference(f"{reserve}:0.5", values, rules)


def test_releases_read_lines_differently(kept: Any) -> None:
    """The file can tell parsers apart: under the next release's rules some answers are wrong."""
    for version, other in (("2.9.1", "2.10.0"), ("2.10.0", "2.11.0"), ("2.4.1", "2.6.0")):
        assert any(difference(line, v, release(other)) for t, line, v in kept if t == version)


def test_only_lists_without_an_end_are_left_open() -> None:
    assert left_open("roundup_power2_divisions:[1:2", release("2.9.1")) == BEYOND
    assert left_open("roundup_power2_divisions:[1:2", release("2.10.0")) == ""
    assert left_open("roundup_power2_divisions:[1:2]", release("2.9.1")) == ""
    assert left_open("max_split_size_mb", release("2.9.1")) == ""
    lines = [wild_line(random.Random(k), release("2.9.1")) for k in range(2000)]
    assert sum(bool(left_open(line, release("2.9.1"))) for line in lines) < 20


def test_wild_lines_are_of_every_sort() -> None:
    rules = release("2.15.0")
    lines = {wild_line(random.Random(k), rules, ("max_split_size_mb:77",)) for k in range(1500)}
    assert len(lines) > 1100
    for part in ("\n", "é", "[", "77", ",,", " ", "True", "-1", "=", "::"):
        assert any(part in line for line in lines), part
    assert not any("\0" in line for line in lines)


def parser_at_hand(version: str) -> Path:
    try:
        return build_program(find_wheel(version, download=False), "settings.cpp")
    except VerificationError as error:
        pytest.skip(f"the real parser: {str(error).split(' (looked')[0]}")


@pytest.mark.parametrize("version", RELEASES)
def test_fresh_lines_are_read_alike(kept: Any, version: str) -> None:
    parser_at_hand(version)
    older = json.loads((GOLDEN / "settings_lines.json").read_text())["lines"]
    seeds = (*(line for line, *_ in older), *(line for _, line, _ in kept))
    proof = Lines(version, random.SystemRandom().randrange(1 << 40))
    prove_lines(proof, 150, None, seeds)
    assert proof.differences == [], proof.seed
    assert proof.accepted > 15 and proof.refused > 60


def test_the_compiled_parsers_still_answer_as_in_the_file(kept: Any) -> None:
    program = parser_at_hand("2.15.0")
    mine = [(line, values) for torch, line, values in kept if torch == "2.15.0"]
    assert ask_parser(program, [line for line, _ in mine]) == [values for _, values in mine]


def test_prove_says_which_lines_differ(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(parsing, "find_wheel", lambda version, folder: None)
    monkeypatch.setattr(parsing, "build_program", lambda wheel, source: Path("settings"))
    monkeypatch.setattr(parsing, "wild_line", lambda rng, rules, seeds: "max_split_size_mb:1")
    monkeypatch.setattr(parsing, "ask_parser", lambda program, lines: [None] * len(lines))
    assert cli.main(["prove", "--lines", "7", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["verdict"].startswith("THE SAME: 7 lines")
    assert value["releases"][0]["refused"] == 7
    monkeypatch.setattr(parsing, "ask_parser", lambda program, lines: [{}] * len(lines))
    assert cli.main(["prove", "--lines", "7"]) == 1
    printed = capsys.readouterr().out
    assert "DIFFERENT: 7 of 7 lines" in printed
    assert "torch 2.15.0: 'max_split_size_mb:1': PyTorch accepts it" in printed


def test_bytes_that_are_no_text_reach_the_parser_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bytes] = []

    def answer(words: Any, input: bytes, **more: Any) -> SimpleNamespace:
        given.append(input)
        return SimpleNamespace(stdout=struct.pack("<II", 1, 0), returncode=0)

    monkeypatch.setattr("subprocess.run", answer)
    assert ask_parser(tmp_path, ["a\udcff"]) == [None]
    assert given == [struct.pack("<I", 2) + b"a\xff"]


def test_a_program_that_ends_early_is_an_error(tmp_path: Path) -> None:
    program = tmp_path / "settings"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(VerificationError, match="status 3 before the line"):
        ask_parser(program, ["", "a:1"])

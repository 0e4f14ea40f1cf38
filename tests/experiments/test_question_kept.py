"""`tightfit run` keeps what it measured: nothing is done twice, and nothing else is believed."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments.cli import main
from tightfit.experiments.kept import mark_of
from tightfit.experiments.question import journal as keeping
from tightfit.experiments.question import runner as running
from tightfit.experiments.question.entries import (
    row_kept,
    smallest_kept,
    told_kept,
    values_kept,
)
from tightfit.experiments.row import Row, packing_row

from .asked import MLP, MORE, OWN, STREAMS, TEXT, run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "asked.toml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_what_is_done_is_not_done_again(
    file: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(file, capsys)
    assert first["kept"] == 0 and first["measured"] == 2 * (1 + 4 * 2 + 1)
    monkeypatch.setattr(running.Loaded, "subjects", property(lambda self: pytest.fail("read")))
    again = run(file, capsys)
    assert (again["measured"], again["kept"]) == (0, first["measured"])
    assert again["traces"] == first["traces"] and again["overall"] == first["overall"]
    monkeypatch.undo()
    file.write_text(TEXT + 'label = "told"\n[[policy]]\nname = "buddy"\n', encoding="utf-8")
    more = run(file, capsys)
    assert more["measured"] == 2 * 2  # a label is nothing new, a policy is
    assert [r["policy"] for r in more["traces"][0]["rows"]][-2:] == ["told", "buddy"]


def test_what_check_counts_is_what_was_run(file: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["run", str(file), "--check"]) == 0
    assert ": 8 runs," in capsys.readouterr().out.splitlines()[0]
    for said in ("8 runs: 8 new, 0 kept from before", "8 runs: 0 new, 8 kept from before"):
        assert main(["run", str(file)]) == 0
        assert said in capsys.readouterr().out.splitlines()


def test_an_interrupted_experiment_goes_on(
    file: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(file, capsys, "--out", str(file.parent / "whole"))
    real = packing_row

    def interrupt(*words: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "packing_row", interrupt)
    assert main(["run", str(file)]) == 130
    assert "4 runs kept in" in capsys.readouterr().err
    folder = file.with_suffix(".results")
    assert [p.name for p in folder.iterdir()] == ["journal.jsonl"]
    with (folder / "journal.jsonl").open("a", encoding="utf-8") as journal:
        journal.write('{"key": "torn by whoever was kil')
    monkeypatch.setattr(running, "packing_row", real)
    rest = run(file, capsys)
    assert (rest["kept"], rest["measured"]) == (9, whole["measured"] - 9)
    assert rest["traces"] == whole["traces"]
    assert run(file, capsys)["measured"] == 0


def test_an_entry_that_was_changed_is_measured_again(
    file: Path, capsys: pytest.CaptureFixture
) -> None:
    first = run(file, capsys)
    journal = file.with_suffix(".results") / "journal.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines()
    at = next(k for k, line in enumerate(lines) if "peak_reserved_bytes" in line)
    lines[at] = re.sub(r'"peak_reserved_bytes": \d+', '"peak_reserved_bytes": 1', lines[at])
    lines[at + 1] = '{"key": 3, "value": [], "mark": {}}'
    journal.write_text("\n".join([*lines, "[]", "7", '"x"', "{}"]), encoding="utf-8")
    again = run(file, capsys)
    assert again["measured"] == 2 and again["traces"] == first["traces"]


def test_an_entry_of_another_shape_counts_as_not_there(
    file: Path, capsys: pytest.CaptureFixture
) -> None:
    """Its mark is right all the same."""
    file.write_text(TEXT.replace(MORE, ""), encoding="utf-8")
    first = run(file, capsys)
    journal = file.with_suffix(".results") / "journal.jsonl"
    entries = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    shapes = itertools.cycle([5, [], {}, "x", {"value": 5}])
    with journal.open("w", encoding="utf-8") as out:
        for key in [*(e["key"] for e in entries), ["a list"]]:
            value = next(shapes)
            entry = {"key": key, "value": value, "mark": mark_of(key, value)}
            out.write(json.dumps(entry) + "\n")
    again = run(file, capsys)
    assert (again["measured"], again["kept"]) == (len(entries), 0)
    assert again["traces"] == first["traces"]


BOUND = asdict(Row("peak live bytes", "bound", "a source", 5, 0.0)) | {"ignores": []}
PLACE = {"index": 0, "events": 5, "is_warm": False, "bound": BOUND}
TOLD = {"torch": "2.15", "words": "", "is_long": False, "devices": [PLACE], "notes": ["a"]}


@pytest.mark.parametrize(
    ("read", "entry"),
    [
        *((told_kept, TOLD | change) for change in (
            {"torch": "9.9"}, {"torch": 5}, {"devices": [5]}, {"devices": [PLACE | {"bound": {}}]},
            {"devices": [PLACE | {"index": "0"}]}, {"notes": [5]}, {"is_long": 0})),
        *((row_kept, BOUND | change) for change in ({"ooms": "1"}, {"ignores": 5}, {"role": None})),
        (smallest_kept, {"value": 5}), (smallest_kept, {"bytes": 1}), (values_kept, {"value": 5}),
        *((read, value) for value in (5, [], {}, "x", None)
          for read in (told_kept, row_kept, smallest_kept, values_kept)),
    ],
)  # fmt: skip
def test_an_entry_of_another_shape_is_known(read: Any, entry: Any) -> None:
    with pytest.raises(ValueError):
        read(entry)
    assert told_kept(TOLD) == TOLD and row_kept(BOUND).role == "bound"
    assert smallest_kept({"value": None}) is None and values_kept({"value": ""}) == ""


def test_another_program_or_device_is_not_taken_for_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file, trace = tmp_path / "asked.toml", tmp_path / "x.npz"
    text = 'question = "Which?"\npacking_seconds = 0\n[[trace]]\nfile = "x.npz"\n'
    file.write_text(text + '[[policy]]\nname = "pytorch"\n', encoding="utf-8")
    trace.write_bytes(STREAMS.read_bytes())
    one = run(file, capsys)
    trace.write_bytes(MLP.read_bytes())
    other = run(file, capsys)
    assert other["kept"] == 0
    assert one["traces"][0]["rows"] != other["traces"][0]["rows"]
    file.write_text(file.read_text() + '[device]\ncapacity = "30GiB"\n', encoding="utf-8")
    assert run(file, capsys)["kept"] == 2  # what was recorded, and the smallest GPU


def test_what_was_found_for_a_policy_of_ones_own_goes_where_its_file_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    (here / "mine.py").write_text(OWN.read_text(encoding="utf-8"), encoding="utf-8")
    (here / "asked.toml").write_text(
        f'question = "?"\npacking_seconds = 0\n[[trace]]\nfile = "{MLP}"\n'
        '[[policy]]\nname = "mine.py"\ntune = "each"\ntrials = 8\n',
        encoding="utf-8",
    )
    monkeypatch.chdir(here)
    first = run(Path("asked.toml"), capsys)
    monkeypatch.chdir(tmp_path)
    assert run(Path("here/asked.toml"), capsys)["measured"] == 0
    here.rename(there)
    again = run(there / "asked.toml", capsys)
    assert again["measured"] == 0
    assert again["traces"][0]["texts"] == first["traces"][0]["texts"]
    (text,) = set(first["traces"][0]["texts"].values()) - {"pytorch"}
    assert text.startswith("mine.py:")
    for name in ("runs.csv", "tables.md", "tables.tex"):
        written = (there / "asked.results" / name).read_text(encoding="utf-8")
        assert str(tmp_path) not in written.replace(str(MLP), "")


def test_other_code_measures_anew(
    file: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(file, capsys)
    monkeypatch.setattr(keeping, "code_hash", lambda: "other code")
    again = run(file, capsys)
    assert (again["kept"], again["measured"]) == (0, first["measured"])

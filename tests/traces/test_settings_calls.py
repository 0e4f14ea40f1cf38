"""Settings calls: where they stand in a program, and what a recording says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightfit.traces import settings_calls
from tightfit.traces.errors import TraceError
from tightfit.traces.history import lift
from tightfit.traces.load import load
from tightfit.traces.program import Op, Program, SettingsCall
from tightfit.traces.recording import SETTINGS_CALLS
from tightfit.traces.settings_calls import (
    noted_calls,
    with_settings_calls,
    without_settings_calls,
)
from tightfit.traces.store import save
from tightfit.traces.strip import strip

pytestmark = pytest.mark.interpreted
DATA = Path(__file__).resolve().parents[2] / "traces" / "data"


@pytest.fixture(scope="module")
def program() -> Program:
    return lift(load(DATA / "cuda_graphs.default.npz"), 0)


def same(a: Program, b: Program) -> bool:
    columns = ("op", "arg", "entry", "driver_op", "driver_addr", "request")
    return all(np.array_equal(getattr(a, c), getattr(b, c)) for c in columns)


def test_a_call_stands_before_the_first_op_of_its_entry(program: Program) -> None:
    last = int(program.entry.max())
    calls = [SettingsCall(last + 1, "c"), SettingsCall(100, "a"), SettingsCall(100, "b")]
    changed = with_settings_calls(program, calls)
    assert [c.line for c in changed.settings_calls] == ["a", "b", "c"]
    at = np.flatnonzero(changed.op == Op.CHANGE)
    assert changed.arg[at].tolist() == [1, 2, 3] and (changed.entry[at] == -1).all()
    assert at[1] == at[0] + 1 and at[2] == changed.n_ops - 1
    assert changed.entry[at[1] + 1] >= 100 > changed.entry[: at[0]].max()


def test_the_drivers_calls_stay_with_their_ops(program: Program) -> None:
    changed = with_settings_calls(program, [SettingsCall(e, "") for e in (0, 90, 91, 400)])
    for column in ("op", "entry"):
        was, now = getattr(program, column), getattr(changed, column)
        assert np.array_equal(was[program.driver_op], now[changed.driver_op])
    assert same(without_settings_calls(changed), program)
    assert without_settings_calls(changed).findings == program.findings
    assert without_settings_calls(program) is program


def test_what_is_said_of_them(program: Program) -> None:
    few = with_settings_calls(program, [SettingsCall(3, "expandable_segments:True")])
    assert few.complete == program.complete
    assert few.findings[-1].text == (
        "the program itself sets expandable_segments:True before entry 3, whatever the line it is "
        "started with"
    )
    many = with_settings_calls(few, [SettingsCall(e, "") for e in range(9)], ", as one sees")
    assert not many.complete and [f.kind for f in many.findings].count("settings_calls") == 0
    assert "; ... 9 times in all, as one sees, whatever" in many.findings[-1].text


def test_too_many_are_refused(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_calls, "MOST_CALLS", 2)
    with pytest.raises(TraceError, match="found 3 settings calls, expected at most 2"):
        with_settings_calls(program, [SettingsCall(0, "")] * 3)


def test_a_recording_keeps_the_calls_that_were_noted(tmp_path: Path) -> None:
    recording = load(DATA / "cuda_graphs.default.npz")
    line = "expandable_segments_reserve_by_class:[mine:1G],max_split_size_mb:64"
    calls = {"0": [[7, line], [100, "expandable_segments:True"]]}
    recording.settings[SETTINGS_CALLS] = {"first": line, "calls": calls}
    for stripped in (False, True):
        kept = strip(recording) if stripped else recording
        save(kept, tmp_path / f"{stripped}.npz")
        back = load(tmp_path / f"{stripped}.npz")
        told = "max_split_size_mb:64" if stripped else line
        assert back.first_conf == told and back.conf == ""
        assert lift(back, 0).settings_calls == (
            SettingsCall(7, told), SettingsCall(100, "expandable_segments:True"),
        )  # fmt: skip


@pytest.mark.parametrize(
    "noted",
    [
        [],
        "x",
        {"first": ""},
        {"calls": {}},
        {"first": 3, "calls": {}},
        {"first": "", "calls": []},
        {"first": "", "calls": {"0": 5}},
        {"first": "", "calls": {"0": [[1]]}},
        {"first": "", "calls": {"0": [[1, 2]]}},
        {"first": "", "calls": {"0": [["1", "x"]]}},
        {"first": "", "calls": {"0": [[True, "x"]]}},
    ],
)
def test_anything_else_in_their_place_is_one_message(noted: Any) -> None:
    with pytest.raises(TraceError, match="settings_calls: found .*, expected the line at first"):
        noted_calls({SETTINGS_CALLS: noted}, 0)
    recording = load(DATA / "cuda_graphs.default.npz")
    recording = replace(recording, settings={SETTINGS_CALLS: noted})
    with pytest.raises(TraceError, match="settings_calls: found"):
        lift(recording, 0)
    if isinstance(noted, dict):
        with pytest.raises(TraceError, match="settings_calls: found"):
            strip(recording)

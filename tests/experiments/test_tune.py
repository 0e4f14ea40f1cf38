"""tune: no worse than trying everything with the reference, and honest when nothing helps."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tightfit.experiments import tuning
from tightfit.experiments.candidates import finite_lines, forbidden_keys
from tightfit.experiments.cli import app, main
from tightfit.experiments.line_notes import notes_on_releases
from tightfit.experiments.measure import Bench
from tightfit.experiments.outcome_cache import OutcomeCache
from tightfit.experiments.recommend import Line, Rank, recommend
from tightfit.experiments.recorded_by import recorded_by
from tightfit.experiments.subject import Subject, load_subjects
from tightfit.sim.device import Device
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.sim.settings_line import format_settings, parse_settings
from tightfit.traces.errors import ConfigError
from tightfit.traces.recording import DeviceRecording, Recording
from tightfit.traces.units import MiB

from .story import dump, snapshot

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
RULES = release("2.15")


def subject(name: str) -> Subject:
    return load_subjects(DATA / f"{name}.npz")[0]


def command(*words: str) -> tuple[int, dict]:
    result = CliRunner().invoke(app, ["tune", *words, "--json"])
    return result.exit_code, json.loads(result.stdout) if result.stdout else {}


def test_is_no_worse_than_an_exhaustive_sweep_by_the_reference() -> None:
    cnn = subject("cnn_resolutions.default")
    lines = Bench([cnn], RULES, Device()).distinct(
        finite_lines([cnn], RULES, Device(), frozenset())
    )
    reduced = lines[:: max(1, len(lines) // 24)]
    sweep = {
        format_settings(s, RULES): replay_reference(cnn.program, s, RULES).stats[
            "reserved_bytes.all.peak"
        ]
        for s in reduced
    }
    bench = Bench([cnn], RULES, Device())
    bench.measure_all(reduced)
    for settings in reduced:
        found = bench.measure(settings)[0].peak_reserved_bytes
        assert found == sweep[format_settings(settings, RULES)]
    answer = tuning.find_line([cnn], Device(), "2.15", [], trials=8)
    assert answer.best.peak_reserved_bytes <= min(sweep.values()) * 1.01


def test_lines_of_equal_effect_are_replayed_once() -> None:
    cnn = subject("cnn_resolutions.default")
    bench = Bench([cnn], RULES, Device())
    largest = int(cnn.program.req_size.max()) // MiB
    a = parse_settings(f"max_split_size_mb:{largest + 100}", RULES)
    assert bench.effect(a) == bench.effect(Settings())
    assert bench.effect(parse_settings("expandable_segments:True", RULES)) != bench.effect(a)


def test_every_enumerated_line_is_one_the_release_accepts() -> None:
    gpt = subject("gpt_bf16_varlen.default")
    for text in ("2.4", "2.9", "2.10", "2.11", "2.15"):
        rules = release(text)
        for settings in finite_lines([gpt], rules, Device(80 << 30), frozenset()):
            line = format_settings(settings, rules)
            assert replace(parse_settings(line, rules), conf="") == replace(settings, conf=""), line


def test_smallest_capacity_is_where_the_program_stops_fitting() -> None:
    gpt = subject("gpt_checkpoint.default")
    bench = Bench([gpt], RULES, Device())
    least = bench.smallest_device(Settings())
    assert least is not None
    for total, ooms in ((least.bytes, 0), (least.bytes - 2 * MiB, 1)):
        run = bench._run(gpt, Settings(), Device(total))
        assert run.stats["num_ooms"] == ooms


def test_answers_the_json_contract() -> None:
    code, said = command(str(DATA / "gpt_bf16_varlen.default.npz"), "--trials", "4")
    assert code == 0
    assert said["default"]["peak_reserved_bytes"] == 9372 * MiB
    assert said["recorded"] == said["default"]
    assert said["expandable"]["peak_reserved_bytes"] == 6688 * MiB
    assert said["best"]["peak_reserved_bytes"] <= 6688 * MiB
    assert said["bound_bytes"] <= said["best"]["min_capacity_bytes"]
    assert said["best"]["min_capacity_bytes"] <= said["best"]["peak_reserved_bytes"]
    assert said["candidates"] > 100
    parse_settings(said["best"]["conf"], release(said["torch"]))


def test_honours_what_is_forbidden_and_says_what_it_costs() -> None:
    code, said = command(
        str(DATA / "gpt_bf16_varlen.default.npz"),
        "--without", "expandable_segments", "--trials", "0",
    )  # fmt: skip
    assert code == 0
    assert "expandable_segments" not in said["best"]["conf"]
    assert said["unrestricted"]["peak_reserved_bytes"] < said["best"]["peak_reserved_bytes"]


def test_says_that_nothing_helps_and_why() -> None:
    code, said = command(str(DATA / "streams.default.npz"), "--capacity", "30MiB", "--trials", "0")
    assert code == 1
    assert said["verdict"].startswith("DOES NOT FIT")
    assert "True exhaustion" in said["words"][0]


def test_tunes_several_recordings_for_the_worst_of_them() -> None:
    names = ("cnn_resolutions.default", "gpt_checkpoint.default")
    code, said = command(*(str(DATA / f"{n}.npz") for n in names), "--trials", "0")
    assert code == 0
    assert [Path(t["trace"]).stem for t in said["traces"]] == list(names)
    assert said["best"]["peak_reserved_bytes"] == max(
        t["best"]["peak_reserved_bytes"] for t in said["traces"]
    )


def test_one_device_of_several_is_tuned_alone(tmp_path: Path, capsys: Any) -> None:
    """The second device holds what the first does: only it is asked about, and named again."""
    content = snapshot()
    content["segments"].append(copy.deepcopy(content["segments"][0]) | {"device": 1})
    content["device_traces"].append(copy.deepcopy(content["device_traces"][0]))
    path = str(dump(content, tmp_path / "two.pickle"))
    words = ["--trials", "0", "--torch", "2.12"]
    devices = {None: [0, 1], 1: [1]}
    for device, found in devices.items():
        asked = [] if device is None else ["--device", str(device)]
        code, answer = command(path, *words, *asked)
        assert code == 0 and [t["device"] for t in answer["traces"]] == found
    assert main(["tune", path, *words, "--device", "1"]) == 0
    assert " --device 1 --torch 2.12" in capsys.readouterr().out.splitlines()[-1]
    assert main(["tune", path, "--device", "2"]) == 2
    assert "found no history of device 2, expected one of 0, 1" in capsys.readouterr().err


def test_a_key_the_release_lacks_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'expandable_segments'"):
        forbidden_keys(["expandable_segment"], RULES)


def ranked(conf: str, worst: float, failures: int = 0) -> Line:
    return Line(conf, Settings(), Rank(failures, 0, worst, worst, 10))


def test_recommends_the_simpler_line_unless_the_other_is_worth_it() -> None:
    default, one = ranked("", 1.10), ranked("expandable_segments:True", 1.095)
    assert recommend([default, one]) == default  # half a percent is not worth a setting
    two = ranked("expandable_segments:True,roundup_power2_divisions:[1:4,>:8]", 1.01)
    assert recommend([default, one, two]) == two
    assert recommend([ranked("", 1.10, failures=1), one]) == one  # it fits, the default does not


def test_an_interrupted_search_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "search", interrupt)
    answer = tuning.find_line([subject("cnn_resolutions.default")], Device(), "2.15", [], trials=5)
    assert answer.interrupted
    assert answer.best.peak_reserved_bytes <= answer.default.peak_reserved_bytes


def test_an_interruption_before_anything_was_measured_is_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(OutcomeCache, "load", lambda self: {})
    monkeypatch.setattr(Bench, "measure_all", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tuning.find_line([subject("mlp_train")], Device(), "2.15", [], trials=5)


def test_a_line_that_a_recordings_release_may_refuse_is_said_to_be_one() -> None:
    old = Recording("old.pickle", {0: DeviceRecording()}, settings={"expandable_segments": False})
    line = "large_segment_size_mb:64"
    assert recorded_by(old).newest == "2.8"
    (note,) = notes_on_releases(line, [old, old])
    assert "old.pickle was recorded by torch 2." in note.text and "exists from 2.11" in note.text
    assert notes_on_releases("max_split_size_mb:64", [old]) == []
    assert notes_on_releases(line, [subject("mlp_train").recording]) == []


def test_what_only_spares_the_cache_is_not_said_to_save_nothing(capsys: Any) -> None:
    trace = str(DATA / "gpt_bf16_varlen.default.npz")
    # 9,372 MiB are its peak on a larger one: what is saved of that is not saved here
    assert main(["tune", trace, "--trials", "0", "--capacity", "7000MiB"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert " gives no cache back on 7,000.0 MiB, the default once (simulated)" in said
    assert "On a GPU with room for it, it saves 2,684.0 MiB" in said
    assert "Peaks and waste are those on a GPU with room for them" in said
    assert main(["tune", trace, "--trials", "0", "--capacity", "6230MiB"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "First block:" not in said  # it does not fit there
    assert "OOM at" in said


def test_several_recordings_are_replayed_by_the_rules_they_were_tuned_by(capsys: Any) -> None:
    paths = [str(DATA / f"{name}.npz") for name in ("mlp_train", "fsdp_rank0of4")]
    assert main(["tune", *paths, "--trials", "0"]) == 0
    out = capsys.readouterr().out
    assert "Each column shows the worst of the recordings" in " ".join(out.split())
    assert out.splitlines()[-1].endswith("--torch 2.15")

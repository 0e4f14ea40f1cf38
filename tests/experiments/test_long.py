"""Long traces on the command line: written, asked every question, refused in one message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tightfit.experiments import long_made
from tightfit.experiments.cli import app, main

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
VARLEN = DATA / "gpt_bf16_varlen.default.npz"


def run(*words: object, code: int = 0) -> dict:
    result = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", ["train_var", "kv_doubling"])
def test_a_workload_gives_the_answers_of_its_recording(name: str, tmp_path: Path) -> None:
    long, recording = tmp_path / "x.events", tmp_path / "x.npz"
    made = [run("workloads", name, path, "--events", 30_000) for path in (long, recording)]
    assert made[0]["findings"] == made[1]["findings"]
    peak = run("replay", recording)["devices"][0]["peak_reserved_bytes"]
    questions: list[tuple[tuple[object, ...], int]] = [
        (("replay",), 0),
        (("replay", "--conf", "expandable_segments:True"), 0),
        (("replay", "--capacity", peak * 8 // 10), 1),
        (("replay", "--capacity", peak * 8 // 10, "--keep-going"), 1),
    ]
    for (command, *options), code in questions:
        answers = [run(command, path, *options, code=code) for path in (long, recording)]
        assert answers[0] == answers[1]
    described = [run("info", path) for path in (long, recording)]
    for key in ("entries", "allocations", "streams", "peak_requested_bytes", "end_requested_bytes"):
        assert described[0]["devices"][0][key] == described[1]["devices"][0][key]
    assert described[0]["findings"] == described[1]["findings"]
    tuned = [run("tune", path, "--trials", 3, "--capacity", 2 * peak) for path in (long, recording)]
    for said in tuned:
        del said["traces"], said["first_block"]  # nothing is put before a long trace
    assert tuned[0] == tuned[1]


def test_compare_gives_the_same_rows_and_says_who_is_missing(tmp_path: Path) -> None:
    long, recording = tmp_path / "x.events", tmp_path / "x.npz"
    for path in (long, recording):
        run("workloads", "train_var", path, "--events", 20_000)
    words = ("--packing", 0, "--policy", "best_fit", "--policy", "buddy", "--policy", "expandable")
    rows = [run("compare", path, *words)["traces"][0]["rows"] for path in (long, recording)]
    assert rows[0] == rows[1]
    text = CliRunner().invoke(app, ["compare", str(long)]).stdout
    missing = "no offline packing was searched for, and planned, clairvoyant were left out"
    assert missing in " ".join(text.split())
    for form in ("--json", "--markdown", "--latex"):
        assert missing in CliRunner().invoke(app, ["compare", str(long), form]).stdout


@pytest.mark.parametrize(
    "path", sorted(DATA.glob("*_rank0of*.npz")) + [VARLEN], ids=lambda p: p.stem
)
def test_a_converted_recording_gives_the_same_answers(path: Path, tmp_path: Path) -> None:
    long = tmp_path / "x.events"
    run("convert", path, long)
    peak = run("replay", path)["devices"][0]["peak_reserved_bytes"]
    for options, code in (
        ((), 0),
        (("--conf", "expandable_segments:True"), 0),
        (("--capacity", peak * 6 // 10), 1),
        (("--capacity", peak * 6 // 10, "--keep-going"), 1),
    ):
        answers = [
            run("replay", p, "--torch", "2.15", *options, code=code)["devices"]
            for p in (long, path)
        ]
        assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("replay", "x.events", "--snapshot", "x.pickle"), "too long for a snapshot"),
        (("compare", "x.events", "--policy", "clairvoyant"), "told of the whole program"),
        (("convert", "x.events", "y.npz"), "found a long trace"),
        (("live", "--policy", "best_fit", "--check", "x.events"), "as live --check needs them"),
        (("live", "--policy", "expandable", "--check", "x.events"), "as live --check needs them"),
        (("verify", "x.events", "--conf", ""), "as verify needs them; expected the recording it"),
        (("tune", "x.events", "--policy", "planned"), "as --policy planned needs them"),
        (("run", "x.toml"), "planned: it is told of the whole program beforehand, and x is a long"),
        (("replay", "x.events", "--device", "3"), "no history of device 3"),
        (("replay", "cut.events"), "cut short"),
        (("info", "flipped.events"), "wrong checksum"),
        (("workloads", "train", "y.npz", "--events", "300000000"), "OUT.events can hold"),
        (("convert", str(VARLEN), "y.npz", "--device", "0"), "only OUT.events holds one"),
        (("convert", str(VARLEN), "y.events", "--device", "5"), "devices 0; expected one"),
        (("convert", str(VARLEN), "x.events"), "--force"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    words: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    long_made.write_pattern(Path("x.events"), "serve", 5000, 1, lambda n: None)
    data = bytearray(Path("x.events").read_bytes())
    Path("cut.events").write_bytes(data[:-9])
    data[9000] ^= 4
    Path("flipped.events").write_bytes(data)
    Path("x.toml").write_text(
        'question = "?"\n[[trace]]\nfile = "x.events"\n'
        '[[policy]]\nname = "planned"\ntune = "each"\n'
    )
    assert main(list(words)) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert err.startswith("tightfit: ") and said in err


def test_an_interrupted_writer_leaves_nothing_behind(tmp_path: Path) -> None:
    def stop(n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        long_made.write_pattern(tmp_path / "x.events", "random", 600_000, 1, stop)
    assert list(tmp_path.iterdir()) == []

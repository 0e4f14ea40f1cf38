"""`tightfit workloads`: lists, makes, refuses; and what it makes can be asked every question."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tightfit.experiments import workloads
from tightfit.experiments.cli import app, main
from tightfit.experiments.corpus.catalogue import WORKLOADS as RECORDED
from tightfit.traces.event import Action
from tightfit.traces.load import load
from tightfit.traces.synthetic import PATTERNS

MiB = 1 << 20


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == code, result.output
    return result.stdout


def test_without_a_name_it_lists_them() -> None:
    text = run("workloads")
    found = json.loads(run("workloads", "--json"))
    assert set(found["workloads"]) == {"kv_cat", "kv_doubling", "kv_paged", "kv_prefix"}
    assert set(found["patterns"]) == set(PATTERNS)
    assert set(found["recorded"]) == {w.name for w in RECORDED}
    assert all(name in text for name in found["workloads"]) and "CC-BY-4.0" in text


def test_what_it_makes_is_tuned_replayed_and_described(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    text = run("workloads", "kv_doubling", path, "--events", 6_000, "--seed", 3)
    assert "6,000 allocations and frees, synthetic" in text and "seed 3" in text
    assert "synthetic = kv_doubling, seed 3, 6,000 events" in run("info", path)
    assert run("check", path).startswith("NOTHING TO CHECK")
    (device,) = json.loads(run("replay", path, "--json"))["devices"]
    found = json.loads(run("tune", path, "--trials", 2, "--json"))
    assert found["default"]["peak_reserved_bytes"] == device["peak_reserved_bytes"]
    assert found["bound_bytes"] == device["peak_requested_bytes"] > 2000 * MiB
    assert found["bound_bytes"] <= found["best"]["peak_reserved_bytes"]
    assert found["best"]["peak_reserved_bytes"] <= found["default"]["peak_reserved_bytes"]
    assert "synthetic" in {f["kind"] for f in found["findings"]}


def test_a_log_of_ones_own_is_served(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nx,100,50\ny,200,60\n")
    made = json.loads(
        run(
            "workloads", "kv_cat", tmp_path / "x.npz", "--requests", log, "--events", 5000, "--json"
        )
    )
    assert made["requests"] == "log.csv, in its order" and made["workload"] == "kv_cat"
    assert "repeated" in {f["kind"] for f in made["findings"]}


def test_wrong_words_are_answered_with_the_nearest_right_ones(tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "x.npz")
    for words, message in (
        (["kv_cart", out], "did you mean 'kv_cat'?"),
        (["kv_cat"], "the file to write is missing"),
        (["kv_cat", str(tmp_path / "x.txt")], "must end in .npz"),
        (["kv_cat", out, "--lengths", "cod"], "did you mean 'code'?"),
        (["kv_cat", out, "--requests", str(tmp_path / "none")], "none: cannot be read"),
        (["kv_cat", out, "--requests", out, "--lengths", "code"], "give one"),
        (["kv_cat", out, "--events", "999999999"], "expected at most"),
        (["train", out, "--lengths", "code"], "are for kv_cat"),
        (["gpt_bf16", out, "--seed", "1"], "gpt_bf16 is recorded"),
        (["gpt_bf17", out], "did you mean 'gpt_bf16'?"),
    ):
        assert main(["workloads", *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    run("workloads", "kv_paged", path, "--events", 1000)
    run("workloads", "kv_paged", path, "--events", 1000, code=1)
    run("workloads", "kv_paged", path, "--events", 1000, "--force")


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_is_as_long_as_asked_and_the_same_again(tmp_path: Path, name: str) -> None:
    paths = tmp_path / "a.npz", tmp_path / "b.npz", tmp_path / "c.npz"
    for path, seed in zip(paths, (5, 5, 6), strict=True):
        made = json.loads(run("workloads", name, path, "--events", 4_001, "--seed", seed, "--json"))
        assert (made["workload"], made["seed"], made["events"]) == (name, seed, 4_001)
    first, again, other = (load(path).devices[0].entries for path in paths)
    # A free is two entries, requested and completed.
    assert (first["action"] != Action.FREE_COMPLETED).sum() == 4_001
    assert all((first[key] == again[key]).all() for key in first)
    assert len(first["size"]) != len(other["size"]) or (first["size"] != other["size"]).any()


def test_a_recorded_workload_is_recorded_anew(tmp_path: Path, monkeypatch) -> None:
    shipped = Path(workloads.__file__).parents[1] / "traces" / "data"

    def rerecord(workload, line: str, folder: Path) -> list[Path]:
        """Copy what the stand-in would record; tests of the corpus run the real thing."""
        names = workload.files(line).values()
        return [Path(shutil.copy(shipped / name, folder / name)) for name in names]

    monkeypatch.setattr("tightfit.experiments.corpus.rerecord.rerecord", rerecord)
    run("workloads", "convnet", tmp_path / "one.npz")
    run("workloads", "sharded", tmp_path / "many.npz")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["many.rank0.npz", "many.rank3.npz", "one.npz"]
    assert run("check", tmp_path / "many.rank3.npz").startswith("EXACT")

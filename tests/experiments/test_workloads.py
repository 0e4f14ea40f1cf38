"""`tightfit workloads`: lists, makes, refuses; and what it makes can be asked every question."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from tightfit.experiments.cli import app, main

MiB = 1 << 20


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == code, result.output
    return result.stdout


def test_without_a_name_it_lists_them() -> None:
    text = run("workloads")
    found = json.loads(run("workloads", "--json"))
    assert set(found["workloads"]) == {"kv_cat", "kv_doubling", "kv_paged", "kv_prefix"}
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
    ):
        assert main(["workloads", *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()


def test_an_existing_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    run("workloads", "kv_paged", path, "--events", 1000)
    run("workloads", "kv_paged", path, "--events", 1000, code=1)
    run("workloads", "kv_paged", path, "--events", 1000, "--force")

"""policy: a file written by `new` passes `check`; what breaks the contract is found and named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tightfit.experiments.cli import app, main
from tightfit.policies.contender import names

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
TRACE = str(ROOT / "traces" / "data" / "mlp_train.npz")
OVERLAPS = '''"""Overlaps: every block at the same place."""
import numpy as np
from tightfit.sim.ground import drop_block, new_block
from tightfit.sim.ground_driver import driver_free, driver_malloc
from tightfit.sim.mechanism import Honours, Mechanism


def allocate(m, size, lane):
    a = driver_malloc(m, size)
    if a < 0:
        return np.int64(0)
    b = new_block(m)
    m.addr[b] = 512
    m.size[b] = size
    return b


def free(m, b):
    driver_free(m, m.size[b])
    drop_block(m, b)


Overlaps = Mechanism("overlaps", "no source at all", allocate, free, honours=Honours(returns=True))
'''


def policy(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["policy", *words])
    return result.exit_code, result.stdout


@pytest.mark.parametrize("kind", ["hooks", "mechanism"])
def test_what_new_writes_passes_check_and_its_own_test(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "my_fit.py"
    assert policy("new", str(file), "--kind", kind)[0] == 0
    assert len(file.read_text().splitlines()) <= 50
    code, out = policy("check", str(file), "--operations", "5000")
    assert code == 0 and "keeps the contract" in " ".join(out.split())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_new_replaces_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my_fit.py"
    file.write_text("mine")
    assert main(["policy", "new", str(file)]) == 2
    assert "--force" in capsys.readouterr().err and file.read_text() == "mine"
    assert main(["policy", "new", str(tmp_path / "my-fit.py")]) == 2
    assert main(["policy", "new", str(tmp_path / "none" / "fit.py")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["policy", "new", str(tmp_path / "fit.py"), "--kind", "hook"]) == 2
    assert "did you mean 'hooks'" in capsys.readouterr().err


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_is_short_and_works(example: Path) -> None:
    assert len(example.read_text().splitlines()) < 60
    code, out = policy("check", str(example), "--json")
    report = json.loads(out)
    assert code == 0 and report["holds"] and report["operations"] > 100_000
    result = CliRunner().invoke(app, ["compare", TRACE, "--policy", str(example), "--json"])
    (row,) = [r for r in json.loads(result.stdout)["traces"][0]["rows"] if r["role"] == "policy"]
    assert row["peak_reserved_bytes"] > 0


def test_there_are_examples() -> None:
    assert EXAMPLES


def test_a_broken_claim_is_the_answer_no(tmp_path: Path) -> None:
    file = tmp_path / "overlaps.py"
    file.write_text(OVERLAPS)
    code, out = policy("check", str(file))
    assert code == 1
    assert "BREAKS THE CONTRACT" in " ".join(out.split())
    assert "overlaps allocation" in " ".join(out.split())
    code, out = policy("check", str(file), "--json")
    claims = json.loads(out)["claims"]
    assert code == 1 and [c["holds"] for c in claims][0] is False


def test_an_index_out_of_its_array_is_found_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compiled code would write there; the trial without it says where."""
    file = tmp_path / "outside.py"
    file.write_text(OVERLAPS.replace("m.addr[b] = 512", "m.own[1000] = a\n    m.addr[b] = a"))
    assert main(["policy", "check", str(file)]) == 2
    assert "outside.py, line 13: IndexError" in capsys.readouterr().err


def test_an_endless_loop_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tightfit.experiments.policy_check.PLAIN_SECONDS", 5)
    file = tmp_path / "endless.py"
    file.write_text(OVERLAPS.replace("b = new_block(m)", "while a:\n        pass\n    b = 1"))
    code, out = policy("check", str(file))
    assert code == 1 and "no end after 5 s" in " ".join(out.split())


def test_a_name_of_the_catalogue_is_checked_too(progress_of_checks: dict[str, list[int]]) -> None:
    # Of each setting a program of almost 12,000 operations: one round is not enough, two are much.
    code, out = policy("check", "cupy_pool", "--operations", "36000")
    assert code == 0 and out.startswith("cupy_pool keeps the contract")
    ((total, done),) = progress_of_checks.values()
    assert 0.7 * total < done <= total


def test_list_names_every_policy_with_its_parameters() -> None:
    code, out = policy("list", "--json")
    found = {p["name"]: p for p in json.loads(out)["policies"]}
    assert code == 0 and list(found) == names()
    assert {"name", "default", "low", "high", "unit", "doc"} <= set(found["best_fit"]["params"][0])
    code, out = policy("list")
    assert code == 0 and max(map(len, out.splitlines())) <= 100
    for name in names():
        assert name in out


def test_wrong_words_are_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "check", "best_fitt"]) == 2
    assert "did you mean 'best_fit'" in capsys.readouterr().err
    assert main(["policy", "check", "pytorch"]) == 2
    assert "`tightfit prove` compares its simulation with" in capsys.readouterr().err
    assert main(["policy", "check", "nowhere.py"]) == 2
    assert "nowhere.py" in capsys.readouterr().err
    assert main(["policy", "chekc"]) == 2

"""`tightfit live`: what it refuses, and what it checks without a GPU."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments import cli
from tightfit.experiments.live.command import _read
from tightfit.experiments.live.process import ending_at_once
from tightfit.experiments.recording import installed
from tightfit.traces.jit import JIT

pytestmark = pytest.mark.skipif(not JIT, reason="live policies are C functions, compiled code")

TRACE = Path(__file__).parents[2] / "traces/data/gpt_checkpoint.default.npz"


def failure(capsys: Any, *words: str) -> str:
    assert cli.main(["live", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "--policy is missing"),
        (("--policy", "best_fit"), "the program is missing"),
        (("--policy", "planned", "--", "python"), "planned is told one iteration"),
        (
            ("--policy", "best_fit", "--torch", "2.15.0", "--", "python"),
            "--torch is for --stand-in",
        ),
        (("--policy", "best_fit", "--check", "--capacity", "1GiB"), "--check takes recordings"),
        (("--policy", "best_fit", "--check", "no.npz"), "no.npz"),
        (("--policy", "best_fit", "--", "nosuchprogram"), "nosuchprogram"),
        (("--policy", "best_fit", "-o", "x.txt", "--", "python"), ".json"),
    ],
)
def test_a_wrong_command_line_is_refused_in_one_message(
    words: tuple[str, ...], expected: str, capsys: Any
) -> None:
    message = failure(capsys, *words)
    assert expected in message
    assert [line[:9] for line in message.splitlines()][-1:] == ["tightfit:"]
    assert message.count("tightfit: ") == 1


def test_a_check_tries_the_contract_the_threads_and_recordings(
    capsys: Any, progress_of_checks: dict[str, list[int]]
) -> None:
    words = ["live", "--policy", "best_fit:quantum=4096", "--check", str(TRACE), "--json"]
    assert cli.main([*words, "--operations", "2000"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["holds"] and told["policy"] == "best_fit:quantum=4096"
    by_name = {claim["claim"]: claim for claim in told["claims"]}
    assert by_name["live: threads"]["operations"] >= 2000
    assert by_name["live: recording"]["operations"] > 1000
    assert "gpt_checkpoint.default.npz" in by_name["live: recording"]["words"]
    for is_live, what in ((False, "trying claims"), (True, "trying it live")):
        total, done = progress_of_checks[what]
        claims = [c for c in told["claims"] if c["claim"].startswith("live: ") == is_live]
        tried = sum(c["operations"] for c in claims if c["claim"] != "plain Python")
        assert 0 < tried == done <= total


def test_a_file_with_a_policy_is_checked_too(tmp_path: Path, capsys: Any) -> None:
    example = Path(__file__).parents[2] / "docs/examples/two_regions.py"
    copy = tmp_path / "mine.py"
    copy.write_text(example.read_text())
    assert cli.main(["live", "--policy", str(copy), "--check", "--operations", "1000"]) == 0
    assert "live: threads" in capsys.readouterr().out


@pytest.mark.parametrize(
    "trace", ["gpt_checkpoint.default", "cuda_graphs.default", "oom.expandable", "fsdp_rank0of4"]
)
def test_a_policy_that_new_wrote_serves_recordings_as_simulated(
    trace: str, tmp_path: Path, capsys: Any
) -> None:
    file, recording = str(tmp_path / "my_fit.py"), TRACE.with_name(f"{trace}.npz")
    assert cli.main(["policy", "new", file]) == 0
    words = ["live", "--policy", f"{file}:MyFit:least=2MiB", "--check", str(recording)]
    assert cli.main([*words, "--operations", "1000"]) == 0
    said = capsys.readouterr().out
    assert "live: threads" in said and "live: recording" in said
    assert "every address is simulated" in " ".join(said.split())


@pytest.mark.parametrize("line", ["pytorch", "pytorch:max_split_size_mb:64", "expandable"])
def test_pytorchs_own_allocator_is_checked_under_a_line(
    line: str, capsys: Any, progress_of_checks: dict[str, list[int]]
) -> None:
    traces = [str(TRACE), str(TRACE.with_name("cuda_graphs.default.npz"))]  # of eight lanes
    words = ["live", "--policy", line, "--check", *traces, "--json", "--operations", "1000"]
    assert cli.main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["holds"] and told["policy"] == line
    assert {"blocks", "live: as simulated", "live: threads", "live: recording"} <= {
        claim["claim"] for claim in told["claims"]
    }
    assert all(0 < done <= total for total, done in progress_of_checks.values())
    assert list(progress_of_checks) == ["trying claims", "trying it live"]


def test_a_program_that_never_uses_a_gpu_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(installed, "installed_torch", lambda _: None)  # whatever its build
    command = ["live", "--policy", "best_fit", "--", sys.executable, "-c", "print(1)"]
    assert cli.main(command) == 2
    assert capsys.readouterr().out.startswith("NOTHING SERVED")


def test_a_pytorch_without_cuda_is_refused_before_the_program_runs(
    capsys: Any, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    if torch.version.cuda is not None:
        pytest.skip("this PyTorch has CUDA")
    mark = tmp_path / "ran"
    program = f"open({str(mark)!r}, 'w')"
    message = failure(capsys, "--policy", "best_fit", "--", sys.executable, "-c", program)
    assert "is a build without CUDA" in message and "--stand-in h100-80g" in message
    assert message.count("tightfit: ") == 1
    assert not mark.exists()


def test_the_stand_ins_are_listed_as_for_record(capsys: Any) -> None:
    assert cli.main(["live", "--stand-in", "list"]) == 0
    ours = capsys.readouterr().out
    assert "tightfit live --policy best_fit --stand-in h100-80g" in ours
    assert cli.main(["record", "--stand-in", "list"]) == 0
    theirs = capsys.readouterr().out
    assert ours.splitlines()[:-1] == theirs.splitlines()[:-1]
    assert cli.main(["live", "--stand-in", "list", "--json"]) == 0
    assert "h100-80g" in json.loads(capsys.readouterr().out)["profiles"]


def test_what_processes_tell_is_put_together(tmp_path: Path) -> None:
    device = {
        "name": "GPU", "capacity_bytes": 5, "statistics": {"num_ooms": 0},
        "driver": {"cudaMalloc": 2},
    }  # fmt: skip
    facts = {"torch": "2", "rank": 3, "failures": ["why"], "devices": {"1": device}}
    (tmp_path / "7.json").write_text(json.dumps(facts))
    (served,), failures = _read([tmp_path / "7.json"])
    assert (served.process, served.device, served.name) == (3, 1, "GPU")
    assert served.driver == {"cudaMalloc": 2}
    assert failures == ["why"]


def test_ctrl_c_ends_a_process_that_only_prepares_the_policy() -> None:
    """The compiler drops exceptions, so that one would go on to run the program."""
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with ending_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as under nohup
        with ending_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

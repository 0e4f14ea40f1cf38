"""`tightfit record`: which programs become which files, on a made-up PyTorch."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tightfit.experiments import cli
from tightfit.experiments.recording import overhead
from tightfit.experiments.recording.launch import Plan, environment, find_python
from tightfit.experiments.recording.overhead import measure_overhead
from tightfit.experiments.recording.profiles import find_profile, profiles
from tightfit.traces.capture_hook import take_snapshot
from tightfit.traces.errors import ConfigError
from tightfit.traces.history import lift
from tightfit.traces.load import load
from tightfit.traces.program import SettingsCall

from .made_up_torch import program, write


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a made-up PyTorch on the path of whatever is started."""
    write(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_script(here: Path, *lines: str) -> str:
    (here / "train.py").write_text(program(*lines))
    return "train.py"


def record(*words: str) -> int:
    return cli.main(["record", *words])


def test_a_program_that_ends_leaves_one_file_named_after_it(here: Path, capsys: Any) -> None:
    script = write_script(here, "torch.use_cuda()")
    assert record("--json", "--", sys.executable, script) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [Path(f["file"]).name for f in answer["files"]] == ["train.npz"]
    assert answer["files"][0]["entries"] == 10
    recorded = load(here / "train.npz").extra["recorded"]
    assert recorded["script"] == "train.py" and len(recorded["script_sha256"]) == 64
    assert recorded["torch"] == "2.15.0+made.up" and recorded["mode"] == "gpu"
    assert recorded["devices"]["0"]["total_bytes"] == 4 << 30
    assert recorded["devices"]["0"]["free_bytes"] == 1
    assert recorded["devices"]["0"]["stats"] == {"num_device_alloc": 2, "retries": 0}
    assert sorted(p.suffix for p in here.iterdir() if p.is_file()) == [".npz", ".py"]


def test_history_starts_at_the_first_use_of_cuda_and_not_before(here: Path) -> None:
    script = write_script(
        here,
        "before = list(torch.CALLS)",
        "torch.use_cuda()",
        "json.dump([before, torch.CALLS], open('calls.json', 'w'))",
    )
    assert record("--entries", "5000", "--stacks", "all", "--", sys.executable, script) == 0
    before, calls = json.loads((here / "calls.json").read_text())
    assert before == []
    assert calls == [{"enabled": "all", "context": "all", "stacks": "all", "max_entries": 5000}]


def test_an_out_of_memory_error_has_a_file_of_its_own_and_few_of_them(here: Path) -> None:
    script = write_script(
        here, "torch.use_cuda()", "for _ in range(9): torch.run_out_of_memory()", "sys.exit(3)"
    )
    assert record("-o", "x.npz", "--", sys.executable, script) == 1
    names = sorted(p.name for p in here.glob("*.npz"))
    assert names == ["x.npz", "x.oom.npz", "x.oom2.npz", "x.oom3.npz"]
    assert load(here / "x.oom.npz").extra["recorded"]["reason"] == "oom"


def test_a_program_without_cuda_leaves_nothing(here: Path, capsys: Any) -> None:
    script = write_script(here, "pass")
    assert record("--", sys.executable, script) == 2
    assert "NOTHING RECORDED" in capsys.readouterr().out
    assert list(here.glob("*.npz")) == []


def test_a_line_that_pytorch_would_refuse_is_refused_before_it_runs(
    here: Path, capsys: Any
) -> None:
    script = write_script(here, "open('ran', 'w')")
    (here / "torch" / "version.py").write_text("__version__ = '2.11.0+cu130'")
    assert record("--conf", "max_split_size:64", "--", sys.executable, script) == 2
    error = capsys.readouterr().err
    assert "expected a key of torch 2.11; did you mean 'max_split_size_mb'?" in error
    assert error.count("\n") == 1 and not (here / "ran").exists()
    # A release that nobody here has read may know the key: it is asked.
    (here / "torch" / "version.py").write_text("__version__ = '3.1.0+cu140'")
    record("--conf", "max_split_size:64", "--", sys.executable, script)
    assert (here / "ran").exists()


def test_a_pytorch_without_cuda_is_named_with_what_to_do(here: Path, capsys: Any) -> None:
    script = write_script(here, "pass")
    (here / "torch" / "version.py").write_text("__version__ = '2.13.0+cpu'")
    assert record("--", sys.executable, script) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "torch 2.13.0+cpu is a build without CUDA; --stand-in h100-80g" in said
    (here / "torch" / "lib").mkdir()
    (here / "torch" / "lib" / "libc10_cuda.so").write_text("")
    assert record("--json", "--", sys.executable, script) == 2
    assert json.loads(capsys.readouterr().out)["why_nothing"] == ""


def test_every_rank_has_a_file_of_its_own(here: Path) -> None:
    script = write_script(here, "assert os.environ['MASTER_PORT']", "torch.use_cuda()")
    assert record("--ranks", "2", "-o", "x.npz", "--", sys.executable, script) == 0
    assert sorted(p.name for p in here.glob("*.npz")) == ["x.rank0.npz", "x.rank1.npz"]
    assert load(here / "x.rank1.npz").extra["recorded"]["rank"] == 1


def test_the_processes_a_program_starts_are_recorded_too(here: Path) -> None:
    script = write_script(
        here,
        "torch.use_cuda()",
        "import subprocess",
        "again = [sys.executable, '-c', 'import torch; torch.use_cuda()']",
        "subprocess.run(again, check=True)",
    )
    assert record("-o", "x.npz", "--", sys.executable, script) == 0
    assert sorted(p.name for p in here.glob("*.npz")) == ["x.process0.npz", "x.process1.npz"]


def test_a_running_program_writes_when_asked_and_when_told_to_end(here: Path) -> None:
    script = write_script(
        here,
        "import time",
        "torch.use_cuda()",
        "open('ready', 'w').write(str(os.getpid()))",
        "time.sleep(60)",
    )
    words = [sys.executable, "-m", "tightfit", "record", "-o", "x.npz", "--", sys.executable]
    with subprocess.Popen([*words, script], stdout=subprocess.PIPE, text=True) as process:
        _wait_for(here / "ready")
        process.send_signal(signal.SIGUSR1)
        _wait_for(here / "x.process0.signal.npz")
        os.kill(int((here / "ready").read_text()), signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "status 143" in out
    assert sorted(p.name for p in here.glob("*.npz")) == ["x.npz", "x.signal.npz"]


def _wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size) and time.monotonic() < end:
        time.sleep(0.05)
    assert path.exists()


def test_ctrl_c_ends_the_program_and_keeps_its_recording(here: Path) -> None:
    script = write_script(
        here, "import time", "torch.use_cuda()", "open('ready', 'w').write('1')", "time.sleep(60)"
    )
    words = [sys.executable, "-m", "tightfit", "record", "-o", "x.npz", "--", sys.executable]
    # What a shell starts in the background ignores Ctrl-C, and so would what it starts in turn.
    with subprocess.Popen(
        [*words, script],
        start_new_session=True,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as p:
        _wait_for(here / "ready")
        os.killpg(p.pid, signal.SIGINT)
        p.communicate(timeout=60)
    assert p.returncode == 1
    assert (here / "x.npz").is_file()


def test_the_user_s_own_sitecustomize_still_runs(here: Path) -> None:
    (here / "sitecustomize.py").write_text("import builtins; builtins.theirs = 1\n")
    script = write_script(here, "torch.use_cuda()", "assert theirs == 1")
    assert record("--", sys.executable, script) == 0


def test_nothing_is_overwritten_and_nothing_run_before_the_name_is_checked(
    here: Path, capsys: Any
) -> None:
    script = write_script(here, "open('ran', 'w')", "torch.use_cuda()")
    (here / "train.npz").write_bytes(b"precious")
    assert record("--", sys.executable, script) == 2
    assert "--force" in capsys.readouterr().err
    assert not (here / "ran").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "tightfit record -- python train.py"),
        (["--stand-in", "h100", "--", sys.executable, "-c", ""], "did you mean 'h100-80g'?"),
        (["--fake", "h100", "--", sys.executable, "-c", ""], "--fake: found no device 'h100'"),
        (["--fake", "h100-80g", "--ranks", "2", "--", "python"], "--fake records one process"),
        (["--fake", "h100-80g", "--entries", "5000", "--", "python"], "every entry is kept"),
        (["--stacks", "c", "--", sys.executable], "python, all or none"),
        (["--torch", "2.15.0", "--", sys.executable], "--torch is for --stand-in"),
        (["--prepare"], "tightfit record --stand-in GPU --prepare"),
        (["--stand-in", "l4-24g", "--prepare", "--", "python"], "--prepare runs nothing"),
        (["--", "no-such-program"], "found no program 'no-such-program'"),
        (["--", "./train.py"], "did you mean 'python ./train.py'?"),
    ],
    ids=lambda value: " ".join(value)[-24:] if isinstance(value, list) else "",
)
def test_a_wrong_request_is_one_message(
    here: Path, words: list[str], said: str, capsys: Any
) -> None:
    write_script(here, "torch.use_cuda()")
    assert record(*words) == 2
    printed = capsys.readouterr()
    assert said in printed.err and printed.out == ""
    assert len(printed.err.splitlines()) == 1


def test_a_recording_without_entries_is_not_passed_off_as_one(here: Path, capsys: Any) -> None:
    kept = write_script(here, "torch.use_cuda()")
    assert record("-o", "kept.npz", "--", sys.executable, kept) == 0
    assert "switched PyTorch's history off" not in capsys.readouterr().out
    lost = write_script(
        here,
        "full = torch.cuda.memory._snapshot",
        "torch.cuda.memory._snapshot = lambda: {**full(), 'device_traces': [[]]}",
        "torch.use_cuda()",
    )
    assert record("-o", "lost.npz", "--", sys.executable, lost) == 0
    assert "0 entries: nothing was allocated, or" in " ".join(capsys.readouterr().out.split())


def test_lines_that_the_program_sets_are_noted(here: Path) -> None:
    line = "expandable_segments:True"
    script = write_script(
        here,
        f"torch._C._accelerator_setAllocatorSettings({line!r})",
        "torch.use_cuda()",
        f"assert torch.CALLS[0] == {line!r}",
    )
    assert (
        record("-o", "set.npz", "--conf", "max_split_size_mb:64", "--", sys.executable, script) == 0
    )
    recording = load(here / "set.npz")
    assert recording.first_conf == "max_split_size_mb:64"
    (device,) = recording.devices
    ((entry, said),) = recording.settings["settings_calls"]["calls"][str(device)]
    # The made-up history is older than the call.
    assert (entry, said) == (recording.devices[device].n_entries, line)
    assert lift(recording, device).settings_calls == (SettingsCall(entry, line),)


@pytest.mark.parametrize("compiles", [False, True])
def test_the_compiler_is_left_alone_by_programs_that_did_not_use_it(
    monkeypatch: pytest.MonkeyPatch, compiles: bool
) -> None:
    torch: Any = ModuleType("torch")
    inductor = ModuleType("torch._inductor")

    def snapshot() -> dict[str, Any]:
        # As PyTorch looks for it: the module is imported when somebody asks torch for it.
        return {"looked": getattr(torch, "_inductor", inductor) is inductor}

    torch.cuda = SimpleNamespace(memory=SimpleNamespace(_snapshot=snapshot))
    if compiles:
        monkeypatch.setitem(sys.modules, "torch._inductor", inductor)
    assert take_snapshot(torch) == {"looked": compiles}
    assert not hasattr(torch, "_inductor")


UNREADABLE = (
    "full = torch.cuda.memory._snapshot",
    "def odd():",
    "    snapshot = full()",
    "    snapshot['device_traces'][0][0]['size'] = 'much'",
    "    return snapshot",
)


def test_a_snapshot_that_cannot_be_read_is_kept_and_loses_no_other(here: Path, capsys: Any) -> None:
    script = write_script(
        here,
        *UNREADABLE,
        "torch.use_cuda()",
        "torch.run_out_of_memory()",  # written and read before the odd one
        "torch.cuda.memory._snapshot = odd",
        "open('ended', 'w')",
    )
    assert record("--", sys.executable, script) == 2
    said = capsys.readouterr().err
    assert "size: found the string 'much'" in said
    assert "what PyTorch wrote is kept as train.process0.pickle.gz" in said
    assert (here / "ended").exists() and load(here / "train.oom.npz").devices[0].n_entries == 10
    kept = pickle.loads(gzip.decompress((here / "train.process0.pickle.gz").read_bytes()))
    assert kept["device_traces"][0][0]["size"] == "much"


def test_the_context_manager_keeps_what_it_cannot_read(here: Path) -> None:
    script = write_script(
        here,
        *UNREADABLE,
        "from tightfit.traces.capture import record",
        "torch.cuda.memory._snapshot = odd",
        "with record('body.npz'): pass",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 1
    assert "what PyTorch wrote is kept as body.pickle.gz" in done.stderr
    kept = pickle.loads(gzip.decompress((here / "body.pickle.gz").read_bytes()))
    assert kept["device_traces"][0][0]["size"] == "much"


def test_the_overhead_is_measured_run_by_run(here: Path, capsys: Any) -> None:
    script = write_script(here, "torch.use_cuda()", "open('runs', 'a').write('x')")
    found = measure_overhead((sys.executable, script), runs=2)
    assert (here / "runs").read_text() == "x" * 5, "a warm-up, and two of each kind"
    assert len(found.plain_s) == len(found.recorded_s) == 2 and found.entries == 10
    assert found.ratio > 0.2 and found.write_s > 0
    assert overhead.main(["--runs", "1", "--", sys.executable, script]) == 0
    assert "for each of 10 entries" in capsys.readouterr().out
    idle = write_script(here, "pass")
    assert overhead.main(["--runs", "1", "--", sys.executable, idle]) == 2
    assert "nothing was recorded; it must use CUDA" in capsys.readouterr().err
    assert overhead.main(["--", "no-such-program"]) == 2


def test_a_context_manager_records_its_body(here: Path) -> None:
    script = write_script(
        here,
        "from tightfit.traces.capture import record",
        "try:",
        "    with record('body.npz'): raise ValueError('a program may fail')",
        "except ValueError: pass",
        "assert torch.CALLS[-1] == {'enabled': None}",
    )
    subprocess.run([sys.executable, script], check=True)
    recording = load(here / "body.npz")
    assert recording.extra["recorded"]["reason"] == "asked"
    assert recording.extra["recorded"]["script"] == "train.py"


def test_profiles_are_whole_and_their_names_say_their_memory() -> None:
    for key, profile in profiles().items():
        gigabytes = int(key.rsplit("-", 1)[1].removesuffix("g"))
        assert 0.9 * gigabytes * 1000 < profile.memory_mib < 1.06 * gigabytes * 1000, key
        assert profile.environment(2)["STANDIN_DEVICES"] == "2"
    with pytest.raises(ConfigError, match="a100-40g"):
        find_profile("a100")


def test_the_line_asked_for_is_the_only_one(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    plan = Plan(("python",), tmp_path, conf="expandable_segments:True")
    own = environment(plan)
    assert own["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert "PYTORCH_ALLOC_CONF" not in own
    assert environment(Plan(("python",), tmp_path))["PYTORCH_ALLOC_CONF"] == "max_split_size_mb:64"


def test_a_script_s_first_line_names_the_interpreter(tmp_path: Path) -> None:
    tool = tmp_path / "serve"
    tool.write_text(f"#!{sys.executable}\n")
    tool.chmod(0o755)
    if " " not in sys.executable and "python" in sys.executable:
        assert find_python([str(tool)]) == sys.executable

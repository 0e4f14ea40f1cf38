"""The unmodified CUDA build of PyTorch over the stand-in: what it does and what is recorded of it.

Needs the whole wheel of a release, 0.5 GB; conftest.py says which.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tightfit.experiments import cli
from tightfit.experiments.oracle.build import runtime_name
from tightfit.experiments.recording.libraries import build_libraries
from tightfit.experiments.recording.whole_wheel import Build
from tightfit.experiments.release_fit import find_release
from tightfit.experiments.subject import load_subjects
from tightfit.policies.native import replay_native
from tightfit.sim.device import Device
from tightfit.sim.release import release
from tightfit.sim.settings_line import parse_settings

from .on_stand_in import TRAIN, environment_on, record, run_on

pytestmark = pytest.mark.slow


pytestmark = pytest.mark.slow


def test_pytorch_sees_the_device_asked_for(build: Build, tmp_path: Path) -> None:
    script = tmp_path / "see.py"
    script.write_text(
        "import torch\np = torch.cuda.get_device_properties(0)\n"
        "print(p.name, p.multi_processor_count, p.major, p.minor, p.total_memory >> 20)\n"
    )
    said = run_on(build, script, "l4-24g")
    assert said == "NVIDIA L4 58 8 9 22565\n"


def test_the_stand_in_offers_every_function_that_pytorch_imports(build: Build) -> None:
    """With RTLD_NOW the loader resolves every name at once, and says which it lacks."""
    libraries = build_libraries(build)
    program = (
        "import ctypes, glob, os\n"
        f"found = glob.glob({str(libraries)!r} + '/*.so*')\n"
        "for p in sorted(found, key=lambda p: 'cudart' not in p):\n"
        "    ctypes.CDLL(p, mode=os.RTLD_NOW | os.RTLD_GLOBAL)\n"
        f"ctypes.CDLL({str(build.wheel.root / 'torch/lib/libtorch_cuda.so')!r}, os.RTLD_NOW)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-600:]


@pytest.mark.parametrize("line", ["", "expandable_segments:True"])
def test_a_recording_is_exact_and_predicts_the_run_under_the_other_line(
    build: Build, trained: Callable[[str], Path], line: str
) -> None:
    other = "" if line else "expandable_segments:True"
    (a,), (b,) = load_subjects(trained(line)), load_subjects(trained(other))
    assert find_release([a], None).exactness[0].is_exact
    truth = b.recording.extra["recorded"]["devices"]["0"]
    rules = release(build.wheel.version)
    run = replay_native(
        a.kept, parse_settings(other, rules), rules, Device(truth["total_bytes"]), track=True
    )
    wrong = {
        key: (run.stats[key], value)
        for key, value in truth["stats"].items()
        if key in run.stats and key != "num_sync_all_streams" and run.stats[key] != value
    }
    assert wrong == {}


def test_what_was_read_back_is_named(trained: Callable[[str], Path], capsys: Any) -> None:
    path = trained("")
    capsys.readouterr()
    assert cli.main(["info", str(path), "--json"]) == 0
    found = {f["kind"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert found["depends_on_data"]["count"] == 4
    line = TRAIN.splitlines().index(next(x for x in TRAIN.splitlines() if "x.sum" in x)) + 1
    assert f"train.py:{line}" in found["depends_on_data"]["text"]
    assert "h100-80g" in found["stand_in"]["text"]


def test_a_small_device_runs_out_of_memory_as_a_real_one(build: Build, tmp_path: Path) -> None:
    script = tmp_path / "oom.py"
    script.write_text(
        "import torch\nkeep = []\ntry:\n    while True:\n"
        "        keep.append(torch.empty(1 << 30, dtype=torch.uint8, device='cuda'))\n"
        "except torch.OutOfMemoryError as e:\n    print(len(keep), str(e)[:24])\n"
    )
    assert run_on(build, script, "v100-16g") == "15 CUDA out of memory. Trie\n"
    record(build, script, tmp_path / "o.npz")
    assert (tmp_path / "o.oom.npz").is_file()


def test_stacks_that_lose_an_exception_are_named_and_can_be_left_out(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Recomputing ends in an exception, and what lies on Python's stack is freed under it.
    script = tmp_path / "recompute.py"
    script.write_text(
        "import torch\nfrom torch.utils.checkpoint import checkpoint\n"
        "w = [torch.ones(8, 8, device='cuda', requires_grad=True) for _ in range(2)]\n"
        "x = torch.ones(8, 8, device='cuda', requires_grad=True)\n"
        "y = checkpoint(lambda x: x @ w[0].detach() + x @ w[0] @ w[1], x, use_reentrant=False)\n"
        "y.sum().backward()\n"
    )
    record(build, script, tmp_path / "none.npz", "--stacks", "none")
    words = ["record", "--stand-in", "h100-80g", "--torch", build.wheel.version]
    words += ["-o", str(tmp_path / "stacks.npz"), "--", sys.executable, str(script)]
    loses = build.wheel.version.startswith("2.11.")
    assert cli.main(words) == int(loses)
    assert ("record it with --stacks none" in capsys.readouterr().err) == loses


def test_ranks_share_one_group_and_each_has_a_device(build: Build, tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os, torch, torch.distributed as dist\n"
        "rank = int(os.environ['RANK'])\ntorch.cuda.set_device(rank)\n"
        "dist.init_process_group('nccl')\n"
        "x = torch.ones(1 << 20, device='cuda')\n"
        "parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]\n"
        "dist.all_gather(parts, x)\ndist.all_reduce(x)\ndist.destroy_process_group()\n"
    )
    record(build, script, tmp_path / "r.npz", "--ranks", "2")
    for rank in range(2):
        (subject,) = load_subjects(tmp_path / f"r.rank{rank}.npz")
        assert subject.recording.extra["recorded"]["rank"] == rank
        assert find_release([subject], None).exactness[0].is_exact


def test_a_machine_that_has_a_gpu_needs_no_stand_in(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in plays a machine whose own libraries are CUDA's."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    for key, value in environment_on(build, "a100-40g").items():
        monkeypatch.setenv(key, value)
    out = tmp_path / "gpu.npz"
    assert cli.main(["record", "-o", str(out), "--", sys.executable, str(script)]) == 0
    (subject,) = load_subjects(out)
    recorded = subject.recording.extra["recorded"]
    assert recorded["mode"] == "gpu"
    assert recorded["devices"]["0"]["name"] == "NVIDIA A100-SXM4-40GB"
    assert find_release([subject], None).exactness[0].is_exact


LIVES = """
import os, signal, sys, time, torch
from multiprocessing import get_context

def in_a_child():
    y = torch.empty(100, device="cuda")
    del y

if __name__ == "__main__":
    x = torch.empty(1 << 20, device="cuda")
    what = sys.argv[1]
    if what == "signals":
        open("ready", "w").write(str(os.getpid()))
        time.sleep(60)
    if what == "raises":
        raise ValueError("a bug of the program's")
    if what == "fork":
        pid = os.fork()
        if pid == 0:
            sys.exit(0)  # runs what is registered for the end, as the parent will
        os.waitpid(pid, 0)
    if what == "spawn":
        child = get_context("spawn").Process(target=in_a_child)
        child.start()
        child.join()
    if what == "oom":
        try:
            torch.empty(1 << 40, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            pass
        torch.empty(1 << 40, dtype=torch.uint8, device="cuda")  # and once more, uncaught
"""


@pytest.mark.parametrize(
    ("what", "code", "files"),
    [
        ("raises", 1, ["x.npz"]),
        ("fork", 0, ["x.npz"]),
        ("spawn", 0, ["x.process0.npz", "x.process1.npz"]),
        ("oom", 1, ["x.npz", "x.oom.npz", "x.oom2.npz"]),
    ],
)
def test_a_program_is_recorded_however_it_ends(
    build: Build, tmp_path: Path, what: str, code: int, files: list[str]
) -> None:
    script = tmp_path / "lives.py"
    script.write_text(LIVES)
    words = ["record", "--stand-in", "l4-24g", "-o", str(tmp_path / "x.npz"), "--"]
    assert cli.main([*words, sys.executable, str(script), what]) == code
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == files
    for name in files:
        assert find_release(load_subjects(tmp_path / name), None).exactness[0].is_exact, name


def test_signals_write_and_end(build: Build, tmp_path: Path) -> None:
    script = tmp_path / "lives.py"
    script.write_text(LIVES)
    words = ["record", "--stand-in", "l4-24g", "-o", "x.npz", "--", sys.executable]
    with subprocess.Popen(
        [sys.executable, "-m", "tightfit", *words, str(script), "signals"],
        cwd=tmp_path, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_for(tmp_path / "ready")
        for number in (1, 2):
            process.send_signal(signal.SIGUSR1)
            wait_for(tmp_path / f"x.process0.signal{number if number > 1 else ''}.npz")
        os.kill(int((tmp_path / "ready").read_text()), signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "status 143" in out
    names = ["x.npz", "x.signal.npz", "x.signal2.npz"]
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == names
    assert all(find_release(load_subjects(tmp_path / n), None).exactness[0].is_exact for n in names)


def wait_for(path: Path) -> None:
    """Wait until a file is there and whole."""
    end = time.monotonic() + 60
    while not (path.exists() and path.stat().st_size) and time.monotonic() < end:
        time.sleep(0.05)
    assert path.exists()


def test_a_part_of_a_program_is_recorded_from_inside(build: Build, tmp_path: Path) -> None:
    """Two parts, one after the other; memory from before is in both, and a failing body counts."""
    script = tmp_path / "parts.py"
    script.write_text(
        "import torch\n"
        "import tightfit\n"
        "torch.backends.cuda.enable_cudnn_sdp(False)\n"
        "before = torch.empty(1 << 20, device='cuda')\n"
        "with tightfit.record('one.npz'):\n"
        "    kept = torch.empty(3 << 20, device='cuda')\n"
        "try:\n"
        "    with tightfit.record('two.npz', stacks='none'):\n"
        "        passing = torch.empty(5 << 20, device='cuda')\n"
        "        del before, passing\n"
        "        torch.empty(1 << 40, dtype=torch.uint8, device='cuda')\n"
        "except torch.OutOfMemoryError:\n"
        "    print('caught')\n"
    )
    assert run_on(build, script, "l4-24g") == "caught\n"
    sizes = {}
    for name in ("one", "two"):
        subject = load_subjects(tmp_path / f"{name}.npz")[0]
        assert subject.recording.extra["recorded"]["reason"] == "asked"
        assert find_release([subject], None).exactness[0].is_exact
        rules = release("2.15")
        (device,) = subject.recording.extra["recorded"]["devices"].values()
        limit = Device(device["total_bytes"])
        run = replay_native(subject.kept, parse_settings("", rules), rules, limit)
        sizes[name] = run.stats["requested_bytes.all.peak"]
    assert sizes == {"one": 16 << 20, "two": 36 << 20}


def test_a_second_build_is_the_first_one(build: Build) -> None:
    folder = build_libraries(build)
    assert folder == build_libraries(build)
    assert (folder / runtime_name(build.wheel.cuda)).is_file()


def test_preparing_runs_nothing_and_says_what_is_ready(build: Build, capsys: Any) -> None:
    words = ["record", "--stand-in", "l4-24g", "--torch", build.wheel.version, "--prepare"]
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["torch"] == build.wheel.version
    assert (Path(told["libraries"]) / runtime_name(build.wheel.cuda)).is_file()
    assert cli.main(words) == 0
    assert f"torch {build.wheel.version} is ready" in capsys.readouterr().out

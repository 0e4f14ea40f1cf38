"""`tightfit verify` without a device: resumption, plans, packs, launcher, costs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tightfit.experiments import cli
from tightfit.experiments.gpu.pack import pack
from tightfit.experiments.gpu.runs import CHECKS, HERE
from tightfit.experiments.subject import load_subjects
from tightfit.experiments.verify.check_trace import check_trace
from tightfit.experiments.verify.cost_table import cost_table, line_through, write_table
from tightfit.experiments.verify.lines import Line, plan_lines, read_plan, write_plan
from tightfit.experiments.verify.machine import Machine
from tightfit.experiments.verify.pieces import Pieces
from tightfit.experiments.verify.pool_counters import pool_counters
from tightfit.experiments.verify.prediction import Prediction
from tightfit.experiments.verify.replayable import replayable, write_steps
from tightfit.experiments.verify.sheet import Sheet, write_sheet
from tightfit.experiments.verify.verdict import LineResult
from tightfit.sim.costs import read_costs
from tightfit.sim.device import Device
from tightfit.sim.export import snapshot_of
from tightfit.sim.release import release
from tightfit.sim.run import RUN_EVENT, Run
from tightfit.traces.errors import ConfigError
from tightfit.traces.event import Action
from tightfit.traces.program import Op
from tightfit.traces.units import GiB, MiB

from .as_predicted import DATA, FACTS, ROOT, answer_to

FLOORS = ("traces", "sim", "policies", "experiments")


def test_ctrl_c_while_lines_are_chosen_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = SimpleNamespace(interrupted=True, best=SimpleNamespace(conf="max_split_size_mb:64"))
    monkeypatch.setattr("tightfit.experiments.tuning.find_line", lambda *_: stopped)
    with pytest.raises(KeyboardInterrupt):
        plan_lines(DATA / "mlp_train.npz", None)


@pytest.mark.parametrize(
    "content",
    ['{"lines": 5}', "[" * 100_000, "{", '{"lines": [], "trace_sha256": ""}']
    + [
        f'{{"lines": [{{"role": "asked", "conf": {conf}}}], "trace_sha256": ""}}'
        for conf in ("5", "null", "[]", "{}")
    ],
    ids=["5", "deep", "cut", "none", "conf 5", "conf null", "conf list", "conf object"],
)
def test_what_is_no_plan_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.plan.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match="not a plan of tightfit verify --plan"):
        read_plan(path, DATA / "mlp_train.npz")


def test_a_line_that_no_environment_takes_is_said_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npz").write_bytes((DATA / "mlp_train.npz").read_bytes())
    for more in ([], ["--plan"]):
        assert cli.main(["verify", "a.npz", "-o", "v", "--conf", "\udcff", *more]) == 2
        said = capsys.readouterr().err
        assert r"--conf: found '\udcff', expected a settings line in UTF-8" in said
    assert not Path("v").exists()
    for conf in ("\udcff", "\ud800", "a\0b"):
        write_plan(Path("x.plan.json"), Path("a.npz"), [Line("asked", conf)])
        with pytest.raises(ConfigError, match="x.plan.json: conf: found '.*', expected a settings"):
            read_plan(Path("x.plan.json"), Path("a.npz"))


def test_a_command_with_an_open_quote_is_refused(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["verify", "--program", "'x", "-o", str(tmp_path / "v")]) == 2
    said = capsys.readouterr().err
    assert said.startswith('tightfit: --program: found "\'x" (No closing quotation), expected')
    assert not (tmp_path / "v").exists()


def test_a_name_that_is_no_text_is_written_with_an_escape(tmp_path: Path) -> None:
    facts = {**FACTS, "driver": ""}
    sheet = Sheet("a\udcff.npz", "ab" * 32, [], 1, "today", "", facts, 3, [LineResult("asked", "")])
    for path in write_sheet(sheet, tmp_path, "a"):
        assert r"a\udcff.npz" in path.read_text(encoding="utf-8")


ANSWER = {**FACTS, "stats": {"reserved_bytes.all.peak": 1}, "oom": None, "streams": [0],
          "pools": [[0, 0]], "free_at_witness": None, "reserved_at_witness": 5,
          "free_at_end": 6}  # fmt: skip


@pytest.mark.parametrize(
    "damaged",
    ["", "5", "[]", "{}", '"x"', '{"torch": "2.15.0"}', "[" * 100_000, '{"error": 5}']
    + [json.dumps(ANSWER | change) for change in (
        {"stats": {}}, {"stats": {"reserved_bytes.all.peak": "1"}}, {"oom": 5}, {"streams": "x"},
        {"pools": [0]}, {"free": None}, {"gpu": 7})],
    ids=range(15),
)  # fmt: skip
def test_a_damaged_piece_counts_as_not_done(damaged: str, tmp_path: Path) -> None:
    pieces = Pieces(tmp_path, "stamp")
    path, recorded = pieces.path("", "limit7"), pieces.path("", "limit7", ".npz")
    path.write_text(damaged)
    recorded.write_bytes(b"")
    assert pieces.get("", "limit7") is None
    assert not path.exists() and not recorded.exists()
    for whole in (ANSWER, {"error": "it died"}):
        path.write_text(json.dumps(whole))
        assert pieces.get("", "limit7") == whole


def test_waiting_frees_and_graphs_become_what_can_be_replayed(tmp_path: Path) -> None:
    (subject,) = load_subjects(DATA / "streams.default.npz")
    plain = replayable(subject.program)
    assert set(np.unique(plain.program.op)) <= {Op.MALLOC, Op.FREE, Op.TRY, Op.EMPTY_CACHE,
                                                Op.RELEASE_POOL}  # fmt: skip
    assert any("waited for another stream" in note for note in plain.notes)
    write_steps(plain.program, tmp_path / "steps.npz")
    with np.load(tmp_path / "steps.npz") as steps:
        mallocs = steps["code"] == 0
        sizes = subject.program.req_size[subject.program.request]
        assert np.array_equal(steps["size"][mallocs], sizes)


@pytest.mark.parametrize("torch", ["2.15.0", "2.11.0"])
def test_without_a_device_the_parser_s_answer_is_all_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, torch: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no libraries: our own reading, said so
    monkeypatch.delenv("TIGHTFIT_WHEELS", raising=False)
    words = ["verify", str(DATA / "mlp_train.npz"), "-o", str(tmp_path / "v"), "--torch", torch]
    lines = ["--conf", "", "--conf", "expandable_segments_reserve:0.5", "--conf", "no_such_key:1"]
    assert cli.main([*words, *lines]) == 1
    printed = capsys.readouterr().out
    good = 2 if torch == "2.15.0" else 1
    assert f"V0 ONLY: {good} of 3 lines accepted by our reading of torch {torch[:4]}" in printed
    assert "V0 is all that was checked: no device answered" in printed and "--stand-in" in printed
    assert cli.main([*words, *lines, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "V0 only" and "no_such_key:1" in document["refused"]


def test_bad_words_are_one_message_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    searched = "tightfit.experiments.verify.command.choose_lines"
    monkeypatch.setattr(searched, lambda *_: pytest.fail("lines were searched first"))
    out, file = tmp_path / "v", tmp_path / "file"
    file.write_text("")
    trace = str(DATA / "mlp_train.npz")
    for words, said in (
        (["missing.npz", "-o", str(out)], "missing.npz: found no such file in this folder"),
        ([str(tmp_path), "-o", str(out)], "found a folder, expected a file"),
        ([trace, "-o", str(file)], "file: found a file, expected a folder to write to"),
        ([trace, "-o", str(file / "v")], "v: cannot be made: Not a directory"),
        ([trace, "-o", str(out), "--budget", "-5"], "--budget"),
        ([trace, "-o", str(out), "--stand-in", "h100"], "did you mean 'h100-80g'?"),
        ([trace, "-o", str(out), "--plan", "--stand-in", "h100-80g"], "made without any device"),
    ):
        assert cli.main(["verify", *words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert not out.exists()


def test_each_private_pool_has_counters_of_its_own() -> None:
    small, large, page = 2 * MiB, 20 * MiB, 1 << 30
    rows = [
        (0, Action.SEGMENT_ALLOC, page, small, 0, 0),
        (1, Action.SEGMENT_ALLOC, 2 * page, small, 0, 1),
        (2, Action.SEGMENT_MAP, 3 * page, small, 0, 1),
        (3, Action.SEGMENT_MAP, 3 * page + small, small, 0, 1),
        (4, Action.SEGMENT_ALLOC, 4 * page, large, 0, 1),
        (5, Action.SEGMENT_UNMAP, 3 * page, 2 * small, 0, 1),
        (6, Action.SEGMENT_FREE, 4 * page, large, 0, 1),
    ]
    events = np.array(rows, RUN_EVENT)
    run = Run(7, -1, 0, {}, np.zeros(0, np.uint64), events)
    found = pool_counters(run, [(0, 0), (0, 7), (3, 0)])
    name = "reserved_bytes_by_private_pools.0_7."
    assert [found[f"{name}small_pool.{what}"] for what in ("current", "peak", "allocated", "freed")
            ] == [small, 3 * small, 3 * small, 2 * small]  # fmt: skip
    assert [found[f"{name}large_pool.{what}"] for what in ("current", "peak")] == [0, large]
    assert found[f"{name}all.peak"] == large + 3 * small
    assert found["reserved_bytes_by_private_pools.3_0.all.peak"] == 0


class _Answering(Machine):
    """A machine whose allocator does as simulated, for as many pieces as it is given."""

    patience = 100
    asked: list[str] = []

    def carry_out(self, tasks: Any, line: str, seconds: float) -> str:
        (subject,) = load_subjects(DATA / "mlp_train.npz")
        program = replayable(subject.program).program
        p = Prediction(program, line, release("2.15"), Device(80 * GiB, GiB))
        for task in tasks:
            if _Answering.patience == 0:
                return "the time was up"
            _Answering.patience -= 1
            _Answering.asked.append(Path(task["answer"]).name)
            answer = answer_to(p)
            if task.get("limit"):
                run = p.run_within(task["limit"])
                stopped = run.n_ops < program.n_ops
                answer |= {"stats": run.stats, "oom": {"step": run.n_ops} if stopped else None}
            if task["mode"] == "place":
                import pickle

                dumped = snapshot_of(program, p.run, conf=line, release="2.15")
                Path(task["snapshot"]).write_bytes(pickle.dumps(dumped, protocol=4))
            Path(task["answer"]).write_text(json.dumps(answer))
        return ""


def test_a_stopped_check_goes_on_and_does_nothing_twice(tmp_path: Path) -> None:
    lines = [Line("default", ""), Line("expandable", "expandable_segments:True")]
    _Answering.asked, _Answering.patience = [], 4
    words = [
        check_trace(DATA / "mlp_train.npz", lines, _Answering(), tmp_path).verdict
        for _ in range(2)
        if setattr(_Answering, "patience", 5) is None
    ]
    _Answering.patience = 100
    sheet = check_trace(DATA / "mlp_train.npz", lines, _Answering(), tmp_path)
    assert words == ["unfinished", "unfinished"]
    assert sheet.verdict == "confirmed"
    assert len(_Answering.asked) == len(set(_Answering.asked)) == 1 + 2 * 7
    assert not list(tmp_path.glob("*.pickle"))


def test_a_line_that_the_simulator_refuses_is_not_put_to_the_device(tmp_path: Path) -> None:
    _Answering.asked, _Answering.patience = [], 100
    lines = [Line("asked", "max_split_size_mb:1")]
    sheet = check_trace(DATA / "mlp_train.npz", lines, _Answering(), tmp_path)
    assert sheet.verdict == "not confirmed" and len(_Answering.asked) == 1
    assert sheet.lines[0].refused.startswith("by the simulator: ")


def test_explain_says_what_to_run_where_and_what_the_words_mean(capsys: Any) -> None:
    assert cli.main(["verify", "--explain"]) == 0
    said = capsys.readouterr().out
    for word in ("confirmed", "bytes only", "not confirmed", "unfinished", "--plan", "run.py"):
        assert word in said


def test_a_plan_is_for_one_trace(tmp_path: Path) -> None:
    for traces in CHECKS.values():
        for name in traces:
            plan = HERE / "plans" / f"{name}.plan.json"
            if plan.is_file():
                assert read_plan(plan, DATA / f"{name}.npz")[0].conf == ""
    with pytest.raises(ConfigError, match="another trace"):
        read_plan(HERE / "plans" / "mlp_train.plan.json", DATA / "oom.default.npz")


def test_results_come_in_few_files_that_say_what_lies_where(tmp_path: Path) -> None:
    results, packed = tmp_path / "results", tmp_path / "packed"
    (results / "pieces").mkdir(parents=True)
    for number in range(40):
        (results / "pieces" / f"{number}.json").write_bytes(bytes(1 << 20))
    made = pack(results, packed)
    assert len(made) == 4 and all(path.stat().st_size < 15 * MiB for path in made)
    assert sorted(p.name for p in packed.iterdir()) == [
        "results.0.tar", "results.1.tar", "results.2.tar", "results.3.tar", "results.json",
    ]  # fmt: skip
    index = json.loads((packed / "results.json").read_text())
    with tarfile.open(made[0]) as tar:
        assert tar.getnames() == index["results.0.tar"]
    assert len(list((results / "pieces").iterdir())) == 40


def test_a_checkout_of_any_name_runs_without_what_a_gpu_machine_lacks(tmp_path: Path) -> None:
    """Neither an installed tightfit nor typer, rich or optuna is needed."""
    for folder in (*FLOORS, "__init__.py"):
        copy = shutil.copytree if (ROOT / folder).is_dir() else shutil.copy
        (tmp_path / "an odd-name").mkdir(exist_ok=True)
        copy(ROOT / folder, tmp_path / "an odd-name" / folder)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Lacking:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('typer', 'rich', 'optuna', 'tightfit'):\n"
        "            raise ImportError(name + ' is not here')\n"
        "sys.meta_path.insert(0, Lacking())\n"
    )
    program = (
        "import sys, runpy; sys.path.insert(0, sys.argv[1]); import sitecustomize\n"
        "path = sys.argv[2]; sys.argv = [path, 'verify', sys.argv[3], '-o', sys.argv[4]]\n"
        "runpy.run_path(path, run_name='__main__')"
    )
    words = [tmp_path, tmp_path / "an odd-name/experiments/gpu/run.py", DATA / "mlp_train.npz"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words), str(tmp_path / "out")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "no device answered" in done.stderr
    # V0 needs none.
    assert "V0 ONLY: mlp_train.npz" in done.stdout and "(default): accepted" in done.stdout


def test_costs_are_a_line_through_what_was_measured(tmp_path: Path) -> None:
    calls = ("cudaMalloc", "cudaFree", "cuMemCreate", "cuMemRelease", "cuMemMap", "cuMemSetAccess",
             "cuMemUnmap")  # fmt: skip
    measured: dict[str, Any] = {
        call: [[n * MiB, 7000 + 200 * n] for n in (2, 20, 200)] for call in calls
    }
    # What PyTorch never asks for says nothing of what it pays.
    measured["cudaMalloc"] += [[512, 900_000], [MiB, 1]]
    measured["cudaFree"] = [[n * MiB, 9000] for n in (2, 20, 200)]
    behind = {call: [20 * MiB, 12_000] for call in calls} | {"cudaFree": [20 * MiB, 99_000]}
    measured |= {"behind_kernel": behind, "kernel": 100_000}
    facts = {**FACTS, "costs": measured}
    write_table(cost_table(facts, "2026-11-25", ""), tmp_path / "costs.json")
    costs = read_costs(tmp_path / "costs.json")
    assert (costs["cudaMalloc"].call_us, costs["cudaMalloc"].mib_us) == (7.0, 0.2)
    assert (costs["cudaFree"].call_us, costs["wait"].call_us) == (9.0, 90.0)
    assert costs["wait"].kind == "measured"
    assert "medians at 2, 20, 200 MiB" in costs["cudaMalloc"].source
    assert "20 MiB behind a kernel of 100 us take 12.0 us, idle 11.0" in costs["cuMemMap"].source
    for fact in ("H100", "575.57", "2026-11-25"):
        assert fact in costs["cuMemMap"].source
    assert "STAND-IN" in cost_table(facts, "", "h100-80g")["wait"]["source"]


@pytest.mark.parametrize("points", [[[2, 50], [20, 40]], [[1, 1], [1000, 2000]]])
def test_no_cost_is_negative(points: list[list[int]]) -> None:
    call, mib = line_through([[n * MiB, us * 1000] for n, us in points])
    assert call >= 0 and mib >= 0 and call + mib > 0

"""`tightfit verify` without a device: comparisons, verdicts, resumption, sheets, launcher."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tightfit.experiments import cli
from tightfit.experiments.gpu.pack import pack
from tightfit.experiments.gpu.runs import CHECKS, HERE
from tightfit.experiments.subject import load_subjects
from tightfit.experiments.verify.budget import compare_budget, next_limits
from tightfit.experiments.verify.check_trace import check_trace
from tightfit.experiments.verify.cost_table import cost_table, line_through, write_table
from tightfit.experiments.verify.counters import compare_counters
from tightfit.experiments.verify.lines import Line, read_plan
from tightfit.experiments.verify.machine import Machine
from tightfit.experiments.verify.placement import compare_placement, free_ranges, told_run
from tightfit.experiments.verify.places import table
from tightfit.experiments.verify.pool_counters import pool_counters
from tightfit.experiments.verify.prediction import STEP, Driver, Prediction
from tightfit.experiments.verify.replayable import replayable, write_steps
from tightfit.experiments.verify.sheet import Sheet, write_sheet
from tightfit.experiments.verify.verdict import LineResult, overall
from tightfit.sim.costs import read_costs
from tightfit.sim.device import Device
from tightfit.sim.export import snapshot_of
from tightfit.sim.release import release
from tightfit.sim.run import RUN_EVENT, Run
from tightfit.traces.errors import ConfigError
from tightfit.traces.event import Action
from tightfit.traces.program import Op
from tightfit.traces.units import GiB, MiB

FLOORS = ("traces", "sim", "policies", "experiments")
ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "traces" / "data"
FACTS = {
    "gpu": "NVIDIA H100 80GB HBM3", "torch": "2.15.0", "cuda": "13.2", "driver": "575.57",
    "total": 80 * GiB, "free": 79 * GiB,
}  # fmt: skip


@pytest.fixture(scope="module")
def prediction() -> Prediction:
    """A recorded program with side streams, under the default."""
    (subject,) = load_subjects(DATA / "streams.default.npz")
    program = replayable(subject.program).program
    return Prediction(program, "", release("2.15"), Device(80 * GiB, GiB))


def answer_to(prediction: Prediction, **changes: int) -> dict[str, Any]:
    """What a real allocator would say that does as predicted, but for some counters."""
    stats = {**prediction.run.stats, **changes}
    held = stats["reserved_bytes.all.current"]
    return {
        **FACTS, "stats": stats, "oom": None, "free_at_end": FACTS["free"] - held,
        "free_at_witness": FACTS["free"] - stats["reserved_bytes.all.peak"], "returns": [],
        "reserved_at_witness": stats["reserved_bytes.all.peak"],
        "streams": prediction.program.streams.tolist(), "pools": prediction.program.pools,
    }  # fmt: skip


def recording_of(prediction: Prediction, line: str | None = None, run: Run | None = None) -> Any:
    """The snapshot that a real allocator would have dumped."""
    import pickle

    from tightfit.traces.snapshot import read_snapshot

    other = replace(prediction, line=prediction.line if line is None else line)
    dumped = snapshot_of(
        other.program, run or other.run, conf=other.line, release=prediction.rules.name
    )
    return read_snapshot(pickle.dumps(dumped, protocol=4), "dumped")


def result(prediction: Prediction, **parts: Any) -> LineResult:
    """A line's result in which everything is as predicted, but for some parts."""
    limit = prediction.smallest_limit
    assert limit is not None
    fits = {**answer_to(prediction), "stats": prediction.run_within(limit).stats}
    fails = {**fits, "oom": {"step": 3}}
    whole = LineResult(
        "default", "",
        placement=compare_placement(prediction, answer_to(prediction), recording_of(prediction)),
        counters=compare_counters(prediction, [answer_to(prediction)] * 3),
        budget=compare_budget(prediction, {limit: fits, limit - STEP: fails}),
    )  # fmt: skip
    return replace(whole, **parts)


def test_what_does_as_predicted_is_confirmed(prediction: Prediction) -> None:
    whole = result(prediction)
    assert whole.verdict == "confirmed" and whole.reasons == []
    assert whole.placement is not None and whole.placement.exact_when_told
    assert whole.placement.events > 3000


def test_another_placement_leaves_bytes_only_and_is_explained(prediction: Prediction) -> None:
    other = recording_of(prediction, "roundup_power2_divisions:2")
    placement = compare_placement(prediction, answer_to(prediction), other)
    assert 0 < placement.events_exact < placement.events
    whole = result(prediction, placement=placement)
    assert whole.verdict == "bytes only"
    (reason,) = whole.reasons
    assert "real " in reason and "simulated " in reason and "free pieces" in reason


def test_a_counter_that_is_not_about_bytes_leaves_bytes_only(prediction: Prediction) -> None:
    answers = [answer_to(prediction, num_alloc_retries=1)] * 3
    whole = result(prediction, counters=compare_counters(prediction, answers))
    assert whole.verdict == "bytes only"
    assert whole.reasons == ["V2: num_alloc_retries = 1, predicted 0"]


def test_repeats_that_differ_are_noticed(prediction: Prediction) -> None:
    answers = [answer_to(prediction), answer_to(prediction, num_alloc_retries=1)]
    counters = compare_counters(prediction, answers)
    assert counters.unstable == {"num_alloc_retries": [0, 1]} and not counters.wrong
    assert result(prediction, counters=counters).verdict == "bytes only"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: a["stats"].update({"reserved_bytes.all.peak": 5}),
        lambda a: a.update(oom={"step": 7}),
        lambda a: a.update(free_at_end=a["free_at_end"] - 100 * MiB),
    ],
    ids=["peak", "out of memory", "witness"],
)
def test_bytes_that_differ_are_not_confirmed(prediction: Prediction, spoil: Any) -> None:
    answer = answer_to(prediction)
    spoil(answer)
    whole = result(prediction, counters=compare_counters(prediction, [answer]))
    assert whole.verdict == "not confirmed" and whole.reasons


def test_a_process_that_died_or_a_refused_line_is_not_confirmed(prediction: Prediction) -> None:
    assert result(prediction, died={"V1": "signal 6"}).verdict == "not confirmed"
    assert result(prediction, refused="by PyTorch: no").verdict == "not confirmed"


def test_a_missing_stage_is_no_verdict(prediction: Prediction) -> None:
    missing = result(prediction, placement=None)
    assert missing.verdict == "unfinished"
    assert overall([result(prediction), missing]) == "unfinished"
    assert overall([result(prediction)]) == "confirmed"


def test_where_the_lowest_address_is_taken_the_driver_s_addresses_are_told() -> None:
    (subject,) = load_subjects(DATA / "mlp_train.npz")
    program = replayable(subject.program).program
    old = Prediction(program, "", release("2.11"), Device(80 * GiB, GiB))
    calls = old.run.events[old.run.events["action"] == Action.SEGMENT_ALLOC]
    falling = (1 << 45) - (np.arange(len(calls), dtype=np.uint64) << 34)  # as some drivers do
    real = old.run_with(Driver(calls["op"], calls["action"], falling, calls["size"]))
    assert real.stats != old.run.stats
    answer = {**answer_to(old), "stats": real.stats}
    recording = recording_of(old, run=real)
    placement = compare_placement(old, answer, recording)
    assert placement.is_exact and placement.exact_when_told and placement.by_address
    assert placement.unaided_exact < placement.events_exact == placement.events
    runs = [told_run(old, answer, recording)] * 2
    assert compare_counters(old, [answer] * 2, runs).is_exact
    assert not compare_counters(old, [answer] * 2).is_exact
    newer = replace(old, rules=release("2.15"))
    assert not compare_placement(newer, answer, recording).is_exact


def test_where_addresses_decide_each_limit_is_held_to_the_run_that_knew_them() -> None:
    old = Prediction(replayable(load_subjects(DATA / "streams.default.npz")[0].program).program,
                     "", release("2.11"), Device(80 * GiB, GiB))  # fmt: skip
    limit = old.smallest_limit
    assert limit is not None
    fits, fails = old.run_within(limit + STEP), old.run_within(limit - STEP)
    answers = {
        limit + STEP: {"oom": None, "stats": fits.stats}, limit: {"oom": {"step": 1}, "stats": {}},
    }  # fmt: skip
    as_told = compare_budget(old, answers, {limit + STEP: fits, limit: fails})
    assert as_told.is_equal and as_told.predicted != as_told.measured and not as_told.wrong
    assert not compare_budget(old, answers, {limit + STEP: fits, limit: fits}).is_equal
    assert not compare_budget(old, answers).is_equal


@pytest.mark.parametrize("real", [STEP, 11 * STEP, 37 * STEP, 38 * STEP, 60 * STEP, 300 * STEP])
def test_the_search_finds_the_smallest_limit_wherever_it_is(real: int) -> None:
    predicted = 37 * STEP
    tries: dict[int, bool] = {}
    for _ in range(40):
        limits = next_limits(predicted, 0, tries)
        if not limits:
            break
        tries |= {limit: limit >= real for limit in limits if limit > 0}
    found = min((limit for limit, ok in tries.items() if ok), default=None)
    assert found == (real if real < 100 * STEP else None)
    assert len(tries) == 2 or real != predicted


def test_a_wrong_smallest_limit_is_not_confirmed(prediction: Prediction) -> None:
    limit = prediction.smallest_limit
    assert limit is not None
    far = limit + 40 * STEP
    fits, fails = answer_to(prediction), {**answer_to(prediction), "oom": {"step": 1}}
    budget = compare_budget(prediction, {limit: fails, far - STEP: fails, far: fits})
    assert budget.measured == far
    assert result(prediction, budget=budget).verdict == "not confirmed"


def test_the_predicted_limit_is_the_smallest_that_completes(prediction: Prediction) -> None:
    limit = prediction.smallest_limit
    assert limit is not None
    assert prediction.completes_within(limit)
    assert not prediction.completes_within(limit - STEP)


def test_places_do_not_depend_on_addresses() -> None:
    alloc, free, new, gone = 0, 2, 3, 4
    action = np.array([new, new, alloc, alloc, free, gone, new])
    size = np.array([2, 20, 1, 5, 5, 20, 4]) << 20
    zeros = np.zeros(7, np.int64)

    def at(a: int, b: int, c: int) -> np.ndarray:
        return np.array([a, b, a + 512, b + 4096, b + 4096, b, c])

    low, _ = table(action, at(1 << 30, 1 << 32, 1 << 33), size, zeros, zeros)
    high, _ = table(action, at(1 << 40, 1 << 32, 1 << 36), size, zeros, zeros)
    assert np.array_equal(low, high)
    assert low[:, 1:3].tolist() == [[0, 0], [1, 0], [0, 512], [1, 4096], [1, 4096], [1, 0], [2, 0]]
    moved, _ = table(action, at(1 << 40, 1 << 32, 1 << 36) + [0, 0, 512, 0, 0, 0, 0], size, zeros,
                     zeros)  # fmt: skip
    assert not np.array_equal(low, moved)


def test_free_ranges_are_what_no_allocation_covers() -> None:
    rows = [(Action.SEGMENT_ALLOC, 0, 0, 8192, 0, 0), (Action.ALLOC, 0, 0, 1000, 0, 0),
            (Action.ALLOC, 0, 4096, 512, 0, 0), (Action.FREE_COMPLETED, 0, 0, 1000, 0, 0),
            (Action.SEGMENT_ALLOC, 1, 0, 4096, 3, 0)]  # fmt: skip
    assert free_ranges(np.array(rows), 0, 0) == [(0, 0, 4096), (0, 4608, 3584)]


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


def test_bad_words_are_one_message_and_leave_nothing(tmp_path: Path, capsys: Any) -> None:
    out, file = tmp_path / "v", tmp_path / "file"
    file.write_text("")
    trace = str(DATA / "mlp_train.npz")
    for words, said in (
        (["missing.npz", "-o", str(out)], "missing.npz: found no such file in this folder"),
        ([str(tmp_path), "-o", str(out)], "found a folder, expected a file"),
        ([trace, "-o", str(file)], "file: found a file, expected a folder to write to"),
        ([trace, "-o", str(file / "v")], "v: cannot be made: Not a directory"),
        ([trace, "-o", str(out), "--budget", "-5"], "--budget"),
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
    assert sheet.lines[0].refused.startswith("by the simulator's parser")


def test_a_sheet_names_everything_and_a_stand_in_in_its_verdict(
    prediction: Prediction, tmp_path: Path
) -> None:
    sheet = Sheet("t.npz", "ab" * 32, ["a note"], 5, "2026-11-25", "h100-80g", FACTS, 3,
                  [result(prediction)])  # fmt: skip
    assert "stand-in" in sheet.headline and sheet.headline.startswith("CONFIRMED")
    assert "stand-in" not in replace(sheet, stand_in="").headline
    paths = write_sheet(sheet, tmp_path, "t")
    document = json.loads(paths[0].read_text())
    assert document["verdict"] == "confirmed" and document["trace_sha256"] == "ab" * 32
    assert document["lines"][0]["counters"]["measured"]["num_ooms"] == 0
    text = paths[1].read_text()
    for part in ("ab" * 32, "575.57", "2.15.0", "2026-11-25", "a note", "(default)"):
        assert part in text


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

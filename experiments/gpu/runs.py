"""The prepared runs: what each does, in order, within its budget."""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...traces.errors import ConfigError, TightfitError
from ...traces.whole_file import replacing
from ..verify.accepted import accept_lines, release_of
from ..verify.check_trace import NoDevice, check_trace
from ..verify.cost_table import cost_table, measure_costs, write_table
from ..verify.lines import EXPANDABLE, Line, read_plan
from ..verify.machine import Machine, ask_once, find_machine
from ..verify.pieces import Clock
from ..verify.sheet import write_sheet
from ..verify.workload import run_workload
from ..verify.workload_sheet import describe, write_workload
from .first_block import document, try_first_blocks
from .habits import describe_habits, describe_libraries
from .pack import pack
from .recordings import record_all
from .side_by_side import compare_folders, describe_pair

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "traces" / "data"
# Run -> the traces it checks, each under the lines of its plan in plans/.
CHECKS = {
    "training": ("gpt_checkpoint.default", "gpt_bf16_varlen.default", "cnn_resolutions.default"),
    "serving": ("cuda_graphs.default", "streams.default", "serve_growing_kv.default"),
    # Expandable segments are predicted to reserve more than the default here.
    "worse": ("side_streams.default",),
}
WORKLOADS = ("gpt_varlen", "decoding", "cnn")  # V3, of programs.py
# Run -> seconds it may take on a GPU; most valuable first. Together they stay below half an hour.
SECONDS = {
    "habits": 60, "costs": 30, "training": 180, "worse": 60, "first_block": 70, "recordings": 320,
    "serving": 210, "gpt_varlen": 300, "cnn": 260, "decoding": 300,
}  # fmt: skip
OTHER = ("verify", "program", "compare")  # runs of things that are named
PAST = "calls.json"  # of `all`: how each call of a run went


def main(argv: Sequence[str], begun: float | None = None) -> int:
    """Carry a run out; 0 = all confirmed, 1 = not, 2 = it could not be.

    Args:
        argv: the words after `run.py`.
        begun: when the budget's time began, of time.monotonic(); None = now.
    """
    begun = time.monotonic() if begun is None else begun
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__)
    parser.add_argument("run", choices=["all", *SECONDS, *OTHER])
    parser.add_argument("paths", nargs="*", type=Path, help="traces; of compare: two folders")
    parser.add_argument("--conf", action="append", help="a line of verify; several times")
    parser.add_argument("--command", help="of program: what to run, in one word")
    parser.add_argument("--only", default="", help="of recordings, first_block: one program")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, help="seconds (default: what README.md says)")
    parser.add_argument("--stand-in", metavar="GPU", help="rehearse without a GPU")
    parser.add_argument("--torch", metavar="V", help="release to rehearse with")
    parser.add_argument("--pack-into", type=Path, metavar="DIR", help="few files for all results")
    asked = parser.parse_args(argv)
    names = list(SECONDS) if asked.run == "all" else [asked.run]
    # As Ctrl-C does: what was started is ended, and what there is is bundled.
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        if asked.run == "compare":
            return _compare(asked.paths, asked.out)
        machine = find_machine(asked.stand_in, asked.torch)
        return _carry_all_out(names, asked, machine, begun)
    except TightfitError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run.py: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        if asked.pack_into and asked.out.is_dir():
            pack(asked.out, asked.pack_into)
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _carry_all_out(
    names: Sequence[str], asked: argparse.Namespace, machine: Machine, begun: float
) -> int:
    """Carry runs out one after another; one that fails keeps none of the others from its turn.

    Of several, one that an earlier call finished is passed over: working its verdict out again
    would take seconds of the device's time. Named alone it is judged anew.

    Raises:
        TightfitError: the only run failed, or there is no device.
    """
    clock = Clock(asked.budget, begun)
    answers = []
    for name in names:
        allowed = SECONDS.get(name, 480.0) if asked.budget is None else clock.left
        if not clock.fits(f"first piece of {name}"):  # as long as the longest so far
            print(f"{name}: not begun, the time is up; the same command goes on", flush=True)
            answers.append(1)
            continue
        out = asked.out
        if len(names) > 1:
            out = asked.out / name
            print(f"== {name}", flush=True)
            allowed = min(allowed, SECONDS[name] * 1.5)
        out.mkdir(parents=True, exist_ok=True)
        past = _past(out / PAST, machine) if len(names) > 1 else []
        if past and past[-1]["finished"]:
            print(f"{name}: done by an earlier call, exit code {past[-1]['code']}", flush=True)
            answers.append(past[-1]["code"])
            continue
        run_begun = time.monotonic()
        try:
            code, finished = _carry_out(name, asked, machine, out, clock.within(allowed))
        except TightfitError as error:
            if len(names) == 1 or isinstance(error, NoDevice):
                raise
            print(f"{name}: {error}", flush=True)
            code, finished = 2, False
        answers.append(code)
        if len(names) > 1:
            seconds = time.monotonic() - run_begun
            print(f"{name}: {seconds:.0f} s", flush=True)
            call = {"stand_in": machine.stand_in, "seconds": seconds, "code": code,
                    "finished": finished}  # fmt: skip
            _write(out / PAST, {"calls": [*past, call]})
            if asked.pack_into:  # a call that is killed loses one run's files at the most
                pack(asked.out, asked.pack_into)
    return max(answers, default=0)


def _past(path: Path, machine: Machine) -> list[dict[str, Any]]:
    """What earlier calls of a run came to on this kind of machine, oldest first."""
    try:
        calls = json.loads(path.read_text(encoding="utf-8"))["calls"]
    except (OSError, ValueError):
        return []
    return [call for call in calls if call["stand_in"] == machine.stand_in]


def _carry_out(
    name: str, asked: argparse.Namespace, machine: Machine, out: Path, clock: Clock
) -> tuple[int, bool]:
    """Carry one run out; return its exit code, and whether nothing of it is left to do."""
    if name == "costs":
        return _costs(machine, out, clock), True
    if name == "habits":
        return _habits(machine, out, clock), True
    if name == "first_block":
        tried, finished = try_first_blocks(
            machine, out, clock, lambda s: print(s, flush=True), asked.only
        )
        _write(out / "first_block.json", {"stand_in": machine.stand_in, **document(tried)})
        return int(not finished or any(t.verdict != "confirmed" for t in tried)), finished
    if name == "recordings":
        there, wanted = record_all(machine, out, clock, lambda s: print(s, flush=True), asked.only)
        print(f"{there} of {wanted} recordings")
        return int(there != wanted), there == wanted
    if name in WORKLOADS or name == "program":
        command = [machine.python, str(HERE / "programs.py"), name]
        if name == "program":
            command = shlex.split(asked.command or "")
            if not command:
                raise ConfigError("program: say which with --command 'python train.py'")
        result = run_workload(command, machine, out / "pieces", clock)
        write_workload(result, command, name, out)
        print("\n".join(describe(result, name)), flush=True)
        return int(result.verdict != "confirmed"), result.finished
    if name == "verify" and not asked.paths:
        raise ConfigError("verify: found no trace, expected one or several")
    traces = asked.paths if name == "verify" else [DATA / f"{t}.npz" for t in CHECKS[name]]
    verdicts = [_checked(trace, asked.conf, machine, out, clock) for trace in traces]
    return int(set(verdicts) != {"confirmed"}), "unfinished" not in verdicts


def _costs(machine: Machine, out: Path, clock: Clock) -> int:
    """Measure the driver and write the table that sim/costs.py reads."""
    answer = measure_costs(machine, out / "pieces", clock)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    table = cost_table(answer, date, machine.stand_in)
    write_table(table, out / "driver_costs.json")
    _write(out / "costs.json", {"stand_in": machine.stand_in, **answer})
    for call, row in table.items():
        print(f"{call:16} {row['call_us']:10.2f} us a call {row['mib_us']:10.4f} us a MiB")
    return 0


def _habits(machine: Machine, out: Path, clock: Clock) -> int:
    """Look at what the driver and the libraries do with memory."""
    habits = ask_once("habits", machine, out / "pieces", clock)
    _write(out / "habits.json", {"stand_in": machine.stand_in, **habits})
    print("\n".join(describe_habits(habits["habits"])))
    libraries = ask_once("libraries", machine, out / "pieces", clock)
    _write(out / "libraries.json", {"stand_in": machine.stand_in, **libraries})
    print("\n".join(describe_libraries(libraries["libraries"])), flush=True)
    return 0


def _compare(folders: Sequence[Path], out: Path) -> int:
    """Hold two sets of recordings against each other."""
    if len(folders) != 2:
        raise ConfigError(f"compare: found {len(folders)} folders, expected two: the GPU's first")
    pairs = compare_folders(*folders)
    if not pairs:
        raise ConfigError(f"compare: {folders[0]} and {folders[1]} have no recording in common")
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "comparison.json", {"pairs": [asdict(pair) for pair in pairs]})
    for pair in pairs:
        print("\n".join(describe_pair(pair)))
    return 0 if all(not p.only_first and not p.only_second for p in pairs) else 1


def _checked(
    trace: Path, conf: Sequence[str] | None, machine: Machine, out: Path, clock: Clock
) -> str:
    """Check one trace, write its sheet and return the verdict.

    Raises:
        NoDevice: V0 alone could be checked, and was.
    """
    lines = _lines(trace, conf)
    try:
        sheet = check_trace(trace, lines, machine, out / "pieces", clock)
    except NoDevice:
        found = accept_lines(lines, release_of(trace, None))
        print(f"V0 ONLY: {trace.name}, lines put to {found.parser}", flush=True)
        for line in lines:
            said = (
                f"refused: {found.refused[line.conf]}" if line.conf in found.refused else "accepted"
            )
            print(f"  {line.conf or '(default)'}: {said}", flush=True)
        raise
    write_sheet(sheet, out, trace.name.removesuffix(".npz"))
    print(sheet.headline, flush=True)
    for line in sheet.lines:
        print(f"  {line.verdict:13} {line.conf or '(default)'}", flush=True)
        for reason in line.reasons:
            print(f"    {reason}", flush=True)
    return sheet.verdict


def _lines(trace: Path, conf: Sequence[str] | None) -> list[Line]:
    """The lines asked for, else the planned ones, else the two that need no plan."""
    if conf:
        return [Line("asked" if line else "default", line) for line in conf]
    plan = HERE / "plans" / (trace.name.removesuffix(".npz") + ".plan.json")
    if plan.is_file():
        return read_plan(plan, trace)
    return [Line("default", ""), Line("expandable", EXPANDABLE)]


def _write(path: Path, document: dict) -> None:
    with replacing(path) as out:
        out.write((json.dumps(document, indent=1) + "\n").encode())

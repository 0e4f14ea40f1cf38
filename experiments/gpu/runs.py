"""The prepared runs: what each does, in order, within its budget."""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from ...traces.errors import TightfitError
from ...traces.whole_file import replacing
from ..verify.check_trace import check_trace
from ..verify.cost_table import cost_table, measure_costs, write_table
from ..verify.lines import EXPANDABLE, Line, read_plan
from ..verify.machine import Machine, find_machine
from ..verify.pieces import Clock
from ..verify.sheet import Sheet, write_sheet
from ..verify.workload import run_workload
from ..verify.workload_sheet import describe, write_workload

HERE = Path(__file__).parent
DATA = HERE.parents[1] / "traces" / "data"
# Run -> the traces it checks, each under the lines of its plan in plans/.
RUNS = {
    "training": ("gpt_checkpoint.default", "gpt_bf16_varlen.default", "cnn_resolutions.default"),
    "serving": ("serve_growing_kv.default", "cuda_graphs.default", "streams.default"),
    # Expandable segments are predicted to reserve more than the default here.
    "worse": ("side_streams.default",),
}
WORKLOADS = ("gpt_varlen", "decoding", "cnn")  # V3, of programs.py
PACKED_BYTES = 14 << 20  # of results in one file


def main(argv: Sequence[str]) -> int:
    """Carry a run out; 0 = all confirmed, 1 = not, 2 = it could not be."""
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__)
    parser.add_argument("run", choices=[*RUNS, *WORKLOADS, "costs", "verify", "program"])
    parser.add_argument("traces", nargs="*", type=Path, help="of verify")
    parser.add_argument("--conf", action="append", help="a line of verify; several times")
    parser.add_argument("--command", help="of program: what to run, in one word")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=480.0, help="seconds (default 480)")
    parser.add_argument("--stand-in", metavar="GPU", help="rehearse without a GPU")
    parser.add_argument("--torch", metavar="V", help="release to rehearse with")
    parser.add_argument("--pack", action="store_true", help="leave results.tar and nothing else")
    asked = parser.parse_args(argv)
    begun = time.monotonic()
    asked.out.mkdir(parents=True, exist_ok=True)
    traces = (
        asked.traces
        if asked.run == "verify"
        else [DATA / f"{t}.npz" for t in RUNS.get(asked.run, ())]
    )
    verdicts: list[str] = []
    try:
        machine = find_machine(asked.stand_in, asked.torch)
        if asked.run == "costs":
            return _costs(machine, asked.out, asked.budget)
        if asked.run in WORKLOADS:
            command = [machine.python, str(HERE / "programs.py"), asked.run]
            return _workload(asked.run, command, machine, asked.out, asked.budget)
        if asked.run == "program":
            command = shlex.split(asked.command or "")
            return _workload("program", command, machine, asked.out, asked.budget)
        for trace in traces:
            left = asked.budget - (time.monotonic() - begun)
            sheet = _checked(trace, _lines(trace, asked.conf), machine, asked.out, left)
            verdicts.append(sheet.verdict)
            print(f"{time.monotonic() - begun:5.0f} s  {sheet.headline}", flush=True)
            for line in sheet.lines:
                print(f"         {line.verdict:13} {line.conf or '(default)'}", flush=True)
                for reason in line.reasons:
                    print(f"           {reason}", flush=True)
    except TightfitError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    finally:
        if asked.pack:
            pack(asked.out)
    return 0 if verdicts and set(verdicts) == {"confirmed"} else 1


def _costs(machine: Machine, out: Path, seconds: float) -> int:
    """Measure the driver and write the table that sim/costs.py reads."""
    answer = measure_costs(machine, out / "pieces", Clock(seconds))
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    table = cost_table(answer, date, machine.stand_in)
    write_table(table, out / "driver_costs.json")
    for call, row in table.items():
        print(f"{call:16} {row['call_us']:10.2f} us a call {row['mib_us']:10.4f} us a MiB")
    return 0


def _workload(
    name: str, command: Sequence[str], machine: Machine, out: Path, seconds: float
) -> int:
    """Carry V3 of one program out."""
    result = run_workload(command, machine, out / "pieces", seconds)
    write_workload(result, command, out / f"{name}.workload.json")
    print("\n".join(describe(result, name)), flush=True)
    return 0 if result.verdict == "confirmed" else 1


def _checked(
    trace: Path, lines: Sequence[Line], machine: Machine, out: Path, seconds: float
) -> Sheet:
    sheet = check_trace(trace, lines, machine, out / "pieces", seconds)
    write_sheet(sheet, out, trace.name.removesuffix(".npz"))
    return sheet


def _lines(trace: Path, conf: Sequence[str] | None) -> list[Line]:
    """The lines asked for, else the planned ones, else the two that need no plan."""
    if conf:
        return [Line("asked" if line else "default", line) for line in conf]
    plan = HERE / "plans" / (trace.name.removesuffix(".npz") + ".plan.json")
    if plan.is_file():
        return read_plan(plan, trace)
    return [Line("default", ""), Line("expandable", EXPANDABLE)]


def pack(folder: Path) -> list[Path]:
    """Bundle what a folder holds into few files of at most 14 MiB, and remove what is bundled.

    Returns:
        The files: results.0.tar and so on, with index.json that says what lies where.
    """
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.parent.name != "packed")
    files = [p for p in files if not p.name.startswith("results.")]
    bundles: list[list[Path]] = [[]]
    size = 0
    for path in files:
        length = path.stat().st_size + 1024
        if bundles[-1] and size + length > PACKED_BYTES:
            bundles.append([])
            size = 0
        bundles[-1].append(path)
        size += length
    made = []
    for number, bundle in enumerate(bundles):
        target = folder / f"results.{number}.tar"
        with replacing(target) as out, tarfile.open(fileobj=out, mode="w") as tar:
            for path in bundle:
                tar.add(path, path.relative_to(folder).as_posix())
        made.append(target)
    index = {t.name: [p.relative_to(folder).as_posix() for p in b]
             for t, b in zip(made, bundles, strict=True)}  # fmt: skip
    for path in files:
        path.unlink()
    with replacing(folder / "results.json") as out:
        out.write(json.dumps(index).encode())
    return made

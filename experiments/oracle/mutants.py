"""Breaking the simulator on purpose: every planted fault must be noticed.

    python -m tightfit.experiments.oracle.mutants [--seconds S] [--only NAME] [--json]

Each fault is one small edit of a copy of the package, run without compiling against the real
allocator until the first difference. A copy without a fault goes first and must show none. Exit
code 1 if a fault survives.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RELEASES = ("2.15.0", "2.9.1")  # one of each parser, tie-break and out-of-memory order


@dataclass(frozen=True)
class Fault:
    """One edit.

    Attributes:
        name: what is broken, in words.
        file: path from the package's root.
        old, new: the text and what takes its place; `old` occurs exactly once.
    """

    name: str
    file: str
    old: str
    new: str


NO_FAULT = Fault("(no fault)", "__init__.py", "tightfit: ", "tightfit: ")
FAULTS = (
    Fault(
        "1 MiB counts as large",
        "policies/native.py", "need <= SMALL_LIMIT", "need < SMALL_LIMIT",
    ),
    Fault(
        "10 MiB shares a segment",
        "policies/native.py", "need < MIN_LARGE,", "need <= MIN_LARGE,",
    ),
    Fault(
        "a rest of exactly 1 MiB is split off",
        "policies/native.py", "SMALL_LIMIT + 1, HUGE", "SMALL_LIMIT, HUGE",
    ),
    Fault(
        "rounding by divisions begins one size early",
        "policies/native.py", "(n > MIN_BLOCK * d)", "(n >= MIN_BLOCK * d // 2)",
    ),
    Fault(
        "a reservation is no larger than the device",
        "policies/native.py", "reserve = total + total // 8", "reserve = total // 2",
    ),
    Fault(
        "a block of exactly max_split_size serves small requests",
        "sim/plan.py", "requests.need < most, most, np", "requests.need < most, most + 1, np",
    ),
    Fault(
        "max_non_split_rounding is exceeded by nothing",
        "sim/plan.py",
        "np.minimum(requests.need, HUGE - rounding) + rounding",
        "np.minimum(requests.need, HUGE - rounding) + rounding + 1",
    ),
    Fault(
        "the memory limit may not be reached",
        "policies/pytorch.py", "if wanted > s.opt[LIMIT]:", "if wanted >= s.opt[LIMIT]:",
    ),
    Fault(
        "what is freed at once counts whole blocks",
        "sim/engine.py",
        "s, need if splits(policy, s, q, rest) else s.size[b],", "s, s.size[b],",
    ),
    Fault(
        "what is freed at once counts its own size alone",
        "sim/engine.py",
        "s, need if splits(policy, s, q, rest) else s.size[b],", "s, need,",
    ),
    Fault(
        "every attempt counts as a retry",
        "policies/pytorch.py", "    if retry:\n", "    if not retry:\n",
    ),
    Fault(
        "oversize blocks are not released first",
        "policies/pytorch.py", "if stage == 0 and s.opt", "if stage == 9 and s.opt",
    ),
    Fault(
        "caches are not released before giving up",
        "policies/pytorch.py", "if stage <= 1 and", "if stage < 0 and",
    ),
    Fault(
        "garbage collection has no clock",
        "policies/pytorch.py", "* POOL_WORDS + CLOCK] += 1", "* POOL_WORDS + CLOCK] += 0",
    ),
    Fault(
        "garbage of average age is kept",
        "sim/reclaim.py", "if age >= limit:", "if age > limit:",
    ),
    Fault(
        "oversize release goes on when there is enough",
        "sim/reclaim.py", "k >= 0 and released < wanted", "k >= 0 and released <= wanted",
    ),
    Fault(
        "the small pool is released before the large one",
        "sim/reclaim.py",
        "    release_blocks(s, np.int64(DEFAULT_LARGE))\n"
        "    release_blocks(s, np.int64(DEFAULT_SMALL))\n",
        "    release_blocks(s, np.int64(DEFAULT_SMALL))\n"
        "    release_blocks(s, np.int64(DEFAULT_LARGE))\n",
    ),
    Fault(
        "a hole must be larger than the request",
        "sim/expandable.py", "if total >= needed:", "if total > needed:",
    ),
    Fault(
        "a block in front of a hole counts with its own size",
        "sim/expandable.py", "if x == 0 or reach(s, x) >= reach(s, b):", "if x == 0 or b != 0:",
    ),
    Fault(
        "unmapping leaves a page too many",
        "sim/expandable.py",
        "end = (offset + s.size[b]) // page * page",
        "end = (offset + s.size[b] - 1) // page * page",
    ),
    Fault(
        "equal blocks: the higher address first",
        "sim/ties.py",
        "is_less(s.size[a], s.addr[a], s.size[b], s.addr[b])",
        "is_less(s.size[a], s.addr[b], s.size[b], s.addr[a])",
    ),
    Fault(
        "equal blocks: the younger first",
        "sim/ties.py", "(s.order[a] < s.order[b])", "(s.order[a] > s.order[b])",
    ),
    Fault(
        "active bytes fall when a free is requested",
        "sim/stats.py",
        "    change(s, ALLOCATED_BYTES, lane, -s.size[b])\n",
        "    change(s, ALLOCATED_BYTES, lane, -s.size[b])\n    change(s, ACTIVE, lane, 0)\n"
        "    change(s, ACTIVE_BYTES, lane, -s.size[b])\n",
    ),
    Fault(
        "a free block's age counts from the start of the run",
        "sim/index.py", "    if keeps_ages(s):\n", "    if keeps_ages(s) > 1:\n",
    ),
    Fault(
        "a line set at run time switches off the flags it leaves out",
        "sim/settings_parser.py", "else getattr(self.before, name)", "else False",
    ),
    Fault(
        "what others hold does not count",
        "sim/start.py", "device.capacity_bytes - device.other_bytes", "device.capacity_bytes",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Caught:
    """What became of a fault.

    Attributes:
        name: the fault.
        caught: a difference was found.
        torch: the release that showed it.
        programs, events: compared until then, both releases in turn.
        seconds: wall time until then, start-up not counted.
        words: the first difference.
    """

    name: str
    caught: bool
    torch: str
    programs: int
    events: int
    seconds: float
    words: str


def edited(fault: Fault, text: str) -> str:
    """Return the text with the fault in it.

    Raises:
        ValueError: the text to replace does not occur exactly once.
    """
    if text.count(fault.old) != 1:
        raise ValueError(f"{fault.file}: '{fault.old}' occurs {text.count(fault.old)} times")
    return text.replace(fault.old, fault.new)


def plant(fault: Fault, folder: Path) -> None:
    """Copy the package into folder/tightfit with the fault in it."""
    package = folder / "tightfit"
    ignore = shutil.ignore_patterns("__pycache__", "data", ".*", "tests", "docs", "*.egg-info")
    for part in ("traces", "sim", "policies", "experiments"):
        shutil.copytree(ROOT / part, package / part, ignore=ignore)
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(ROOT / name, package / name)
    target = package / fault.file
    target.write_text(edited(fault, target.read_text()))


def hunt(fault: Fault, seconds: float) -> Caught:
    """Run a planted fault against the real allocator until it shows."""
    with tempfile.TemporaryDirectory() as folder:
        plant(fault, Path(folder))
        env = os.environ | {"PYTHONPATH": folder, "NUMBA_DISABLE_JIT": "1"}
        command = [sys.executable, "-m", "tightfit.experiments.oracle.mutants", "--hunted"]
        done = subprocess.run(
            [*command, str(seconds)], env=env, cwd=folder, capture_output=True, text=True
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        # A fault may also show as an error of our own: that, too, is being noticed.
        return Caught(fault.name, True, "", 0, 0, 0.0, f"it fails: {lines[-1][:120]}")
    return Caught(fault.name, **json.loads(done.stdout))


def hunted(seconds: float) -> dict[str, object]:
    """Compare this very package with the real allocator until the first difference."""
    from ...sim.release import release
    from .build import build_driver
    from .compare import judge
    from .programs import random_case
    from .run import run_cases
    from .wheels import find_wheel

    drivers = {v: build_driver(find_wheel(v, None)) for v in RELEASES}
    programs = events = 0
    start = time.monotonic()
    seed = 0
    while time.monotonic() - start < seconds:
        for torch, driver in drivers.items():
            rules = release(torch)
            cases = [random_case(torch, rules, seed + k) for k in range(10)]
            for case, answer in zip(cases, run_cases(driver, cases), strict=True):
                verdict = judge(case, answer, rules)
                programs += 1
                events += verdict.events
                if verdict.differences:
                    return {
                        "caught": True, "torch": torch, "programs": programs, "events": events,
                        "seconds": round(time.monotonic() - start, 1),
                        "words": verdict.differences[0][:160],
                    }  # fmt: skip
        seed += 10
    return {
        "caught": False, "torch": "", "programs": programs, "events": events,
        "seconds": round(time.monotonic() - start, 1), "words": "",
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="patience per fault")
    parser.add_argument("--only", default="", help="faults whose name contains this")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--hunted", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.hunted is not None:
        print(json.dumps(hunted(args.hunted)))
        return 0
    control = hunt(NO_FAULT, min(20.0, args.seconds))
    print(_line(control), file=sys.stderr, flush=True)
    if control.caught:
        print("the copy without a fault differs: nothing can be learned", file=sys.stderr)
        return 2
    results = []
    for fault in FAULTS:
        if args.only in fault.name:
            results.append(hunt(fault, args.seconds))
            print(_line(results[-1]), file=sys.stderr, flush=True)
    if args.json:
        print(json.dumps([asdict(r) for r in results], indent=1))
    return int(not all(r.caught for r in results))


def _line(found: Caught) -> str:
    if not found.caught:
        return f"SURVIVES  {found.name}: {found.events:,} events in {found.seconds:.0f} s"
    return f"caught    {found.name}: {found.seconds:.1f} s, {found.events:,} events; {found.words}"


if __name__ == "__main__":
    raise SystemExit(main())

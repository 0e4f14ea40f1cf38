"""How much longer a program takes while it is recorded.

python -m tightfit.experiments.recording.overhead [--runs N] [--stacks KIND] -- python train.py ...
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ...traces.errors import ConfigError, TightfitError, VerificationError
from .launch import HOOK, Plan, environment


@dataclass(frozen=True)
class Overhead:
    """Wall time of a program with and without a recorder, start and end included.

    Attributes:
        plain_s, recorded_s: seconds of each run, in the order of the runs.
        write_s: median of the seconds to make the file of a run, after the program ended.
        entries: of the recording, all devices.
    """

    plain_s: tuple[float, ...]
    recorded_s: tuple[float, ...]
    write_s: float
    entries: int

    @property
    def ratio(self) -> float:
        """Median recorded over median plain."""
        return statistics.median(self.recorded_s) / statistics.median(self.plain_s)

    @property
    def microseconds(self) -> float:
        """Extra time of an entry, its part of the snapshot written at exit included."""
        extra = statistics.median(self.recorded_s) - statistics.median(self.plain_s)
        return 1e6 * extra / max(1, self.entries)


def measure_overhead(command: tuple[str, ...], runs: int = 3, stacks: str = "python") -> Overhead:
    """Run a program plainly and recorded in turn, one run before as warm-up.

    Args:
        command: its words; it must use CUDA.
        runs: of each kind.
        stacks: as `tightfit record --stacks`.

    Raises:
        ConfigError: no such program, or fewer than one run.
        VerificationError: the program fails, or never uses CUDA.
    """
    if runs < 1:
        raise ConfigError(f"--runs: found {runs}, expected 1 or more")
    plain, recorded, writing, entries = [], [], [], 0
    _seconds(command, None)
    for run in range(2 * runs):
        if run % 4 in (0, 3):  # plain, recorded, recorded, plain: drift hits both alike
            plain.append(_seconds(command, None))
            continue
        with tempfile.TemporaryDirectory(prefix="tightfit-overhead-") as folder:
            plan = Plan(command, Path(folder), stacks=stacks)
            shutil.copyfile(HOOK, plan.folder / "sitecustomize.py")
            recorded.append(_seconds(command, environment(plan)))
            start = time.perf_counter()
            entries = _convert(plan)
            writing.append(time.perf_counter() - start)
    return Overhead(tuple(plain), tuple(recorded), statistics.median(writing), entries)


def _convert(plan: Plan) -> int:
    """Write the recordings of a run as `tightfit record` does; return their entries."""
    from ...traces.provenance import origin_of, read_snapshot
    from ...traces.store import save

    told = sorted(plan.folder.glob("*.exit*.json"))
    if not told:
        raise VerificationError(f"{' '.join(plan.command)}: nothing was recorded; it must use CUDA")
    entries = 0
    for path in told:
        recording = read_snapshot(path, origin_of("gpu", "", plan.command), path)
        save(recording, path.with_suffix(".npz"))
        entries += sum(part.n_entries for part in recording.devices.values())
    return entries


def _seconds(command: tuple[str, ...], variables: dict[str, str] | None) -> float:
    """Run a command and return its wall time."""
    start = time.perf_counter()
    try:
        subprocess.run(command, stdout=2, env=variables, check=True)
    except FileNotFoundError:
        raise ConfigError(f"found no program '{command[0]}' to run") from None
    except subprocess.CalledProcessError as error:
        raise VerificationError(f"{' '.join(command)}: status {error.returncode}") from None
    return time.perf_counter() - start


def main(words: list[str] | None = None) -> int:
    """Print one line."""
    parser = argparse.ArgumentParser(prog="python -m tightfit.experiments.recording.overhead")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--stacks", choices=("python", "all", "none"), default="python")
    parser.add_argument("command", nargs="+", metavar="PROGRAM")
    a = parser.parse_args(words)
    try:
        found = measure_overhead(tuple(a.command), a.runs, a.stacks)
    except TightfitError as error:
        print(f"overhead: {error}", file=sys.stderr)
        return 2
    print(
        f"recorded / plain: {found.ratio:.3f} (medians of {len(found.plain_s)} and "
        f"{len(found.recorded_s)} runs, start to end); {found.microseconds:.2f} us for each of "
        f"{found.entries:,} entries; then {found.write_s:.1f} s to write the file"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

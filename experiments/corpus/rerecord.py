"""Record one program of the corpus on the stand-in, fit to be given away, and check it."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from ...traces.errors import VerificationError
from ...traces.load import load
from ...traces.store import save
from ...traces.strip import without_folders
from ..recording.command import record_program
from ..release_fit import find_release
from ..screen import warn
from ..subject import load_subjects
from .catalogue import LINES, TORCH, Workload


def rerecord(workload: Workload, line: str, folder: Path, force: bool = False) -> list[Path]:
    """Record a workload under one settings line.

    Args:
        workload: what to record.
        line: which of LINES.
        folder: where to.
        force: whether files that are there are replaced.

    Returns:
        The files written; none if all are there.

    Raises:
        VerificationError: the program failed, or the simulator does not reproduce the recording.
    """
    wanted = workload.files(line)
    if not force and all((folder / name).is_file() for name in wanted.values()):
        return []
    start = time.monotonic()
    command = (
        sys.executable, "-m", f"{__package__}.{workload.program}", *workload.options,
    )  # fmt: skip
    written = []
    with tempfile.TemporaryDirectory(prefix="tightfit-corpus-") as scratch:
        files, code = record_program(
            command, Path(scratch) / "recorded.npz", workload.profile, TORCH, LINES[line],
            ranks=workload.ranks, script=workload.script,
        )  # fmt: skip
        if code or not files:
            raise VerificationError(f"{workload.name}: the program ended with status {code}")
        for file in files:
            name = wanted.get(file.process)
            if name is None or file.reason != "exit":
                continue
            recording = without_folders(load(file.file))
            recording.name = name
            recording.extra["recorded"]["options"] = " ".join(workload.options)
            save(recording, folder / name)
            fit = find_release(load_subjects(folder / name), TORCH.rsplit(".", 1)[0])
            if not fit.exactness or not all(e.is_exact for e in fit.exactness):
                raise VerificationError(f"{name}: the simulator does not reproduce it: {fit}")
            size = (folder / name).stat().st_size
            warn(f"{name}: {file.entries:,} entries, {size >> 10:,} KiB, exact, after "
                 f"{time.monotonic() - start:.0f} s")  # fmt: skip
            written.append(folder / name)
    return written

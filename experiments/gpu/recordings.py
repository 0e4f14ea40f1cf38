"""Record programs with their whole history on the device at hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...traces.errors import TightfitError, VerificationError
from ...traces.provenance import origin_of, read_snapshot
from ...traces.store import save
from ...traces.strip import without_folders
from ..corpus.catalogue import LINES, WORKLOADS
from ..recording.launch import Plan, run
from ..verify.machine import Machine
from ..verify.pieces import Clock

HERE = Path(__file__).parent
OWN = (  # of programs.py
    "streams", "out_of_memory", "devlog", "decoding_flushed", "gpt_varlen", "cnn",
)  # fmt: skip
# Of the corpus, in the order of what they can teach: work spaces, graphs, growth, odd shapes.
CORPUS = (
    "gpt_bf16", "convnet", "serve_graphs", "gpt_fp32", "diffusion", "mixture_of_experts", "lora",
    "serve_grow", "gpt_recompute",
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A program that is recorded; `command` are the words after the interpreter's."""

    name: str
    script: Path
    command: tuple[str, ...]


def subjects() -> list[Subject]:
    """Return the programs in the order in which they are recorded."""
    own = [Subject(n, HERE / "programs.py", (str(HERE / "programs.py"), n)) for n in OWN]
    own.append(Subject("side_streams", HERE / "side_streams.py", (str(HERE / "side_streams.py"),)))
    corpus = {w.name: w for w in WORKLOADS}
    start = (str(HERE / "run.py"), "module")
    return own + [
        Subject(n, corpus[n].script, (*start, f"corpus.{corpus[n].program}", *corpus[n].options))
        for n in CORPUS
    ]


def record_all(
    machine: Machine, folder: Path, clock: Clock, tell: Callable[[str], None], only: str = ""
) -> tuple[int, int]:
    """Record every program under every line; what is there already is not recorded again.

    Args:
        machine: where.
        folder: for NAME.LINE.npz.
        clock: nothing is begun that does not fit.
        tell: is told what was recorded, and what failed.
        only: one program alone.

    Returns:
        How many recordings are there now, and how many there should be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(s, line) for s in subjects() if only in ("", s.name) for line in LINES]
    for subject, line in wanted:
        path = folder / f"{subject.name}.{line}.npz"
        if path.is_file() or not clock.fits(subject.name):
            continue
        try:
            with clock.timing(subject.name):
                record_one(subject, LINES[line], machine, path)
            tell(f"{path.name}: {path.stat().st_size >> 10:,} KiB")
        except TightfitError as error:
            tell(f"{path.name}: {error}")
    return sum((folder / f"{s.name}.{line}.npz").is_file() for s, line in wanted), len(wanted)


def record_one(subject: Subject, conf: str, machine: Machine, path: Path) -> None:
    """Record one program under one line, stacks of C++ functions included.

    PyTorch 2.11 loses the exception by which checkpointing stops a recomputation early if a tensor
    is freed on the way out and its stack is taken; then it is recorded once more without stacks.

    Raises:
        VerificationError: it failed, or left no history.
        TraceError: its snapshot cannot be read; it is kept beside `path`.
    """
    mode = "stand-in" if machine.stand_in else "gpu"
    origin = origin_of(mode, machine.stand_in, [str(subject.script)])
    status = 0
    for stacks in ("all", "none"):
        with tempfile.TemporaryDirectory(prefix="tightfit-recordings-") as scratch:
            plan = Plan(
                (machine.python, *subject.command), Path(scratch), conf, stacks, quiet=True,
                libraries=machine.libraries, runtime=machine.runtime, path=machine.path,
                extra=machine.extra,
            )  # fmt: skip
            told: list[Path] = []
            status = run(plan, machine.python, told.append)
            whole = [p for p in told if ".exit" in p.name]
            if status == 0 and whole:
                recording = without_folders(read_snapshot(whole[0], origin, path))
                recording.name = path.name
                save(recording, path)
                return
    raise VerificationError(f"the program ended with status {status}, or left no history")

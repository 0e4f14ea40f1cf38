"""The first block put to the device: found by replay, then allocated by the program itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ...policies.native import replay_native
from ...sim.packing import Packed
from ...sim.release import Release
from ...sim.run import Run
from ...sim.settings import Settings
from ...traces.load import load
from ...traces.recording import Recording
from ...traces.units import format_bytes
from ..first_block import best_first_block, statement
from ..release_fit import find_release
from ..subject import load_subjects
from ..verify.machine import Machine
from ..verify.pieces import Clock
from .programs import FIRST_BLOCK
from .recordings import record_one, subjects

PROGRAMS = ("gpt_varlen", "cnn")


@dataclass(frozen=True)
class Tried:
    """One program with its first block.

    Attributes:
        program: its name in programs.py.
        gpu, torch: what it ran on.
        statement: the block, as a line of Python.
        held: what the program holds at most, as asked for; bytes, as all that follow.
        without: peak reserved as it is.
        predicted, measured: peak reserved with the block.
        exact: whether the simulation reproduces the recording without the block to the byte; if
            not, the prediction is an estimate.
    """

    program: str
    gpu: str
    torch: str
    statement: str
    held: int
    without: int
    predicted: int
    measured: int
    exact: bool

    @property
    def verdict(self) -> str:
        return "confirmed" if self.measured == self.predicted else "not confirmed"


def try_first_blocks(
    machine: Machine, folder: Path, clock: Clock, tell: Callable[[str], None], only: str = ""
) -> tuple[list[Tried], bool]:
    """Try the first block of every program; what was recorded before is not recorded again.

    Args:
        machine: where.
        folder: for the recordings.
        clock: nothing is begun that does not fit.
        tell: is told what came out.
        only: one program alone.

    Returns:
        The programs tried, and whether none is left.

    Raises:
        VerificationError: a program failed.
    """
    own = {s.name: s for s in subjects()}
    tried = []
    for name in (n for n in PROGRAMS if only in ("", n)):
        without, given = folder / f"{name}.without.npz", folder / f"{name}.first_block.npz"
        if not without.is_file():
            if not clock.fits(f"{name} twice"):
                return tried, False
            with clock.timing(name):
                record_one(own[name], "", machine, without)
        found = load_subjects(without)
        fit = find_release(found, _torch(load(without)))

        settings, _ = found[0].recorded_settings(fit.rules)

        def play(packed: Packed, settings: Settings = settings, rules: Release = fit.rules) -> Run:
            return replay_native(packed, settings, rules)

        stats = play(found[0].kept).stats
        held = stats["requested_bytes.all.peak"]
        block = best_first_block([found[0].program], play, [held])
        assert block is not None, "the history of a program of ours begins with nothing"
        if not given.is_file():
            if not clock.fits(name):
                return tried, False
            more = {**machine.extra, FIRST_BLOCK: str(block.bytes)}
            with clock.timing(name):
                record_one(own[name], "", replace(machine, extra=more), given)
        facts = load(without).extra["recorded"]
        one = Tried(
            name,
            facts["devices"]["0"]["name"],
            facts["torch"],
            statement(block),
            held,
            _peak(load(without)),
            block.runs[0].stats["reserved_bytes.all.peak"],
            _peak(load(given)),
            all(e.is_exact for e in fit.exactness),
        )
        tried.append(one)
        tell(
            f"{name}: {format_bytes(one.without)} without, predicted "
            f"{format_bytes(one.predicted)}, measured {format_bytes(one.measured)} after "
            f"{one.statement}: {one.verdict}"
        )
    return tried, True


def document(tried: list[Tried]) -> dict[str, object]:
    """The outcome as it is written."""
    return {"first_blocks": [{**asdict(t), "verdict": t.verdict} for t in tried]}


def _torch(recording: Recording) -> str:
    """The release that recorded."""
    return str(recording.extra["recorded"]["torch"])


def _peak(recording: Recording) -> int:
    """What the run's own memory_stats said at its end."""
    return int(recording.extra["recorded"]["devices"]["0"]["stats"]["reserved_bytes.all.peak"])

"""`tightfit record`: record a program's allocations, on a GPU or without one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...traces.capture_hook import ENTRIES
from ..options import READER_SECONDS, AsJson, CudaBuild, Force, StandIn

if TYPE_CHECKING:
    from ...traces.errors import TraceError
    from ...traces.provenance import Origin
    from ...traces.recording import Recording

NO, NOTHING = 1, 2


@dataclass(frozen=True)
class Recorded:
    """One file that was written.

    Attributes:
        file: its path as the user would write it.
        reason: when it was taken: "exit", "oom" or "signal".
        process: rank, or number of the process in order of appearance.
        entries: trace entries of all devices.
        file_bytes: size of the file.
    """

    file: str
    reason: str
    process: int
    entries: int
    file_bytes: int


def record(
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- PROGRAM...",
            help="The program, unchanged: python train.py ..., torchrun ..., vllm serve ...",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="OUT.npz",
            help="The file to write (default: the script's name).",
            show_default=False,
        ),
    ] = None,
    stand_in: StandIn = None,
    torch: CudaBuild = None,
    conf: Annotated[
        str | None,
        typer.Option(
            "--conf",
            metavar="LINE",
            help="The program's PYTORCH_CUDA_ALLOC_CONF (default: what the environment says).",
            show_default=False,
        ),
    ] = None,
    fake: Annotated[
        str | None,
        typer.Option(
            "--fake",
            metavar="GPU",
            help="Without a GPU and without a CUDA build: record fake tensors, as on this GPU.",
            show_default=False,
        ),
    ] = None,
    scratch: Annotated[
        bool,
        typer.Option(
            "--scratch/--no-scratch",
            help="With --fake: add the scratch that kernels take, each kind named.",
        ),
    ] = True,
    ranks: Annotated[
        int,
        typer.Option(
            "--ranks",
            metavar="N",
            min=0,
            help="Start so many copies as ranks of one group, a device and a file each; not with "
            "--fake.",
            show_default=False,
        ),
    ] = 0,
    stacks: Annotated[
        str, typer.Option("--stacks", metavar="KIND", help="python, all (C++ too) or none.")
    ] = "python",
    entries: Annotated[
        int | None,
        typer.Option(
            "--entries",
            metavar="N",
            min=1000,
            help=f"Keep only the newest N entries of each device (default: {ENTRIES:,}); not with "
            "--fake.",
            show_default=False,
        ),
    ] = None,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare",
            help="With --stand-in: fetch the CUDA build, compile the stand-in, and run nothing.",
        ),
    ] = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Record a program's allocations, on a GPU or without one.

    A file is written when the program ends; another, NAME.oom.npz, when an allocation fails; and
    NAME.signal.npz whenever this command is sent SIGUSR1 (kill -USR1). Of several processes that
    use a GPU each gets a file of its own, NAME.rankK.npz. A server is recorded like a script:
    tightfit record -- vllm serve MODEL; end it with Ctrl-C. Where a program cannot be started this
    way, write `with tightfit.record("out.npz"):` in it. Exit code 1: recorded, but the program
    failed.
    """
    from ...traces.errors import ConfigError
    from ..outfile import check_output
    from .report import report, warn_of_lost_exceptions, why_nothing

    if "list" in (stand_in, fake):
        list_stand_ins(as_json, "tightfit record --stand-in h100-80g -- python train.py")
        return
    if prepare:
        if stand_in is None or command:
            raise ConfigError("--prepare runs nothing: tightfit record --stand-in GPU --prepare")
        _prepare(stand_in, torch, as_json)
        return
    if not command:
        raise ConfigError("the program is missing: tightfit record -- python train.py")
    if stacks not in ("python", "all", "none"):
        raise ConfigError(f"--stacks: found {stacks!r}, expected python, all or none")
    if not scratch and fake is None:
        raise ConfigError("--no-scratch is for --fake; elsewhere PyTorch itself asks for scratch")
    if fake is not None and (stand_in is not None or ranks):
        raise ConfigError("--fake records one process; give it without --stand-in and --ranks")
    if fake is not None and entries is not None:
        raise ConfigError("--entries: with --fake every entry is kept")
    if torch is not None and stand_in is None:
        raise ConfigError(
            "--torch is for --stand-in; on a GPU the program's own PyTorch is recorded"
        )
    out = out or Path(_stem(command) + ".npz")
    check_output(out, ".npz", force)
    done, code = record_program(
        tuple(command),
        out,
        stand_in,
        torch,
        conf,
        ranks,
        stacks,
        entries,
        quiet=as_json,
        fake=fake,
        scratch=scratch,
    )
    why = why_nothing(tuple(command), stand_in, fake) if not done else ""
    report(done, code, as_json, "check" if fake is None else "replay", why)
    if code and done and stacks != "none":
        warn_of_lost_exceptions(done[0].file)
    if not done:
        raise typer.Exit(NOTHING)
    if code:
        raise typer.Exit(NO)


def record_program(
    command: tuple[str, ...],
    out: Path,
    stand_in: str | None = None,
    torch: str | None = None,
    conf: str | None = None,
    ranks: int = 0,
    stacks: str = "python",
    entries: int | None = None,
    quiet: bool = False,
    script: Path | None = None,
    fake: str | None = None,
    scratch: bool = True,
) -> tuple[list[Recorded], int]:
    """Run a program and write what its processes allocated.

    Args:
        command, out, stand_in, torch, conf, ranks, stacks, entries: as the command's.
        quiet: whether the program's output goes to standard error.
        script: the program's file, where the command does not name it.
        fake: device to pretend with fake tensors.
        scratch: whether scratch that kernels take is added then.

    Returns:
        The files, and the program's exit status.

    Raises:
        ConfigError: something asked for does not exist.
        VerificationError: the CUDA build or the stand-in cannot be had.
        TraceError: a snapshot cannot be read.
        PolicyError: PyTorch would refuse the settings line.
    """
    import tempfile

    from ...traces.provenance import origin_of
    from ..screen import announce_compiling
    from .installed import check_line, installed_torch
    from .launch import Plan, find_python, run

    python = find_python(command)
    mode = "stand-in" if stand_in else "fake" if fake else "gpu"
    origin = origin_of(mode, stand_in or fake or "", [str(script)] if script else command)
    with tempfile.TemporaryDirectory(prefix="tightfit-record-") as folder:
        plan = Plan(command, Path(folder), conf, stacks, entries, ranks, quiet=quiet)
        if stand_in is not None:
            from .on_stand_in import on_stand_in

            devices = max(ranks, 8 if _is_launcher(command) else 1)
            plan = on_stand_in(plan, stand_in, torch, python, devices)
        elif conf is not None and (own := installed_torch(python)) is not None:
            check_line(conf, own.version)
        if fake is not None:
            from dataclasses import replace

            from .fake import build_shim
            from .profiles import find_profile

            shape = find_profile(fake, "--fake").pretended
            plan = replace(plan, fake=build_shim(python), device=shape, scratch=scratch)
        announce_compiling(READER_SECONDS, loops=())
        files = _Files(out, origin)
        code = run(plan, python, files.add)
        done = files.written()
        if files.unread:
            raise files.unread[0]
        return done, code


class _Files:
    """Names and writes recordings as they come.

    The first process's file is OUT.npz; if more come, all of them are renamed to say which is
    which, so that one process is the plain case and no file is forgotten.
    """

    def __init__(self, out: Path, origin: Origin) -> None:
        self.out, self.origin = out, origin
        self.processes: list[str] = []
        self.found: list[tuple[int, str, str, Path]] = []
        self.counts: dict[tuple[int, str], int] = {}
        self.unread: list[TraceError] = []

    def add(self, told: Path) -> None:
        """Convert one snapshot, beside where it will stand."""
        import json

        from ...traces.errors import TraceError
        from ...traces.provenance import read_snapshot
        from ...traces.store import save

        pid, _, _ = told.stem.partition(".")
        facts = json.loads(told.read_text(encoding="utf-8"))
        label = str(facts.get("rank", pid))
        if label not in self.processes:
            self.processes.append(label)
        process = self.processes.index(label) if "rank" not in facts else int(facts["rank"])
        reason = facts["reason"]
        number = self.counts[process, reason] = self.counts.get((process, reason), 0) + 1
        suffix = "" if reason == "exit" else f".{reason}" + (str(number) if number > 1 else "")
        word = "rank" if "rank" in facts else "process"
        middle = f".{word}{process}"
        path = self.out.with_name(self.out.stem + middle + suffix + ".npz")
        if self.origin.mode == "fake":
            from .fake import read_rows

            recording: Recording = read_rows(told, self.origin)
        else:
            try:
                recording = read_snapshot(told, self.origin, path)
            except TraceError as error:  # said when the program has ended, whose run goes on
                self.unread.append(error)
                return
            finally:
                told.with_suffix(".pickle").unlink()
        recording.name = path.name
        save(recording, path)
        self.found.append((process, reason, suffix, path))

    def written(self) -> list[Recorded]:
        """Give a lone process the plain name, and return what there is."""
        from ...traces.load import load

        alone = len({process for process, *_ in self.found}) == 1
        done = []
        for process, reason, suffix, path in sorted(self.found):
            if alone:
                path = path.replace(self.out.with_name(self.out.stem + suffix + ".npz"))
            n = sum(part.n_entries for part in load(path).devices.values())
            done.append(Recorded(str(path), reason, process, n, path.stat().st_size))
        return done


def _stem(command: list[str]) -> str:
    """Return a name for a program's recording: its script's, else its own."""
    script = next((word for word in command if word.endswith(".py")), command[0])
    return Path(script).stem


def _is_launcher(command: tuple[str, ...]) -> bool:
    return Path(command[0]).name == "torchrun" or "torch.distributed.run" in command


def _prepare(stand_in: str, torch: str | None, as_json: bool) -> None:
    """Have everything at hand that recording without a GPU needs."""
    from ..screen import emit_json, suggest, verdict
    from .libraries import build_libraries
    from .profiles import find_profile
    from .whole_wheel import find_build

    profile = find_profile(stand_in)
    build = find_build(torch)
    libraries = build_libraries(build)
    if as_json:
        emit_json({"torch": build.wheel.version, "root": build.wheel.root, "libraries": libraries})
        return
    verdict(f"torch {build.wheel.version} is ready to run on a stand-in for {profile.name}")
    release = f" --torch {torch}" if torch else ""
    suggest(f"tightfit record --stand-in {stand_in}{release} -- python train.py")


def list_stand_ins(as_json: bool, then: str) -> None:
    """Show the GPUs that the stand-in can be, and a command to go on with."""
    from ...traces.units import MiB
    from ..screen import Column, emit_json, suggest, table, verdict
    from .profiles import profiles

    if as_json:
        emit_json({"profiles": profiles()})
        return
    verdict(f"{len(profiles())} GPUs that the stand-in can be")
    table(
        "",
        ["--stand-in", "name", Column("memory", "bytes"), "capability", "multiprocessors"],
        [
            [p.key, p.name, p.memory_mib * MiB, p.capability, p.multiprocessors]
            for p in profiles().values()
        ],
    )
    suggest(then)

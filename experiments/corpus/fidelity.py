"""Hold recordings with fake tensors against the stand-in's, allocation by allocation.

python -m tightfit.experiments.corpus.fidelity [NAME...]

Needs a PyTorch without CUDA to run in, and its CUDA build of the same release for the stand-in.
What was measured is kept in fidelity.json, and docs/recording.md shows it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...traces.errors import VerificationError, did_you_mean
from ...traces.event import Action
from ...traces.load import load
from ...traces.units import MiB
from ...traces.whole_file import replacing
from ..screen import Column, table, verdict
from .catalogue import WORKLOADS, Workload

if TYPE_CHECKING:
    from ...traces.recording import Recording

# Several ranks need a library that talks; the others left out are like one of these, and longer.
NAMES = (
    "gpt_fp32", "gpt_bf16", "gpt_recompute", "gpt_accumulate", "mixture_of_experts", "lora",
    "diffusion", "convnet", "graph_network", "rlhf", "serve_pages", "serve_graphs",
    "held_out",
)  # fmt: skip
# Written after the formulas of scratch were, and not looked at to mend them.
HELD_OUT = Workload("held_out", "held_out", profile="a100-40g", lines=())
# Options in place of the catalogue's, for programs that run for minutes: fewer requests.
SHORTER = {
    "serve_pages": ("--kv", "pages", "--requests", "12", "--at-once", "32"),
    "serve_graphs": ("--kv", "graphs", "--requests", "12", "--at-once", "48"),
}
KEPT = Path(__file__).with_name("fidelity.json")
PAGE = Path(__file__).parents[2] / "docs" / "recording.md"
BEGIN, END = "<!-- fidelity -->", "<!-- /fidelity -->"
# Frames between an allocation and the kernel that wanted it, innermost first.
PLUMBING = (
    "torch::unwind", "torch::CapturedTraceback", "torch::cuda::", "c10::", "at::detail::",
    "at::native::empty", "at::native::zeros", "at::native::new_", "at::native::clone",
    "at::native::contiguous", "at::native::resize", "at::native::_to_copy", "at::meta::",
    "at::(anonymous", "at::_ops::", "at::empty", "at::zeros", "at::Tensor", "torch::autograd::",
    "std::", "at::native::(anonymous namespace)",
)  # fmt: skip
WINDOW = 64  # how far ahead two lists may part


@dataclass(frozen=True)
class Fidelity:
    """How far fake tensors agree with the stand-in on one program.

    Attributes:
        name: the workload.
        real, fake: allocations of the stand-in and of the fake tensors.
        matched: allocations of equal size found in both.
        in_order: of the fake ones, how many are met in this order among the real ones.
        peak_real, peak_fake: most bytes requested at once.
        missing: (kernel, allocations, bytes) that only the stand-in has, most first.
        invented: allocations that only the fake tensors have.
        scratch: kind -> allocations of the fake ones that are scratch of that kind.
        device: key of the device profile.
        torch: release of both.
    """

    name: str
    real: int
    fake: int
    matched: int
    in_order: int
    peak_real: int
    peak_fake: int
    missing: list[tuple[str, int, int]]
    invented: int
    scratch: dict[str, int] = field(default_factory=dict)
    device: str = ""
    torch: str = ""

    @property
    def share(self) -> float:
        """Share of the stand-in's allocations that the fake tensors have too."""
        return self.matched / max(1, self.real)

    @property
    def peak_error(self) -> float:
        """How much the peak of the fake tensors differs, as a fraction."""
        return self.peak_fake / max(1, self.peak_real) - 1


def compare_fake(name: str, real: Recording, fake: Recording) -> Fidelity:
    """Compare two recordings of one program.

    Args:
        name: for the report.
        real: of the stand-in, with C++ frames in its stacks.
        fake: of the fake tensors.
    """
    (a,), (b,) = real.devices.values(), fake.devices.values()
    at = np.flatnonzero(a.entries["action"] == Action.ALLOC)
    sizes = a.entries["size"][at].tolist()
    guessed = b.entries["size"][b.entries["action"] == Action.ALLOC].tolist()
    both = Counter(sizes) & Counter(guessed)
    in_order, left = align(sizes, guessed)
    missing: Counter[str] = Counter()
    missing_bytes: Counter[str] = Counter()
    for k in left:
        kernel = kernel_of(real, int(a.entries["stack"][at[k]]))
        missing[kernel] += 1
        missing_bytes[kernel] += sizes[k]
    return Fidelity(
        name, len(sizes), len(guessed), sum(both.values()), in_order, peak(real), peak(fake),
        [(kernel, n, missing_bytes[kernel]) for kernel, n in missing.most_common()],
        len(guessed) - sum(both.values()),
    )  # fmt: skip


def align(real: list[int], fake: list[int]) -> tuple[int, list[int]]:
    """Walk along both lists, and where they part, to where they soonest meet again.

    Returns:
        How many elements were met in both, and the indices of the real ones that were passed over.
    """
    i, j, met, left = 0, 0, 0, []
    while i < len(real) and j < len(fake):
        if real[i] == fake[j]:
            i, j, met = i + 1, j + 1, met + 1
            continue
        ahead = real[i : i + WINDOW], fake[j : j + WINDOW]
        skip = ahead[0].index(fake[j]) if fake[j] in ahead[0] else WINDOW
        drop = ahead[1].index(real[i]) if real[i] in ahead[1] else WINDOW
        if drop < skip:
            j += drop
        else:
            step = min(skip, len(real) - i) if skip < WINDOW else 1
            left += range(i, i + step)
            i += step
            if skip == WINDOW:
                j += 1
    return met, left + list(range(i, len(real)))


def kernel_of(recording: Recording, stack: int) -> str:
    """Return the function that wanted an allocation: the first frame that is no plumbing."""
    for _, _, name in recording.stacks[stack]:
        if not name.startswith(PLUMBING):
            return name.removeprefix("void ").removeprefix("auto ").split("<")[0].split("(")[0]
    return "unknown"


def peak(recording: Recording) -> int:
    """Return the most bytes requested at once."""
    (device,) = recording.devices.values()
    action, size = device.entries["action"], device.entries["size"]
    change = np.where(action == Action.ALLOC, size, 0)
    change = change - np.where(action == Action.FREE_COMPLETED, size, 0)
    return int(np.cumsum(change).max(initial=0))


def measure(workload: Workload, release: str) -> Fidelity:
    """Record a workload both ways and compare."""
    options = SHORTER.get(workload.name, workload.options)
    command = (sys.executable, "-m", f"{__package__}.{workload.program}", *options)
    return measure_command(workload.name, command, workload.profile, release)


def measure_command(name: str, command: tuple[str, ...], profile: str, release: str) -> Fidelity:
    """Record a program both ways, on one device and PyTorch of one release, and compare.

    Raises:
        TightfitError: it could not be recorded, or failed.
    """
    from ..recording.command import record_program

    with tempfile.TemporaryDirectory(prefix="tightfit-fidelity-") as scratch:
        folder = Path(scratch)
        ways: dict[str, dict[str, Any]] = {
            "real.npz": {"stand_in": profile, "torch": release, "conf": "", "stacks": "all"},
            "fake.npz": {"fake": profile},
        }
        for file, way in ways.items():
            _, status = record_program(command, folder / file, quiet=True, **way)
            if status:
                raise VerificationError(f"{name}: the program ended with exit code {status}")
        fake = load(folder / "fake.npz")
        found = compare_fake(name, load(folder / "real.npz"), fake)
        scratch = {kind: len(rows) for kind, rows in fake.extra["recorded"]["scratch"].items()}
        return replace(found, scratch=scratch, device=profile, torch=release)


def kept() -> list[Fidelity]:
    """Return what was measured, in the order of the catalogue."""
    told = {row["name"]: row for row in json.loads(KEPT.read_text(encoding="utf-8"))}
    rows = [told[name] for name in NAMES if name in told]
    return [
        Fidelity(**{**row, "missing": [tuple(lack) for lack in row["missing"]]}) for row in rows
    ]


def keep(found: list[Fidelity]) -> None:
    """Keep measurements beside those of other programs, and put all into the page."""
    rows = {f.name: f for f in kept()} if KEPT.is_file() else {}
    rows |= {f.name: f for f in found}
    text = json.dumps([asdict(rows[name]) for name in NAMES if name in rows], indent=1)
    with replacing(KEPT) as file:
        file.write(text.encode() + b"\n")
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    with replacing(PAGE) as file:
        file.write(f"{before}{BEGIN}\n{markdown(kept())}{END}{after}".encode())


def markdown(rows: list[Fidelity]) -> str:
    """Return the tables of the page."""
    known = [f for f in rows if f.name != HELD_OUT.name]
    whole = sum(f.matched == f.real == f.fake == f.in_order for f in known)
    near = sum(abs(f.peak_error) <= 0.01 for f in rows)
    lines = [
        f"torch {rows[0].torch}. Of the {len(known)} programs of the corpus {whole} ask for the "
        "same allocations in the same order. They are also those with which the formulas of "
        f"scratch were found; `{HELD_OUT.name}` was written afterwards, of other layers, and "
        f"nothing but a call that failed was mended for it. The peaks of {near} of {len(rows)} are "
        "within 1 %.",
        "",
        "| program | device | stand-in | fake | matched | in order | only fake | peak MiB | "
        "differs by | scratch |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {f.name} | {f.device} | {f.real:,} | {f.fake:,} | {f.share:.2%} | {f.in_order:,} | "
        f"{f.invented:,} | {f.peak_real / MiB:,.1f} | {f.peak_error:+.3%} | "
        f"{sum(f.scratch.values()):,} |"
        for f in rows
    ]
    kinds: Counter[str] = Counter()
    users: Counter[str] = Counter()
    for f in rows:
        kinds.update(f.scratch)
        users.update(f.scratch.keys())
    lines += ["", "| scratch | allocations | in programs |", "|---|---:|---:|"]
    lines += [f"| {kind} | {n:,} | {users[kind]} |" for kind, n in kinds.most_common()]
    missing: Counter[str] = Counter()
    for f in rows:
        for kernel, n, _ in f.missing:
            missing[kernel] += n
    lacks = ", ".join(f"`{kernel}` {n:,}" for kernel, n in missing.most_common(12)) or "nothing"
    short = [f"{f.name} with {' '.join(SHORTER[f.name])}" for f in rows if f.name in SHORTER]
    if short:
        lines += ["", f"Shorter than in the corpus: {'; '.join(short)}."]
    return "\n".join([*lines, "", f"Only the stand-in has: {lacks}.", ""])


def main(names: list[str]) -> None:
    """Measure, print what is missing by name, and keep it."""
    from importlib.metadata import version

    unknown = [name for name in names if name not in NAMES]
    if unknown:
        text = f"found no workload {unknown[0]!r}, expected one of {', '.join(NAMES)}"
        raise SystemExit(text + did_you_mean(unknown[0], NAMES))
    release = version("torch").split("+")[0]
    for workload in (*WORKLOADS, HELD_OUT):
        if workload.name not in (names or NAMES):
            continue
        found = measure(workload, release)
        keep([found])
        verdict(
            f"{found.name}: {found.real:,} allocations on the stand-in, {found.share:.2%} of them "
            f"with fake tensors, {found.invented:,} more; the peak differs by "
            f"{found.peak_error:+.3%}"
        )
        if found.missing:
            table(
                "what only the stand-in has",
                ["asked for by", "allocations", Column("all together", "bytes")],
                [list(row) for row in found.missing[:20]],
            )


if __name__ == "__main__":
    main(sys.argv[1:])

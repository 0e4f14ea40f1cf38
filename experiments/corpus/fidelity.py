"""Hold recordings with fake tensors against the stand-in's, allocation by allocation.

python -m tightfit.experiments.corpus.fidelity [NAME...]

Needs a PyTorch without CUDA to run in, and its CUDA build of the same release for the stand-in.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...traces.event import Action
from ...traces.load import load
from ..screen import Column, table, verdict
from .catalogue import WORKLOADS, Workload

if TYPE_CHECKING:
    from ...traces.recording import Recording

# One process each, no CUDA graphs, and no fused GRU, which has no kernel for fake tensors.
NAMES = (
    "gpt_fp32", "gpt_bf16", "gpt_recompute", "lora", "mixture_of_experts", "diffusion", "convnet",
    "rlhf",
)  # fmt: skip
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
    from ..recording.command import record_program

    command = (sys.executable, "-m", f"{__package__}.{workload.program}", *workload.options)
    with tempfile.TemporaryDirectory(prefix="tightfit-fidelity-") as scratch:
        folder = Path(scratch)
        record_program(
            command, folder / "real.npz", workload.profile, release, "", stacks="all", quiet=True
        )
        record_program(command, folder / "fake.npz", fake=workload.profile, quiet=True)
        return compare_fake(workload.name, load(folder / "real.npz"), load(folder / "fake.npz"))


def main(names: list[str]) -> None:
    """Print the comparison as a table, and what is missing by name."""
    from importlib.metadata import version

    release = version("torch").split("+")[0]
    chosen = [w for w in WORKLOADS if w.name in (names or NAMES)]
    found = [measure(w, release) for w in chosen]
    verdict(f"fake tensors against the stand-in, torch {release}, allocation by allocation")
    table(
        "",
        ["program", "stand-in", "fake", "in order", Column("matched", "%"), "only fake",
         Column("peak", "bytes"), Column("differs by", "%")],
        [
            [f.name, f.real, f.fake, f.in_order, f.share, f.invented, f.peak_real, f.peak_error]
            for f in found
        ],
    )  # fmt: skip
    missing: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for f in found:
        for kernel, n, size in f.missing:
            missing[kernel] += n
            most[kernel] += size
    table(
        "what only the stand-in has",
        ["asked for by", "allocations", Column("all together", "bytes")],
        [[kernel, n, most[kernel]] for kernel, n in missing.most_common(20)],
    )


if __name__ == "__main__":
    main(sys.argv[1:])

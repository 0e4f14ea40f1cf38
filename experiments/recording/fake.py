"""Recording with fake tensors: the shim that a PyTorch without CUDA needs, and what comes out."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ...traces.errors import TraceError, VerificationError
from ..oracle.build import compile_with, digest_of, find_compiler
from ..oracle.wheels import cache
from .installed import installed_torch

if TYPE_CHECKING:
    from ...traces.provenance import Origin
    from ...traces.recording import Recording, Stacks

SHIM = Path(__file__).parent / "fake_shim.cpp"
WITH_SCRATCH = "what PyTorch asks for as tensors, and scratch of kernels that have a formula"
WITHOUT = "what PyTorch asks for as tensors; scratch that kernels take was left out"
LACKS = (
    "recorded with fake tensors: {}. Not in it: work space that cuDNN and other libraries ask for, "
    "scratch of kernels without a formula, memory that waits for another stream, calls of "
    "empty_cache, and the allocator's answers, so there is nothing to check a replay against"
)


def build_shim(python: str) -> Path:
    """Return the library that lets an interpreter's PyTorch pretend to have CUDA, made once.

    Raises:
        VerificationError: it has no PyTorch, or one with CUDA; or there is no compiler.
    """
    found = installed_torch(python)
    if found is None:
        raise VerificationError(
            f"record: {python} has no PyTorch, which --fake needs; --stand-in fetches one"
        )
    if found.has_cuda:
        raise VerificationError(
            f"record: found torch {found.version}, a CUDA build; --fake is for builds without "
            "CUDA, use --stand-in h100-80g"
        )
    root = found.root
    target = cache() / f"fake-shim-{found.version}-{digest_of(SHIM)}.so"
    if not target.is_file():
        compiler = find_compiler()
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            made = Path(scratch) / target.name
            compile_with(
                compiler, "-std=c++20", "-O1", "-w", "-fPIC", "-shared", f"-I{root}/include",
                f"-I{root}/include/torch/csrc/api/include", str(SHIM), f"-L{root}/lib", "-lc10",
                "-ltorch_cpu", "-o", str(made),
            )  # fmt: skip
            made.rename(target)
    return target


def read_rows(told: Path, origin: Origin) -> Recording:
    """Read PID.rows beside PID.json, which `fake_capture` wrote.

    Raises:
        TraceError: nothing was allocated.
    """
    import numpy as np

    from ...traces.foreign_rows import ALLOC, FREE, recording
    from ...traces.made_up import made_up_addresses
    from ...traces.provenance import note_reads
    from ...traces.recording import Finding

    facts = json.loads(told.read_text(encoding="utf-8"))
    rows = np.fromfile(told.with_suffix(".rows"), np.int64).reshape(-1, 6)
    if not len(rows):
        raise TraceError(f"{origin.script}: no tensor was ever on CUDA")
    is_alloc = rows[:, 0] > 0
    number = np.abs(rows[:, 0]) - 1
    allocs = rows[is_alloc]
    size = allocs[number, 1]
    columns = {
        "kind": np.where(is_alloc, ALLOC, FREE).astype(np.uint8),
        "device": np.zeros(len(rows), np.int16),
        "addr": made_up_addresses(number, is_alloc, size),
        "size": size,
        "stream": allocs[number, 2],
        "time": np.zeros(len(rows), np.int64),
        "stack": rows[:, 4],
        "pool": 1 + allocs[number, 5],
    }
    scratch = {
        kind: np.flatnonzero(allocs[:, 3] == k).tolist()
        for k, kind in enumerate(facts["kinds"]) if k
    }  # fmt: skip
    recorded = {
        "mode": origin.mode,
        "profile": origin.profile,
        "script": origin.script,
        "script_sha256": origin.script_sha256,
        "torch": facts["torch"],
        "reason": facts["reason"],
        # Kind -> allocations, counted from 0, that are scratch we add and no tensor of the
        # program's.
        "scratch": scratch,
    }
    findings = [
        Finding("scratch", len(found), f"added for {origin.profile}: {kind}, allocations: "
                f"{len(found):,}")
        for kind, found in scratch.items()
    ]  # fmt: skip
    findings += note_reads(recorded, facts["reads"])
    lacks = LACKS.format(WITH_SCRATCH if facts["with_scratch"] else WITHOUT)
    made = recording(columns, told.stem, {"recorded": recorded}, findings, lacks)
    made.stacks = _stacks(facts["stacks"])
    made.pools += [(0, pool) for pool in range(int(allocs[:, 5].max()) + 1)]
    return made


def _stacks(told: list[list[list]]) -> Stacks:
    """Number the strings and frames of stacks."""
    import numpy as np

    from ...traces.recording import Stacks

    strings: dict[str, int] = {}
    frames: dict[tuple[int, int, int], int] = {}
    ids: list[int] = []
    offsets = [0]
    for stack in told:
        for file, line, name in stack:
            text = [strings.setdefault(s, len(strings)) for s in (file, name)]
            ids.append(frames.setdefault((text[0], line, text[1]), len(frames)))
        offsets.append(len(ids))
    return Stacks(
        list(strings), np.array(list(frames), np.int64).reshape(-1, 3),
        np.array(offsets, np.int64), np.array(ids, np.uint32),
    )  # fmt: skip

"""Recording with fake tensors: the shim that a PyTorch without CUDA needs, and what comes out."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ...traces.errors import TraceError, VerificationError
from ..oracle.build import compile_with, digest_of, find_compiler
from ..oracle.wheels import cache

if TYPE_CHECKING:
    from ...traces.provenance import Origin
    from ...traces.recording import Recording

SHIM = Path(__file__).parent / "fake_shim.cpp"
SECONDS = 60
_QUESTION = """
import importlib.util as u, os
spec = u.find_spec("torch")
root = os.path.dirname(spec.origin) if spec else ""
print(root)
print(os.path.exists(os.path.join(root, "lib", "libc10_cuda.so")))
print(open(os.path.join(root, "version.py")).read() if root else "")
"""
LACKS = (
    "recorded with fake tensors: what PyTorch asks for as tensors, and cuBLAS's work space. Not in "
    "it: scratch that kernels take while they run (partial sums of reductions, work space of "
    "cuBLASLt and cuDNN, accumulators of attention's backward pass, sorting), what other streams "
    "and CUDA graphs would change, and the allocator's answers, so there is nothing to check a "
    "replay against"
)


def build_shim(python: str) -> Path:
    """Return the library that lets an interpreter's PyTorch pretend to have CUDA, made once.

    Raises:
        VerificationError: it has no PyTorch, or one with CUDA; or there is no compiler.
    """
    words = [python, "-c", _QUESTION]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise VerificationError(f"record: {python} does not run as a Python: {error}") from error
    root, has_cuda, *rest = done.stdout.splitlines()
    found = re.search(r"__version__ = '([^']+)'", "\n".join(rest))
    if not root or found is None:
        raise VerificationError(
            f"record: {python} has no PyTorch, which --fake needs; --stand-in fetches one"
        )
    if has_cuda == "True":
        raise VerificationError(
            f"record: found torch {found[1]}, a CUDA build; --fake is for builds without CUDA, "
            "use --stand-in h100-80g"
        )
    target = cache() / f"fake-shim-{found[1]}-{digest_of(SHIM)}.so"
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
    from ...traces.recording import Finding

    facts = json.loads(told.read_text(encoding="utf-8"))
    rows = np.fromfile(told.with_suffix(".rows"), np.int64).reshape(-1, 3)
    if not len(rows):
        raise TraceError(f"{origin.script}: no tensor was ever on CUDA")
    is_alloc = rows[:, 0] > 0
    number = np.abs(rows[:, 0]) - 1
    size = rows[is_alloc, 1][number]
    columns = {
        "kind": np.where(is_alloc, ALLOC, FREE).astype(np.uint8),
        "device": np.zeros(len(rows), np.int16),
        "addr": made_up_addresses(number, is_alloc, size),
        "size": size,
        "stream": np.zeros(len(rows), np.int64),
        "time": np.zeros(len(rows), np.int64),
    }
    workspace = int((rows[is_alloc, 2] > 0).sum())
    recorded = {
        "mode": origin.mode,
        "profile": origin.profile,
        "script": origin.script,
        "script_sha256": origin.script_sha256,
        "torch": facts["torch"],
        "reason": facts["reason"],
        # Allocations, counted from 0, that are scratch we add and no tensor of the program's.
        "workspaces": np.flatnonzero(rows[is_alloc, 2] > 0).tolist(),
    }
    findings = [
        Finding("workspace", workspace, f"cuBLAS's work space for {origin.profile} was added, "
                f"allocations: {workspace}")
    ]  # fmt: skip
    return recording(columns, told.stem, {"recorded": recorded}, findings, LACKS)

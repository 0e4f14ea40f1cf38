"""A whole CUDA build of PyTorch: the one that is installed, or one unpacked in the cache."""

from __future__ import annotations

import json
import mmap
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ...traces.errors import VerificationError
from ..oracle.wheels import LIBRARIES, Wheel, cache, check_asked, look_at, move_folder, pip_download
from ..screen import warn

NEWEST = "2.15.0"
# What `import torch` needs beside the wheel; none of it knows of a GPU.
NEEDS = (
    "filelock", "typing-extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe",
    "fsspec", "numpy",
)  # fmt: skip
MODULES = {"typing-extensions": "typing_extensions"}  # where the module is named otherwise
SECONDS = 60
# What an interpreter says of itself: its tag, its torch's folder, the needs it lacks.
_QUESTION = """
import importlib.util as u, json, sys
spec = u.find_spec("torch")
print(json.dumps({
    "tag": "cp%d%d" % sys.version_info[:2],
    "torch": spec.origin if spec else None,
    "lacks": [name for name in sys.argv[1:] if u.find_spec(name) is None],
}))
"""


@dataclass(frozen=True)
class Build:
    """A CUDA build of PyTorch and how an interpreter finds it.

    Attributes:
        wheel: the release; `root` holds the folder torch.
        path: folders to put before the interpreter's own; none for an installed build.
        cudnn, nccl: versions it was built with, as the libraries give them; 0 = unknown.
        codes: compute capabilities it has kernels for, e.g. 75, 80, 86; ascending.
    """

    wheel: Wheel
    path: tuple[Path, ...]
    cudnn: int
    nccl: int
    codes: tuple[int, ...]


def find_build(version: str | None, python: str = sys.executable, download: bool = True) -> Build:
    """Return a CUDA build of PyTorch for an interpreter; fetch one if need be.

    Args:
        version: full version; None = the installed one if it is a CUDA build, else the newest.
        python: the interpreter that is to import it.
        download: fetch the wheel with pip if it is not at hand.

    Raises:
        ConfigError: not a full version.
        VerificationError: it is not at hand and cannot be fetched, or the interpreter does not run.
    """
    check_asked(version or NEWEST)
    told = _ask(python)
    if told["torch"] is not None:
        site = Path(told["torch"]).parents[1]
        if (site / LIBRARIES[1]).is_file():
            found = _metadata(site)
            own = re.search(r"^Version: ([\d.]+\d)", found, re.MULTILINE)
            if own is not None and version in (None, own[1]):
                return _build(look_at(own[1], site), (), found)
    version = version or NEWEST
    root = cache() / f"torch-{version}-{told['tag']}-whole"
    if not root.is_dir():
        _fetch(version, root, download)
    path = [root]
    lacks = [need for need in NEEDS if MODULES.get(need, need) in told["lacks"]]
    if lacks:
        path.append(_fetch_needs(lacks, told["tag"], download))
    return _build(look_at(version, root), tuple(path), _metadata(root))


def _ask(python: str) -> dict:
    """Ask an interpreter what it has.

    Raises:
        VerificationError: it does not answer.
    """
    words = [python, "-c", _QUESTION, *(MODULES.get(need, need) for need in NEEDS)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=True)
        return json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise VerificationError(f"record: {python} does not run as a Python: {error}") from error


def _fetch(version: str, root: Path, download: bool) -> None:
    """Unpack a whole wheel into the cache."""
    if not download:
        raise VerificationError(
            f"record: the whole CUDA build of torch {version} is not in the cache ({root.name})"
        )
    warn(f"fetching the CUDA wheel of torch {version} (0.5 to 0.9 GB; unpacked 1.1 GB are kept)")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        pip_download([f"torch==={version}"], Path(scratch))
        (path,) = Path(scratch).glob("*.whl")
        unpacked = Path(scratch) / "unpacked"
        _unpack(path, unpacked)
        move_folder(unpacked, root)


def _fetch_needs(lacks: list[str], tag: str, download: bool) -> Path:
    """Return a folder with the modules that an interpreter lacks."""
    root = cache() / f"torch-needs-{tag}"
    if (root / "complete").is_file():
        return root
    if not download:
        raise VerificationError(
            f"record: torch needs {', '.join(lacks)}, which this interpreter lacks: "
            f"pip install {' '.join(lacks)}"
        )
    with tempfile.TemporaryDirectory(dir=root.parent) as scratch:
        pip_download(list(NEEDS[:-1]), Path(scratch))
        unpacked = Path(scratch) / "unpacked"
        for path in sorted(Path(scratch).glob("*.whl")):
            _unpack(path, unpacked)
        (unpacked / "complete").write_text("")
        move_folder(unpacked, root)
    return root


def _unpack(wheel: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as file:
            file.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise VerificationError(f"record: {wheel.name} cannot be unpacked: {error}") from error


def _metadata(root: Path) -> str:
    """Return what a wheel says of itself."""
    for path in root.glob("torch-*.dist-info/METADATA"):
        return path.read_text(encoding="utf-8")
    return ""


def _build(wheel: Wheel, path: tuple[Path, ...], metadata: str) -> Build:
    """Read the versions of the libraries that PyTorch insists on."""
    cudnn = re.search(r"nvidia-cudnn-cu\d+==(\d+)\.(\d+)\.(\d+)", metadata)
    nccl = re.search(r"nvidia-nccl-cu\d+==(\d+)\.(\d+)\.(\d+)", metadata)
    return Build(
        wheel,
        path,
        # cuDNN counts a major version as 10000 from 9 on, as 1000 before.
        _number(cudnn, 10_000 if cudnn and int(cudnn[1]) >= 9 else 1000),
        _number(nccl, 10_000),
        _codes(wheel.root / "torch/lib"),
    )


def _codes(folder: Path) -> tuple[int, ...]:
    """Return what `torch.cuda.get_arch_list` would: it stands as a text in one of two libraries."""
    for name in ("libtorch_python.so", "libtorch_cuda.so"):
        with (
            open(folder / name, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            found = re.search(rb"sm_\d+[af]?(?: (?:sm|compute)_\d+[af]?)+\0", data)
            if found is not None:
                return tuple(sorted({int(n) for n in re.findall(rb"sm_(\d+)", found[0])}))
    return ()


def _number(found: re.Match[str] | None, major: int) -> int:
    return int(found[1]) * major + int(found[2]) * 100 + int(found[3]) if found else 0

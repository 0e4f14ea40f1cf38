"""Compile the stand-in for CUDA and the driver for one release, once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ...traces.errors import VerificationError
from .wheels import LIBRARIES, Wheel, cache, find_cuda_headers

SOURCES = Path(__file__).parent / "standin"
STANDIN = (
    "books.cpp",
    "memory.cpp",
    "virtual_memory.cpp",
    "streams.cpp",
    "device.cpp",
    "launch.cpp",
)
PROGRAMS = ("driver.cpp", "settings.cpp")
SHELLS = ("libcuda.so.1", "libnvidia-ml.so.1")
COMPILE_SECONDS = 600


def build_driver(wheel: Wheel) -> Path:
    """Return the driver program for a release; see `build_program`."""
    return build_program(wheel, "driver.cpp")


def build_program(wheel: Wheel, source: str) -> Path:
    """Return a program linked to a release, compiled if it is not in the cache.

    Args:
        wheel: the release.
        source: one of PROGRAMS.

    Raises:
        VerificationError: there is no g++, or it fails.
    """
    compiler = find_compiler()
    standin = build_standin(compiler, wheel.cuda)
    libraries = [str(wheel.root / name) for name in LIBRARIES]
    digest = digest_of(SOURCES / source, SOURCES / "control.h", *map(Path, libraries))
    target = cache() / (
        f"{source.removesuffix('.cpp')}-{wheel.version}-{digest}-{standin.name.rsplit('-', 1)[1]}"
    )
    if target.is_file():
        return target
    needed = [str(standin / name) for name in (runtime_name(wheel.cuda), *SHELLS)]
    rpath = f"{standin}:{(wheel.root / LIBRARIES[0]).parent}"
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        made = Path(scratch) / target.name
        compile_with(
            compiler, "-std=c++20", "-O1", f"-D_GLIBCXX_USE_CXX11_ABI={int(not wheel.old_strings)}",
            f"-I{SOURCES}", "-isystem", str(wheel.root / "torch/include"), *_headers(wheel.cuda),
            str(SOURCES / source),
            # All of them, and by DT_RPATH: the wheel's libraries dlopen the shells by name.
            "-Wl,--no-as-needed", *needed, *reversed(libraries),
            "-Wl,--disable-new-dtags", f"-Wl,-rpath,{rpath}", "-o", str(made),
        )  # fmt: skip
        made.rename(target)
    return target


def find_compiler() -> str:
    """Return the path of the C++ compiler.

    Raises:
        VerificationError: there is none.
    """
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise VerificationError(
            "oracle: no g++ found; the stand-in for CUDA has to be compiled (a Debian "
            "package of that name, or set CXX)"
        )
    return compiler


def build_standin(compiler: str, cuda: int) -> Path:
    """Return the folder that holds libcudart and the shells for a major version of CUDA."""
    digest = digest_of(*standin_sources())
    target = cache() / f"standin-{cuda}-{digest}"
    if target.is_dir():
        return target
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        folder = Path(scratch) / "made"
        folder.mkdir()
        compile_standin(folder, compiler, cuda)
        put_in_place(folder, target)
    return target


def compile_standin(folder: Path, compiler: str, cuda: int, *more: Path) -> None:
    """Compile libcudart and the shells into a folder.

    Args:
        folder: where to.
        compiler: path of the compiler.
        cuda: major version.
        more: object files with further functions of the runtime.
    """
    runtime = folder / runtime_name(cuda)
    with tempfile.NamedTemporaryFile("w", suffix=".map") as versions:
        text = (SOURCES / "libcudart.map.in").read_text()
        versions.write(text.replace("@CUDA@", str(cuda)))
        versions.flush()
        compile_with(
            compiler, "-std=c++17", "-O2", "-fPIC", "-shared", *_headers(cuda),
            *(str(SOURCES / name) for name in STANDIN), *map(str, more),
            f"-Wl,-soname,{runtime.name}", f"-Wl,--version-script={versions.name}", "-lpthread",
            "-o", str(runtime),
        )  # fmt: skip
    for name in SHELLS:
        compile_with(
            compiler, "-x", "c", "-fPIC", "-shared", str(SOURCES / "shell.c"), "-x", "none",
            f"-Wl,-soname,{name}", "-Wl,--no-as-needed", str(runtime), "-Wl,-rpath,$ORIGIN",
            "-o", str(folder / name),
        )  # fmt: skip


def standin_sources() -> list[Path]:
    """Return every file that the stand-in is made from."""
    return [path for path in SOURCES.iterdir() if path.name not in PROGRAMS]


def put_in_place(folder: Path, target: Path) -> None:
    """Rename a finished folder; somebody else may have been faster."""
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def runtime_name(cuda: int) -> str:
    """Return the file name of the CUDA runtime of a major version."""
    return f"libcudart.so.{cuda}"


def _headers(cuda: int) -> list[str]:
    return [word for folder in find_cuda_headers(cuda) for word in ("-isystem", str(folder))]


def digest_of(*paths: Path) -> str:
    """Return a name for the content of files."""
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:12]


def compile_with(*words: str) -> None:
    """Run the compiler.

    Raises:
        VerificationError: it fails; with the first thing it says.
    """
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMPILE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VerificationError(f"oracle: {words[0]} did not run: {error}") from error
    if done.returncode:
        errors = [
            line for line in done.stderr.splitlines() if "error" in line or "undefined" in line
        ]
        first = (errors or done.stderr.splitlines() or ["no reason given"])[0]
        raise VerificationError(f"oracle: {Path(words[0]).name} failed: {first.strip()}")

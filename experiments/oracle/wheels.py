"""PyTorch's allocator as published: two libraries and their headers out of a release's CUDA wheel.

A wheel has half a gigabyte; what is needed of it has five megabytes and is kept in the user's
cache folder. CUDA's own headers come from a toolkit if there is one, else from two small wheels.
Nothing of these files is part of this repository.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ...traces.errors import ConfigError, VerificationError
from ..screen import warn

# The last patch release of every minor that has rules (sim/release.py, KNOWN).
RELEASES = (
    "2.4.1", "2.5.1", "2.6.0", "2.7.1", "2.8.0", "2.9.1", "2.10.0", "2.11.0", "2.12.1", "2.13.0",
    "2.14.1", "2.15.0",
)  # fmt: skip
WHEELS_VARIABLE = "TIGHTFIT_WHEELS"  # folder of wheels, or of unpacked ones
LIBRARIES = ("torch/lib/libc10.so", "torch/lib/libc10_cuda.so")
HEADERS = ("torch/include/c10/", "torch/include/torch/headeronly/")
# CUDA's headers by major version; the small crt wheel exists from 13 on and serves 12 as well.
CUDA_HEADERS = {
    12: ("nvidia-cuda-runtime-cu12==12.8.90", "nvidia-cuda-crt==13.0.88"),
    13: ("nvidia-cuda-runtime==13.0.96", "nvidia-cuda-crt==13.0.88"),
}
PIP_SECONDS = 1800


@dataclass(frozen=True)
class Wheel:
    """What is needed of one release.

    Attributes:
        version: e.g. "2.15.0".
        root: folder that holds torch/lib and torch/include.
        cuda: major version of the CUDA runtime it was built for.
        old_strings: whether it was built with the std::string of before C++11.
    """

    version: str
    root: Path
    cuda: int
    old_strings: bool


def cache() -> Path:
    """Return the folder for libraries, headers and what is built from them."""
    user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user) / "tightfit-oracle"


def find_wheel(version: str, folder: Path | None = None, download: bool = True) -> Wheel:
    """Return a release's libraries, unpacked; fetch them if need be.

    Args:
        version: full version of the release.
        folder: where to look first: wheels `torch-<version>-*.whl`, or folders `torch-<version>`
            that hold an unpacked one; by default what the variable TIGHTFIT_WHEELS says.
        download: fetch the wheel with pip if it is not at hand.

    Raises:
        ConfigError: not a full version.
        VerificationError: it is not at hand and cannot be fetched, or is damaged.
    """
    check_asked(version)
    if folder is None and os.environ.get(WHEELS_VARIABLE):
        folder = Path(os.environ[WHEELS_VARIABLE])
    unpacked = [base / f"torch-{version}" for base in (folder, cache()) if base is not None]
    # A build that is there as a whole, for recording, has the two libraries in it.
    for root in (*unpacked, *sorted(cache().glob(f"torch-{version}-*-whole"))):
        if (root / LIBRARIES[1]).is_file():
            return look_at(version, root)
    for path in sorted(folder.glob(f"torch-{version}-*.whl")) if folder is not None else ():
        return look_at(version, _unpack_torch(version, path))
    if not download:
        raise VerificationError(
            f"oracle: the libraries of torch {version} are not at hand (looked in "
            f"{folder or '$' + WHEELS_VARIABLE} and the cache)"
        )
    warn(f"fetching the CUDA wheel of torch {version} (0.5 to 0.9 GB, of which 5 MB are kept)")
    with tempfile.TemporaryDirectory(prefix="tightfit-") as scratch:
        # "===" asks for the plain version: "==" would prefer one with a suffix such as +cpu.
        pip_download([f"torch==={version}"], Path(scratch))
        (path,) = Path(scratch).glob("*.whl")
        return look_at(version, _unpack_torch(version, path))


def check_asked(version: str) -> None:
    """Refuse a release that cannot be fetched or cannot run here.

    Raises:
        ConfigError: not a full version.
        VerificationError: not a machine that the wheels are made for.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        near = [r for r in RELEASES if r.startswith(version.rstrip(".") + ".")]
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ConfigError(
            f"torch release: found '{version}', expected a full version such as 2.15.0{hint}"
        )
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise VerificationError(
            f"oracle: found {sys.platform} on {platform.machine()}, expected Linux on x86_64: "
            "PyTorch's compiled allocator runs nowhere else without its GPU"
        )


def find_cuda_headers(major: int) -> list[Path]:
    """Return folders with cuda.h and cuda_runtime_api.h of a major version, fetching if need be.

    Raises:
        VerificationError: there are none and they cannot be fetched.
    """
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    for toolkit in filter(None, toolkits):
        include = Path(toolkit) / "include"
        if _cuda_major(include) == major:
            return [include]
    target = cache() / f"cuda-{major}"
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            pip_download(list(CUDA_HEADERS[major]), Path(scratch))
            for path in Path(scratch).glob("*.whl"):
                with zipfile.ZipFile(path) as file:
                    names = [n for n in file.namelist() if "/include/" in n and not n.endswith("/")]
                    file.extractall(Path(scratch) / "unpacked", names)
            move_folder(Path(scratch) / "unpacked", target)
    folders = sorted(target.glob("nvidia/*/include"), key=lambda p: _cuda_major(p) != major)
    if not folders or _cuda_major(folders[0]) != major:
        raise VerificationError(f"oracle: no header of CUDA {major} in {target}; delete it")
    return folders


def _cuda_major(include: Path) -> int:
    """Return the major version of the CUDA headers in a folder; 0 = none there."""
    try:
        text = (include / "cuda_runtime_api.h").read_text(errors="replace")
    except OSError:
        return 0
    found = re.search(r"#define CUDART_VERSION +(\d+)", text)
    return int(found[1]) // 1000 if found else 0


def look_at(version: str, root: Path) -> Wheel:
    """Find out how a release was built.

    Raises:
        VerificationError: the files are not what they should be.
    """
    try:
        own, cuda = ((root / name).read_bytes() for name in LIBRARIES)
    except OSError as error:
        raise VerificationError(f"oracle: torch {version}: {error}") from error
    soname = re.search(rb"\0libcudart\.so\.(\d+)\0", cuda)
    if not own.startswith(b"\x7fELF") or not cuda.startswith(b"\x7fELF") or soname is None:
        raise VerificationError(
            f"oracle: torch {version}: {LIBRARIES[1]} does not ask for libcudart, expected the "
            "library of a CUDA wheel"
        )
    # The mangled name of c10::Error::add_context(std::string): "Ss" is the old string.
    return Wheel(version, root, int(soname[1]), b"_ZN3c105Error11add_contextESs" in own)


def _unpack_torch(version: str, path: Path) -> Path:
    """Unpack the needed part of a wheel into the cache, checked against the wheel's own record."""
    target = cache() / f"torch-{version}"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            zipfile.ZipFile(path) as file,
            tempfile.TemporaryDirectory(dir=target.parent) as scratch,
        ):
            names = [
                n
                for n in file.namelist()
                if n in LIBRARIES or (n.startswith(HEADERS) and not n.endswith("/"))
            ]
            missing = set(LIBRARIES) - set(names)
            if missing:
                raise VerificationError(
                    f"oracle: {path.name} has no {min(missing)}, expected a CUDA wheel"
                )
            (record,) = [n for n in file.namelist() if n.endswith(".dist-info/RECORD")]
            sums = dict(line.rsplit(",", 2)[:2] for line in file.read(record).decode().splitlines())
            for name in names:
                digest = hashlib.sha256(file.read(name)).digest()
                text = "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
                if sums.get(name) != text:
                    raise VerificationError(f"oracle: {path.name}: {name} is damaged")
            unpacked = Path(scratch) / "unpacked"
            file.extractall(unpacked, names)
            move_folder(unpacked, target)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise VerificationError(f"oracle: {path.name} cannot be unpacked: {error}") from error
    return target


def move_folder(source: Path, target: Path) -> None:
    """Put a folder in its place at once; somebody else may have been faster."""
    try:
        source.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(source)


def pip_download(requirements: list[str], folder: Path) -> None:
    """Download wheels.

    Raises:
        VerificationError: pip is missing, or does not get them.
    """
    words = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--dest", str(folder),
        *requirements,
    ]  # fmt: skip
    what = " and ".join(requirements)
    # What the user's pip may install is no concern of a file that is taken apart and not installed.
    environment = {**os.environ, "PIP_CONSTRAINT": os.devnull}
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=PIP_SECONDS, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VerificationError(f"oracle: pip could not fetch {what}: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
        reason = (lines or done.stderr.splitlines() or ["no reason given"])[-1].strip()
        raise VerificationError(f"oracle: pip could not fetch {what}: {reason}")

"""The libraries beside CUDA's runtime (cuBLAS, cuDNN, NCCL, ...), made to do nothing.

A CUDA build of PyTorch names every function it needs of them. Those names, read out of the build
itself, become functions that return 0; the few that must answer something are in answers.c.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

from ...traces.errors import VerificationError
from ..oracle.build import (
    SHELLS,
    build_standin,
    compile_standin,
    compile_with,
    digest_of,
    find_compiler,
    put_in_place,
    runtime_name,
    standin_sources,
)
from ..oracle.wheels import cache
from .whole_wheel import Build

ANSWERS = Path(__file__).parent / "answers.c"
# Library, without its version -> the functions it is known by.
PREFIXES = {
    "libcublas": r"cublas(?!Lt)", "libcublasLt": r"cublasLt", "libcudnn": r"cudnn",
    "libcufft": r"cufft", "libcufile": r"cuFile", "libcupti": r"cupti", "libcurand": r"curand",
    "libcusolver": r"cusolver", "libcusparse": r"cusparse(?!Lt)", "libcusparseLt": r"cusparseLt",
    "libnccl": r"nccl", "libnvrtc": r"nvrtc", "libnvshmem_host": r"nvshmem", "libcudss": r"cudss",
    "libnvToolsExt": r"nvtx",
}  # fmt: skip
# The driver's own functions that are linked and not asked for by name at run time.
DRIVER = r"cu(Ctx|Device|Func|Get|Launch|Link|Module|Occ|Pointer|Tensor|Mem|Stream|Event|Graph)"


def build_libraries(build: Build) -> Path:
    """Return a folder with the stand-in and all libraries that a build loads, made once.

    Raises:
        VerificationError: there is no compiler or no readelf, or one fails.
    """
    compiler = find_compiler()
    wheel = build.wheel
    own = ("libtorch", "libc10", "libcaffe2")
    loaded = sorted(p for p in (wheel.root / "torch/lib").glob("*.so") if p.name.startswith(own))
    stamp = "".join(f"{p.name} {p.stat().st_size};" for p in loaded)
    parts = (stamp, build.cudnn, build.nccl, digest_of(*standin_sources(), ANSWERS, Path(__file__)))
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
    target = cache() / f"libraries-{wheel.version}-{digest}"
    if target.is_dir():
        return target
    needed, symbols = _read(loaded)
    plain = build_standin(compiler, wheel.cuda)
    runtime = runtime_name(wheel.cuda)
    known = _exported(plain / runtime)
    macros = [
        f"-DCUDNN_VERSION={build.cudnn or 90000}", f"-DNCCL_VERSION={build.nccl or 22000}",
        f"-DCUDA_MAJOR={wheel.cuda}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        folder, work = Path(scratch) / "made", Path(scratch)
        folder.mkdir()
        missing = sorted(
            name
            for name, (version, _) in symbols.items()
            if name not in known and (version == runtime or re.match(DRIVER, name))
        )
        more = _silent(compiler, work / "runtime.c", missing, {})
        compile_standin(folder, compiler, wheel.cuda, more)
        answers = work / "answers.o"
        compile_with(
            compiler, "-x", "c", "-std=gnu11", "-O1", "-w", "-fPIC", *macros, "-c", str(ANSWERS),
            "-o", str(answers),
        )  # fmt: skip
        by_hand = set(re.findall(r"^[\w ]+\**[ *](\w+)\(", ANSWERS.read_text(), re.MULTILINE))
        for soname in sorted(needed):
            prefix = PREFIXES.get(soname.split(".so")[0])
            if prefix is None or soname in SHELLS:
                continue
            own = {n: s for n, s in symbols.items() if re.match(prefix, n)}
            _library(compiler, work, folder, soname, own, by_hand, runtime)
        put_in_place(folder, target)
    return target


def _library(
    compiler: str,
    work: Path,
    folder: Path,
    soname: str,
    symbols: dict[str, tuple[str | None, bool]],
    by_hand: set[str],
    runtime: str,
) -> None:
    """Compile one library that exports these symbols, in the version they are asked for."""
    silent = {n: is_object for n, (_, is_object) in symbols.items() if n not in by_hand}
    generated = _silent(compiler, work / f"{soname}.c", sorted(silent), silent)
    nodes = defaultdict(list)
    for name, (version, _) in symbols.items():
        nodes[version or ""].append(name)
    versions = work / f"{soname}.map"
    if len(nodes) > 1:  # a name asked for without a version is found in any
        nodes[min(set(nodes) - {""})] += nodes.pop("", [])
    versions.write_text(
        "".join(
            f"{node} {{ global: {'; '.join(sorted(names))}; local: *; }};\n"
            for node, names in sorted(nodes.items())
        )
        or "{ local: *; };\n"  # needed, and nothing of it is used
    )
    compile_with(
        compiler, "-shared", str(generated), str(work / "answers.o"), f"-Wl,-soname,{soname}",
        f"-Wl,--version-script={versions}", "-Wl,--no-as-needed", str(folder / runtime),
        "-Wl,-rpath,$ORIGIN", "-o", str(folder / soname),
    )  # fmt: skip


def _silent(compiler: str, source: Path, names: list[str], is_object: dict[str, bool]) -> Path:
    """Compile functions that return 0, and objects of zeros."""
    source.write_text(
        "".join(
            f"long {name}[64];\n" if is_object.get(name) else f"long {name}() {{ return 0; }}\n"
            for name in names
        )
    )
    target = source.with_suffix(".o")
    compile_with(
        compiler, "-x", "c", "-std=gnu11", "-O1", "-w", "-fno-builtin", "-fPIC", "-c", str(source),
        "-o", str(target),
    )  # fmt: skip
    return target


def _read(libraries: list[Path]) -> tuple[set[str], dict[str, tuple[str | None, bool]]]:
    """Return the libraries that others need, and name -> (version, is an object) of the imports."""
    needed: set[str] = set()
    symbols: dict[str, tuple[str | None, bool]] = {}
    for path in libraries:
        needed |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", _readelf("-d", path)))
        for line in _readelf("--dyn-syms", path).splitlines():
            words = line.split()
            if len(words) >= 8 and words[6] == "UND" and words[4] != "WEAK":
                name, _, version = words[7].partition("@")
                symbols.setdefault(name, (version.lstrip("@") or None, words[3] == "OBJECT"))
    return needed, symbols


def _exported(path: Path) -> set[str]:
    """Return the functions that a library offers."""
    rows = [line.split() for line in _readelf("--dyn-syms", path).splitlines()]
    return {w[7].partition("@")[0] for w in rows if len(w) >= 8 and w[6] not in ("UND", "Ndx")}


def _readelf(what: str, path: Path) -> str:
    tool = shutil.which("readelf")
    if tool is None:
        raise VerificationError("record: no readelf found; it comes with g++ (Debian: binutils)")
    try:
        done = subprocess.run(
            [tool, "-W", what, str(path)], capture_output=True, text=True, check=True, timeout=120
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise VerificationError(f"record: readelf failed on {path.name}: {error}") from error
    return done.stdout

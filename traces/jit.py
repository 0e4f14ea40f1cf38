"""Compiled code: the decorators for it, and where the compiled form is kept.

The only file that imports Numba. Three decorators, from the outside in:

    @kernel   an entry point that Python calls; compiled once per machine, kept on disk
    @helper   a function that kernels call; stays a call
    @inline   a function that kernels call; always becomes part of its caller

With NUMBA_DISABLE_JIT=1 all three leave the plain Python function, so that a debugger sees it.

Compiled kernels are kept below `<user cache folder>/tightfit/<hash>`, where the hash covers the
sources of every floor that holds kernels. Numba itself would only notice edits in the kernel's own
file, not in the functions the kernel calls, and would go on serving old results.
"""

from __future__ import annotations

import gc
import hashlib
import os
import re
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import numba
import numba.core.config
import numba.core.event
from numba.core.compiler_lock import global_compiler_lock

F = TypeVar("F", bound=Callable[..., Any])

# Numba has no usable types of its own: its settings are made at run time.
_config: Any = numba.core.config
_njit: Any = numba.njit
_cfunc: Any = numba.cfunc

JIT: bool = not _config.DISABLE_JIT
KEEP = 4  # folders of compiled kernels that stay on disk, newest first
FLOORS = ("traces", "sim", "policies")  # the floors that may hold kernels


def _start_without_scipy() -> None:
    """Load Numba's array functions without importing SciPy, a third of its start-up time.

    It imports SciPy only to see whether matrix products can be compiled. Here an installed SciPy
    is answer enough; a kernel that multiplies matrices still gets the full check.

    Source: numba/np/arraymath.py, _check_blas
    """
    if "numba.np.arraymath" in sys.modules or find_spec("scipy") is None:
        return
    import numba.np.linalg as linalg

    check = linalg.ensure_blas
    linalg.ensure_blas = lambda: None
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        linalg.ensure_blas = check


if JIT:
    with suppress(ImportError, AttributeError):  # only a shortcut: another Numba may lack it
        _start_without_scipy()


class _NoGarbage(numba.core.event.Listener):  # type: ignore[misc]
    """While Numba compiles nobody looks for garbage, which took a tenth of the time.

    A compiler makes millions of objects that stay, and Python looks through them again and again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._looked = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._running:
                self._looked = gc.isenabled()
                gc.disable()
            self._running += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._running -= 1
            if not self._running and self._looked:
                gc.enable()

    def on_start(self, event: Any) -> None:
        self.__enter__()

    def on_end(self, event: Any) -> None:
        self.__exit__()


_no_garbage = _NoGarbage()
if JIT:
    numba.core.event.register("numba:compile", _no_garbage)


class _Notice(numba.core.event.Listener):  # type: ignore[misc]
    """Tells one listener, once, that the compiler begins; what is found on disk begins nothing."""

    def __init__(self) -> None:
        self.tell: Callable[[], None] | None = None

    def on_start(self, event: Any) -> None:
        tell, self.tell = self.tell, None
        if tell is not None:
            tell()

    def on_end(self, event: Any) -> None:
        pass


_notice = _Notice()
if JIT:
    numba.core.event.register("numba:compile", _notice)


def before_compiling(tell: Callable[[], None] | None) -> None:
    """Have somebody told, once, when the compiler next begins.

    Which kernels a command calls, for which types, is known when it calls them: only then can it be
    said without a mistake that one has to be compiled.

    Args:
        tell: called in the thread that compiles, which holds the compiler's lock; it must not
            compile itself. None = nobody is told any more.
    """
    _notice.tell = tell


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """What is decorated inside is kept in a folder: Numba reads that from its settings.

    Other libraries' kernels must not move there, nor ours where another thread finds the setting
    put back: "" made a folder of the place where the program runs. Numba's own lock, as whoever
    compiles holds it already, and two locks would be taken in two orders.
    """
    with global_compiler_lock:
        before = _config.CACHE_DIR
        _config.CACHE_DIR = str(folder)
        try:
            yield
        finally:
            _config.CACHE_DIR = before


def kernel(function: F) -> F:
    """Compile an entry point: Python calls it, its compiled form is kept on disk.

    It runs without the interpreter's lock, so kernels may run in parallel threads. Division by
    zero does not raise (NumPy's rule), integer overflow wraps, indices are not checked.
    """
    folder = cache_folder()
    if folder is None:
        return _njit(nogil=True, error_model="numpy")(function)
    with _kept_in(folder):
        return _njit(cache=True, nogil=True, error_model="numpy")(function)


def c_function(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a C function of a given Numba signature, kept on disk like a kernel.

    Returns:
        A decorator; what it returns has the function's `address`.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        folder = cache_folder()
        if folder is None:
            return _cfunc(signature, error_model="numpy")(function)
        with _kept_in(folder), _no_garbage:
            return _cfunc(signature, cache=True, error_model="numpy")(function)

    return decorate


def helper(function: F) -> F:
    """Compile a function that only kernels call, as a call of its own.

    Without the two wrappers for callers in Python and C it compiles in half the time.
    """
    return _njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(
        function
    )


def inline(function: F) -> F:
    """Compile a function that only kernels call, into each of its callers.

    For the small functions of a hot loop: an array that crosses a real call costs two atomic
    reference counts, which is more than most such functions do.
    """
    return _njit(
        nogil=True,
        error_model="numpy",
        forceinline=True,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
    )(function)


def is_cold(*kernels: Callable[..., Any]) -> bool:
    """Return whether a first call would compile, which takes seconds and is worth a word.

    Args:
        kernels: the kernels about to be called; none = any kernel of the package.
    """
    if not JIT:
        return False
    folder = cache_folder()
    if folder is None:
        return not kernels or any(not getattr(k, "signatures", ()) for k in kernels)
    if not kernels:
        return next(folder.glob("*/*.nbi"), None) is None
    return any(
        not getattr(k, "signatures", ())
        and next(folder.glob(f"*/*.{k.__qualname__}-*.nbi"), None) is None
        for k in kernels
    )


@contextmanager
def watching_compiler() -> Iterator[Callable[[], float]]:
    """Watch the compiler, and nothing else: what is found on disk takes no time of its.

    Yields:
        A function that returns the seconds it has worked since.
    """
    if not JIT:
        yield lambda: 0.0
        return
    from numba.core.event import TimingListener, install_listener

    listener: Any = TimingListener()
    with install_listener("numba:compile", listener):
        yield lambda: listener.duration if listener.done else 0.0


@cache
def source_hash() -> str:
    """Return 16 hex digits that change whenever a compiled kernel might."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for part in (
        numba.__version__,
        llvmlite.__version__,
        sys.version,
        # Numba does not tell code with index checks from code without when it looks in its cache.
        str((_config.BOUNDSCHECK, _config.OPT, _config.DEBUGINFO_DEFAULT)),
    ):
        digest.update(part.encode() + b"\0")
    for floor in FLOORS:
        for path in sorted((root / floor).glob("*.py")):
            digest.update(f"{floor}/{path.name}\0".encode())
            # A file can vanish between listing and reading while someone edits.
            with suppress(OSError):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


@cache
def cache_folder() -> Path | None:
    """Return the folder that holds this version's compiled kernels, or None if none can.

    Tried in order: NUMBA_CACHE_DIR if the user set it, the user's cache folder, a folder of the
    user's own in the temporary folder. Older versions' folders beside it are deleted.
    """
    if not JIT:
        return None
    for base in _bases():
        folder = base / source_hash()
        try:
            _make_private(base)
            folder.mkdir(exist_ok=True)
            os.utime(folder)  # newest now: another process must not delete it
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        _delete_old(base)
        return folder
    return None


def _bases() -> list[Path]:
    """Return the places to try, best first."""
    if _config.CACHE_DIR:
        return [Path(_config.CACHE_DIR).absolute() / "tightfit"]
    bases = []
    with suppress(RuntimeError):  # no home folder
        if sys.platform == "win32":
            user = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        elif sys.platform == "darwin":
            user = Path.home() / "Library" / "Caches"
        else:
            user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        bases.append(Path(user) / "tightfit")
    who = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    bases.append(Path(tempfile.gettempdir()) / f"tightfit-{who}")
    return bases


def _make_private(base: Path) -> None:
    """Create a folder if needed, and refuse one that somebody else could have filled.

    Compiled kernels are code: a folder in the temporary folder may have been laid out by another
    user of the machine.

    Raises:
        OSError: it cannot be created, or is not ours alone to write.
    """
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not hasattr(os, "getuid"):
        return
    found = os.stat(base, follow_symlinks=not base.name.startswith("tightfit-"))
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{base} is not a folder that only this user can write")


def _delete_old(base: Path) -> None:
    """Delete all but the newest folders of compiled kernels."""
    dated = []
    with suppress(OSError):
        for path in base.iterdir():
            if re.fullmatch("[0-9a-f]{16}", path.name):
                with suppress(OSError):  # another process deleted it first
                    dated.append((path.stat().st_mtime, path))
    for _, path in sorted(dated, reverse=True)[KEEP:]:
        shutil.rmtree(path, ignore_errors=True)

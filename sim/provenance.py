"""What a policy of a user's own is made of: every text and value that its compiled form depends on.

Compiled code is found again by this, so an edit is never answered with the code from before it. The
sources of the package itself are covered by `traces/jit.py`.
"""

from __future__ import annotations

import site
import sysconfig
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from ..traces.jit import FLOORS

_ROOT = Path(__file__).resolve().parent.parent
_OWN = tuple(_ROOT / floor for floor in FLOORS)
_LIBRARIES = tuple(
    {
        Path(place).resolve()
        for place in (
            *site.getsitepackages(),
            sysconfig.get_paths()["stdlib"],
            sysconfig.get_paths()["purelib"],
        )
    }
)


def plain(function: Callable[..., Any]) -> FunctionType | None:
    """The Python function behind a compiled one, or the function itself."""
    found = getattr(function, "py_func", function)
    return found if isinstance(found, FunctionType) else None


def is_outside(file: str) -> bool:
    """A file is not of the floors whose sources every kernel's key covers."""
    return Path(file).resolve().parent not in _OWN


def is_library(file: str) -> bool:
    """A file belongs to an installed library, or to Python itself."""
    return any(place in Path(file).resolve().parents for place in _LIBRARIES)


def files_behind(functions: Iterable[Callable[..., Any]]) -> tuple[str, ...]:
    """The files outside the package in which functions were written, as Python names them."""
    found = {f.__code__.co_filename for f in map(plain, functions) if f is not None}
    return tuple(sorted(file for file in found if is_outside(file)))


def words_behind(functions: Iterable[Callable[..., Any]]) -> str:
    """Everything outside the package that decides what functions compile to; "" if nothing does.

    The texts of their files, of files of functions and modules they use, and the values of the
    constants they use, which an import may have computed.
    """
    words: dict[str, None] = {}
    seen: set[int] = set()
    for function in functions:
        _add(function, words, seen)
    return "\0".join(words)


def _add(value: Any, words: dict[str, None], seen: set[int]) -> None:
    function = plain(value)
    if function is None or id(function) in seen:
        return
    seen.add(id(function))
    file = function.__code__.co_filename
    if not is_outside(file):
        return
    words[_text(file) or repr(_shape(function.__code__))] = None
    cells = function.__closure__ or ()
    inside = dict(zip(function.__code__.co_freevars, cells, strict=True))
    for name in sorted(_names(function.__code__)):
        if name in inside:
            used = inside[name].cell_contents
        elif name in function.__globals__:
            used = function.__globals__[name]
        else:
            continue
        if isinstance(used, ModuleType):
            other = getattr(used, "__file__", None)
            if other and is_outside(other) and not is_library(other):
                words[_text(other)] = None
        elif isinstance(used, np.ndarray):
            words[f"{name}={used.dtype}{used.shape}{used.tobytes().hex()}"] = None
        elif isinstance(used, int | float | bool | str | bytes | tuple | np.generic | Enum):
            words[f"{name}={used!r}"] = None
        else:
            _add(used, words, seen)


def _text(file: str) -> str:
    """A file's text; nothing where there is no file, as in a notebook."""
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _names(code: CodeType) -> set[str]:
    """Names that a function's code, and the code inside it, takes from around it."""
    found = {*code.co_names, *code.co_freevars}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= _names(constant)
    return found


def _shape(code: CodeType) -> tuple[object, ...]:
    """What a function does, where there is no text of it."""
    constants = tuple(_shape(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts)
    return (code.co_code, code.co_names, code.co_varnames, constants)

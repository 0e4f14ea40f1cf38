"""Errors in a policy of a user's own: one sentence with file and line, whichever way it failed."""

from __future__ import annotations

import dis
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

from ..traces.errors import PolicyError, TightfitError
from ..traces.jit import JIT, inline
from .policy import Policy, types_of_hook
from .provenance import plain

# Hooks that must return a whole number.
NUMBERS = ("allocate", "trim", "choose", "splits", "from_driver", "recover")
_PLACE = re.compile(r'File "([^"]+)", line (\d+)')


@contextmanager
def blaming(policy: Policy) -> Iterator[None]:
    """Word an error in the policy's own files as a PolicyError; let every other one pass."""
    try:
        yield
    except TightfitError:
        raise
    except Exception as error:
        said = fault_in(policy, error)
        if said is None:
            raise
        raise PolicyError(said) from error


def fault_in(policy: Policy, error: BaseException) -> str | None:
    """What is wrong with the policy's own files, given an error; None if it is not theirs."""
    if not policy.files:
        return None
    if JIT and _is_the_compilers(error):
        return _compiler_fault(policy, error)
    return place_of_error(error, policy.files)


def _is_the_compilers(error: BaseException) -> bool:
    """The compiler says it, or it was thrown inside the compiler or inside compiled code."""
    if type(error).__module__.startswith("numba."):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if frames and Path(frames[-1].filename).parent == Path(__file__).parent:
        return True  # a kernel's own lines do not show
    return bool(frames) and not {"numba", "llvmlite"}.isdisjoint(Path(frames[-1].filename).parts)


def place_of_error(error: BaseException, files: tuple[str, ...]) -> str | None:
    """The innermost place of an error in some files, and its words; None if it passed none."""
    if isinstance(error, SyntaxError) and error.filename in files:
        return f"{_short(error.filename)}, line {error.lineno}: {error.msg}"
    places = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    if not places:
        return None
    try:
        words = " ".join(str(error).split()) or "no message"
    except Exception:  # an error of the file's own that cannot be put into words
        words = "no message"
    return (
        f"{_short(places[-1].filename)}, line {places[-1].lineno}: {type(error).__name__}: {words}"
    )


def _compiler_fault(policy: Policy, error: BaseException) -> str:
    """Compile hook by hook, each alone, for the plain words that a kernel's error buries."""
    for name, hook in policy.hooks.items():
        types = types_of_hook.get((policy.key, name))
        if types is None:
            continue
        compiled: Any = inline(hook)
        try:
            compiled.compile(types)
        except Exception as alone:
            return f"{_compiler_words(str(alone), policy, plain(hook))} (in {name})"
        returned = str(compiled.nopython_signatures[-1].return_type)
        if name in NUMBERS and not returned.startswith(("int", "uint", "bool", "Literal", "lit")):
            words = f"it returns {returned}, expected a whole number on every way out"
            return f"{_compiler_words(words, policy, plain(hook))} (in {name})"
    return _compiler_words(str(error), policy, None)


def _compiler_words(text: str, policy: Policy, hook: FunctionType | None) -> str:
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()]
    own = [(file, at) for file, at in _PLACE.findall(text) if file in _names(policy.files)]
    words = next(
        (
            x
            for x in lines
            if x and not x.startswith(("Failed in", "File ", "During", "-", "\u2b95"))
        ),
        "it cannot be compiled",
    )
    if own:
        where = f"{_short(own[-1][0])}, line {own[-1][1]}"
    elif hook is not None:
        where = f"{_short(hook.__code__.co_filename)}, line {_line_of_name(hook, words)}"
    else:
        where = _short(policy.files[0])
    return f"{where}: cannot be compiled: {words}"


def _line_of_name(function: FunctionType, words: str) -> int:
    """The line on which a function uses the name that a message quotes; else its first."""
    quoted = re.findall(r"'(\w+)'", words)
    for step in dis.get_instructions(function):
        position = step.positions
        if step.argval in quoted and position is not None and position.lineno is not None:
            return position.lineno
    return function.__code__.co_firstlineno


def _names(files: tuple[str, ...]) -> set[str]:
    """Files as Numba names them: in full, or from the working directory."""
    return {*files, *map(_short, files)}


def _short(file: str | None) -> str:
    """A path as the user would write it."""
    path = Path(file or "?")
    try:
        return path.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)

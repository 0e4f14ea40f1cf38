"""Functions compiled apart: the cold half of the kernel, called through a table of addresses.

Numba links, and optimises again, the whole body of a callee into each of its callers. The cold
functions form a chain ten calls deep, and compiled the usual way they took 35 seconds of the
kernel's 40. Compiled apart each is compiled once: the state carries a table of their addresses and
a call goes through it, at the price of an indirect call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..traces.jit import JIT, c_function, inline
from .on_call import door
from .state import TABLE_SIZE

# Every function compiled apart; its place here is its place in the table. Machine code kept on
# disk has these numbers in it, so they must not depend on the order of imports.
NAMES = (
    "merge_pairs", "gather", "sort_blocks",
    "change", "track_malloc", "track_free_requested", "track_free_completed",
    "log", "driver_malloc", "driver_map",
    "new_segment", "release_segment",
    "place", "insert_unmapped", "remove_unmapped", "map_pages", "new_reservation",
    "grow_segment", "unmap", "next_frontier", "walk_frontier", "best_fixed",
    "free_later", "complete", "synchronize", "sorted_pool", "release_blocks",
    "release_pool", "release_freeable_pools", "release_everything", "release_oversize",
    "collect_garbage",
    "obtain", "carve_new", "free_tried", "rare_op",
)  # fmt: skip
# Those that no replay does without, and those that none does without that keeps statistics.
FIRST = (
    "new_segment", "driver_malloc", "place", "obtain", "carve_new", "merge_pairs", "log", "change",
)  # fmt: skip
TRACKING = ("track_malloc", "track_free_requested", "track_free_completed")
# A policy's cold hooks take the places after them; which functions those are is the policy's.
HOOK_NAMES = ("before_driver", "from_driver", "recover")

_compilers: dict[str, Callable[[], Any]] = {}
_arguments: dict[str, int] = {}  # of the C function: two addresses instead of a View
_doors: list[Any] = []  # as long as states may hold their addresses: for ever
_compiled: dict[str, Any] = {}
_tables: dict[str, np.ndarray] = {}


def place_of(name: str) -> int:
    """Place of a function or cold hook in the table of addresses."""
    return (NAMES + HOOK_NAMES).index(name)


if JIT and not TYPE_CHECKING:
    from numba import types
    from numba.extending import intrinsic

    from .assumed import nothing
    from .view import view_at

    def _invoker(n: int) -> Any:
        """Intrinsic that calls the C function at an address with n int64 arguments."""
        names = ", ".join(f"x{k}" for k in range(n))
        namespace: dict[str, Any] = {}

        def build(builder: Any, args: Any) -> Any:
            from llvmlite import ir

            word = ir.IntType(64)
            pointer = ir.FunctionType(word, [word] * n).as_pointer()
            return builder.call(builder.inttoptr(args[0], pointer), args[1:])

        signature = types.int64(*[types.int64] * (n + 1))
        namespace.update(build=build, signature=signature)
        exec(
            f"def invoke(typingctx, address, {names}):\n"
            f"    def codegen(context, builder, sig, args): return build(builder, args)\n"
            f"    return signature, codegen\n",
            namespace,
        )
        return intrinsic(namespace["invoke"])

    # Number of arguments -> `invoke(address, ...)`, which calls a C function of int64 arguments.
    invokers = {n: _invoker(n) for n in range(12)}

    @inline
    def view_of_two(a, p):  # noqa: ANN001, ANN202
        """The View of the state at address a and the plan at address p, nothing assumed."""
        return view_at(a, p, nothing())

    @intrinsic
    def as_word(typingctx, x):  # noqa: ANN001, ANN201
        """An integer or a boolean as int64, nothing as 0."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            if isinstance(x, types.NoneType):
                return context.get_constant(types.int64, 0)
            return context.cast(builder, args[0], x, types.int64)

        return types.int64(x), codegen

    def calling(name: str, parameters: tuple[str, ...]) -> Any:
        """Inline function that calls table entry `name` with a View and further integers."""
        rest = parameters[1:]
        namespace: dict[str, Any] = {"invoke": invokers[2 + len(rest)], "k": place_of(name)}
        handed = ", ".join(["s.state_at", "s.plan_at", *rest])
        exec(f"def {name}({', '.join(parameters)}): return invoke(s.table[k], {handed})", namespace)
        return inline(namespace[name])

    def compile_apart(
        function: Callable[..., Any], tag: str = "", at: str = "a, p", look: Any = view_of_two
    ) -> Any:
        """Compile a function of a View and integers as a C function of two addresses and those.

        Args:
            function: what to compile.
            tag: part of the name under which machine code is kept; Numba tells versions of a file
                apart by its date and size alone, which is not enough for a user's.
            at: names of the addresses, if the function's first argument is no View.
            look: makes that argument of them.
        """
        parameters = list(inspect.signature(function).parameters)
        rest = parameters[1:]
        name = f"{function.__name__}_apart{tag}"
        namespace: dict[str, Any] = {
            "body": inline(function),
            "look": look,
            "as_word": as_word,
            "__name__": function.__module__,
        }
        text = (
            f"def {name}({', '.join([at, *rest])}):\n"
            f"    return as_word(body({', '.join([f'look({at})', *rest])}))\n"
        )
        # Numba keeps machine code beside a file name, so the wrapper names the function's own file.
        exec(compile(text, inspect.getfile(function), "exec"), namespace)
        n = at.count(",") + 1 + len(rest)
        return c_function(types.int64(*[types.int64] * n))(namespace[name])

    def apart(function: Callable[..., Any]) -> Any:
        """Compile a function `f(s, ...)` of a View and integers apart; it returns an integer."""
        name = function.__name__
        parameters = tuple(inspect.signature(function).parameters)
        _compilers[name] = lambda: compile_apart(function)
        _arguments[name] = 1 + len(parameters)
        return calling(name, parameters)

else:
    invokers: dict[int, Any] = dict.fromkeys(range(12))  # nothing is called by address

    def view_of_two(a: int, p: int) -> Any:
        """Of compiled code alone: an address means nothing here."""
        raise NotImplementedError

    def apart(function: Callable[..., Any]) -> Any:
        """Leave the function as it is: nothing is compiled."""
        return function

    def compile_apart(
        function: Callable[..., Any], tag: str = "", at: str = "", look: Any = None
    ) -> Any:
        """Nothing to compile."""
        return function

    def calling(name: str, parameters: tuple[str, ...]) -> Any:
        """Function that calls the cold hook `name` of the policy last given to addresses()."""
        return lambda *args: _compiled[name](*args)


def addresses(
    cold_hooks: dict[str, Callable[..., Any]], key: str, files: tuple[str, ...] = ()
) -> np.ndarray:
    """Table of addresses for a state: the policy's hooks compiled, the rest perhaps behind doors.

    Args:
        cold_hooks: the policy's functions for HOOK_NAMES.
        key: identifies the policy's content.
        files: of a user's own; hooks from there are kept under the key.

    Returns:
        shape (TABLE_SIZE,), int64.
    """
    if not JIT:
        _compiled.update(cold_hooks)
        return np.zeros(TABLE_SIZE, np.int64)
    if key not in _tables:
        _tables[key] = _table_of(cold_hooks, key, files)
    return _tables[key]


def _table_of(
    cold_hooks: dict[str, Callable[..., Any]], key: str, files: tuple[str, ...]
) -> np.ndarray:
    table = np.zeros(TABLE_SIZE, np.int64)
    for k, name in enumerate(NAMES):
        if name in _compiled:
            table[k] = _compiled[name].address
        else:
            table[k], kept = door(name, k, _arguments[name], partial(_function, name), table)
            _doors.append(kept)
    for name in HOOK_NAMES:
        kept = f"{key}.{name}"
        if kept not in _compiled:
            hook = cold_hooks[name]
            is_foreign = inspect.getfile(hook) in files
            tag = "_" + key.rpartition("-")[2] if is_foreign else ""
            _compiled[kept] = compile_apart(hook, tag)
        table[place_of(name)] = _compiled[kept].address
    return table


def without_doors(table: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """Compile every function, for callers that must never wait for a door, or load it.

    Args:
        table: as addresses() returns it.

    Returns:
        The same without doors; and what must be kept as long as the addresses are used.
    """
    compile_all()
    out = table.copy()
    for k, name in enumerate(NAMES):
        out[k] = _compiled[name].address
    return out, list(_compiled.values())


def _function(name: str) -> Any:
    """The compiled form of one of NAMES."""
    if name not in _compiled:
        _compiled[name] = _compilers[name]()
    return _compiled[name]


def compile_all(names: Iterable[str] = NAMES) -> None:
    """Compile functions of NAMES, or load them."""
    for name in names:
        _function(name)

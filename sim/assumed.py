"""Assumptions: options whose value is known before a run, and that compiled code need not ask for.

An event takes some forty processor cycles; a dozen options that are off, asked for on every event,
would be a third of them. So the replay loop is compiled per assumption, on demand: what the
assumption says of an option becomes a constant there, and what depends on it disappears.
What is compiled apart (the cold half) assumes nothing and exists once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..traces.jit import JIT, inline
from .state import (
    AGES,
    EXPANDABLE,
    GC_BYTES,
    IS_EXPANDABLE,
    MIXED,
    TIE_ADDRESS,
    TIE_BLOCK,
    TIE_BREAK,
    TRACK,
)


@dataclass(frozen=True)
class Assumed:
    """What is known of a run.

    Attributes:
        name: tells compiled code of one assumption from another's.
        options: option index -> its value.
        expandable: whether all memory is expandable (True) or none (False); None = not known.
        has_order: whether age breaks ties of size before addresses do; None = not known.
        ages_blocks: whether each block has a creation counter of its own; None = not known.
        notes_addresses: whether the address of each event may be asked for.
    """

    name: str
    options: Mapping[int, int]
    expandable: bool | None = None
    has_order: bool | None = None
    ages_blocks: bool | None = None
    notes_addresses: bool = True

    def holds(self, opt: np.ndarray, expandable: bool | None, addresses: bool) -> bool:
        """Whether a run's options and memory are as assumed."""
        return (
            all(opt[k] == value for k, value in self.options.items())
            and self.expandable in (None, expandable)
            and self.has_order in (None, opt[TIE_BREAK] != TIE_ADDRESS)
            and self.ages_blocks in (None, opt[TIE_BREAK] == TIE_BLOCK)
            and (self.notes_addresses or not addresses)
        )


NOTHING = Assumed("nothing", {})


def _lean(name: str, expandable: bool) -> Assumed:
    return Assumed(
        name,
        {GC_BYTES: 0, AGES: 0, TRACK: 0, MIXED: 0, EXPANDABLE: int(expandable)},
        expandable=expandable,
        has_order=False,
        ages_blocks=False,
        notes_addresses=False,
    )


# Not of runs that go on from a recorded layout, where age breaks ties: they are few, and another
# loop to compile would take longer.
PLAIN = _lean("plain", expandable=False)
EXPANDING = _lean("expanding", expandable=True)


def assumption(opt: np.ndarray, expandable: bool | None, addresses: bool) -> Assumed:
    """The assumption that holds of a run and lets most be left out.

    Args:
        opt: the state's options.
        expandable: whether all memory the run can meet is expandable (True) or none (False).
        addresses: whether the address of each event is asked for.
    """
    fitting = (a for a in (PLAIN, EXPANDING) if a.holds(opt, expandable, addresses))
    return next(fitting, NOTHING)


if JIT and not TYPE_CHECKING:
    # An assumption is an empty value of a Numba type of its own, carried by the View: what it says
    # is part of the types that code is compiled for.
    from numba import types
    from numba.extending import (
        NativeValue,
        intrinsic,
        models,
        overload,
        register_model,
        typeof_impl,
        unbox,
    )

    class AssumedType(types.Type):
        def __init__(self, assumed: Assumed) -> None:
            self.assumed = assumed
            super().__init__(name=f"Assumed[{assumed.name}]")

    register_model(AssumedType)(models.OpaqueModel)

    _types: dict[str, AssumedType] = {}  # Numba asks at each call

    @typeof_impl.register(Assumed)
    def _typeof(assumed: Assumed, _context: object) -> AssumedType:
        if assumed.name not in _types:
            _types[assumed.name] = AssumedType(assumed)
        return _types[assumed.name]

    @unbox(AssumedType)
    def _unbox(_type: object, _value: object, c: Any) -> NativeValue:
        return NativeValue(c.context.get_dummy_value())

    @intrinsic
    def nothing(typingctx):  # noqa: ANN001, ANN201
        """NOTHING, in compiled code."""

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return context.get_dummy_value()

        return AssumedType(NOTHING)(), codegen

    def _known(view_type: Any) -> Assumed:
        return view_type.types[view_type.fields.index("assumed")].assumed

    def _fact(arguments: str, known: Callable[[Assumed], Any], asked: Callable[..., Any]) -> Any:
        """Function of a View (and a block): a constant where known() has one, else asked()."""
        namespace: dict[str, Any] = {"_known": _known, "known": known, "inline": inline,
                                     "asked": inline(asked), "np": np}  # fmt: skip
        exec(  # Numba insists on the exact signature
            f"def fact({arguments}): raise NotImplementedError\n"
            f"def resolve({arguments}):\n"
            f"    value = known(_known(s))\n"
            f"    if value is None: return lambda {arguments}: asked({arguments})\n"
            f"    return lambda {arguments}: value\n",
            namespace,
        )
        overload(namespace["fact"], jit_options={"forceinline": True, "error_model": "numpy"})(
            namespace["resolve"]
        )
        return namespace["fact"]

else:

    def _fact(arguments: str, known: Callable[[Assumed], Any], asked: Callable[..., Any]) -> Any:
        """The function that asks: nothing is compiled."""
        return asked

    def nothing() -> Assumed:
        """NOTHING."""
        return NOTHING


def _option(index: int) -> Any:
    """Function of a View: the value of an option."""
    return _fact("s", lambda assumed: assumed.options.get(index), lambda s: s.opt[index])


gc_bytes = _option(GC_BYTES)
keeps_ages = _option(AGES)
tracks = _option(TRACK)
expands = _option(EXPANDABLE)
is_mixed = _option(MIXED)
notes_addresses = _fact("s", lambda assumed: assumed.notes_addresses, lambda s: True)
# Are ties of size broken by the age of segments or blocks, and not by addresses alone?
has_order = _fact("s", lambda assumed: assumed.has_order, lambda s: s.opt[TIE_BREAK] != TIE_ADDRESS)
# Has each block a creation counter of its own (release 2.12)?
ages_blocks = _fact(
    "s", lambda assumed: assumed.ages_blocks, lambda s: s.opt[TIE_BREAK] == TIE_BLOCK
)
# Of a block: does it lie in expandable memory?
is_expandable = _fact(
    "s, b", lambda assumed: assumed.expandable, lambda s, b: (s.tag[b] & IS_EXPANDABLE) != 0
)
# Can there be unmapped ranges at all?
has_holes = _fact("s", lambda assumed: assumed.expandable is not False, lambda s: True)


@inline
def forgets(s):
    """A block that is freed as soon as it was handed out changes nothing but peaks."""
    return not (tracks(s) or keeps_ages(s) or ages_blocks(s))

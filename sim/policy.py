"""What a policy is: named hooks that decide, while the mechanism in this folder acts.

A hook is a plain function; `s` is the state's View, `q` the offset of the request's row in
`s.classes`. Hooks may call the mechanism (index, segments, expandable, reclaim) and are compiled
into the replay kernel: one kernel per policy content, found again by later processes.

    choose(s, q) -> block           a free block for the request, still in the free set; 0 = none
    splits(s, q, rest) -> bool      cut `rest` bytes off the end of the chosen block?
    before_driver(s, q)             no free block fits and the driver is about to be asked
    from_driver(s, q, retry, try_op) -> block   obtain memory: a used block; 0 = refused
    recover(s, q, stage) -> stage   refused: give memory back; the next stage, 0 = give up
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..traces.errors import PolicyError
from ..traces.jit import JIT, inline, source_hash
from .apart import HOOK_NAMES, addresses, calling
from .param import Param
from .provenance import files_behind, plain, words_behind

HOOKS = {
    "choose": ("s", "q"),
    "splits": ("s", "q", "rest"),
    "before_driver": ("s", "q"),
    "from_driver": ("s", "q", "retry", "try_op"),
    "recover": ("s", "q", "stage"),
}

MOST_PARAMS = 16
_registry: dict[str, Policy] = {}
# (policy, hook) -> the Numba types it was last compiled for; blame.py asks when compiling failed.
types_of_hook: dict[tuple[str, str], tuple[Any, ...]] = {}


class Policy:
    """A set of hooks under a name.

    Args:
        name: as users say it.
        source: the paper, or the code, that the policy follows.
        hooks: one function per name in HOOKS.
        params: its parameters; `s.param[k]` holds the value of the k-th.
        recurs: its hooks look at nothing that steady.py leaves out when it compares states, such
            as the number of the event or counts of calls; repetitions are skipped.
        traceless: `choose` and `splits` change nothing, so that a block that is freed as soon as
            it was handed out leaves no trace; the loop then only looks at the peaks.
    """

    recurs = traceless = False

    def __init__(
        self,
        name: str,
        source: str,
        hooks: dict[str, Callable[..., Any]],
        params: tuple[Param, ...] = (),
        recurs: bool = False,
        traceless: bool = False,
    ) -> None:
        missing = HOOKS.keys() - hooks.keys()
        if missing:
            raise TypeError(f"policy {name}: no hook {', '.join(sorted(missing))}")
        self._register(name, source, hooks, params, "")
        self.recurs, self.traceless = recurs, traceless

    def _register(
        self,
        name: str,
        source: str,
        hooks: dict[str, Callable[..., Any]],
        params: tuple[Param, ...],
        prefix: str,
        others: tuple[Callable[..., Any] | None, ...] = (),
    ) -> None:
        """Remember everything, under a key that changes with the content.

        Args:
            name, source, hooks, params: as the constructors have them.
            prefix: of the key.
            others: plain Python functions that belong to the policy too.
        """
        if len(params) > MOST_PARAMS:
            raise PolicyError(f"policy {name}: {len(params)} parameters, at most {MOST_PARAMS}")
        hooks = {hook: plain(function) or function for hook, function in hooks.items()}
        self.name, self.source, self.hooks, self.params = name, source, hooks, params
        self.files = files_behind([*hooks.values(), *(f for f in others if f is not None)])
        own = words_behind(hooks.values())
        digest = hashlib.sha256((source_hash() + own).encode()).hexdigest()[:16]
        self.key = f"{prefix}{name}-{digest}"
        _registry[self.key] = self

    @property
    def defaults(self) -> dict[str, int]:
        """The values its parameters have unless a user says otherwise."""
        return {p.name: p.default for p in self.params}

    def checked(self, values: Mapping[str, int] | None) -> list[int]:
        """Values of all parameters in the order of their declaration, the missing ones' defaults.

        Raises:
            PolicyError: a value is out of its range.
        """
        chosen = self.defaults | dict(values or {})
        return [p.check(chosen[p.name], self.name) for p in self.params]

    def addresses(self) -> np.ndarray:
        """Table of the functions compiled apart, this policy's cold hooks among them."""
        return addresses({name: self.hooks[name] for name in HOOK_NAMES}, self.key, self.files)


if JIT and not TYPE_CHECKING:
    # A policy is an empty value of a Numba type whose name carries its content, so that one static
    # kernel is specialised, and cached on disk, per content (measured against closures and
    # dispatchers as arguments, neither of which a second process finds again).
    from numba import types
    from numba.core.imputils import lower_constant
    from numba.extending import (
        NativeValue,
        models,
        overload,
        register_model,
        typeof_impl,
        unbox,
    )

    class PolicyType(types.Type):
        def __init__(self, key: str) -> None:
            self.key_of_policy = key
            super().__init__(name=f"Policy[{key}]")

    register_model(PolicyType)(models.OpaqueModel)

    _type_of = cache(PolicyType)  # Numba asks at each call

    @typeof_impl.register(Policy)
    def _typeof(policy: Policy, _context: object) -> PolicyType:
        return _type_of(policy.key)

    @unbox(PolicyType)
    def _unbox(_type: object, _value: object, c: Any) -> NativeValue:
        return NativeValue(c.context.get_dummy_value())

    @lower_constant(PolicyType)
    def _constant(context: Any, builder: Any, _type: object, _value: object) -> Any:
        return context.get_dummy_value()

    def _generic(hook: str, arguments: tuple[str, ...]) -> Callable[..., Any]:
        names = ", ".join(arguments)
        namespace: dict[str, Any] = {
            "registry": _registry, "inline": inline, "hook": hook, "types_of_hook": types_of_hook,
        }  # fmt: skip
        exec(  # Numba insists on the exact signature; only our own HOOKS table is spelt out here
            f"def {hook}(policy, {names}): raise NotImplementedError\n"
            f"def resolve(policy, {names}):\n"
            f"    types_of_hook[policy.key_of_policy, hook] = ({names},)\n"
            f"    compiled = inline(registry[policy.key_of_policy].hooks[hook])\n"
            f"    def call(policy, {names}): return compiled({names})\n"
            f"    return call\n",
            namespace,
        )
        generic = namespace[hook]
        overload(generic, jit_options={"forceinline": True, "error_model": "numpy"})(
            namespace["resolve"]
        )
        return generic

    def is_traceless(policy: Policy) -> bool:
        """Whether a policy is, known when code is compiled for it."""
        raise NotImplementedError

    @overload(is_traceless, jit_options={"forceinline": True, "error_model": "numpy"})
    def _is_traceless(policy):  # noqa: ANN001, ANN202
        known = bool(_registry[policy.key_of_policy].traceless)
        return lambda policy: known

else:

    def is_traceless(policy: Policy) -> bool:
        """Whether a policy is."""
        return policy.traceless

    def _generic(hook: str, arguments: tuple[str, ...]) -> Callable[..., Any]:
        def call(policy: Policy, *args: Any) -> Any:
            return policy.hooks[hook](*args)

        return call


choose = _generic("choose", HOOKS["choose"])
splits = _generic("splits", HOOKS["splits"])
# The cold hooks go through the state's table of addresses; which policy's they are is in there.
before_driver = calling("before_driver", HOOKS["before_driver"])
from_driver = calling("from_driver", HOOKS["from_driver"])
recover = calling("recover", HOOKS["recover"])

"""View: a simulation's fields as compiled code sees them, as raw pointers."""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

import numpy as np

from ..traces.jit import JIT, inline
from .state import PLAN, STATE

View = namedtuple("View", [*STATE.names, *PLAN.names, "state_at", "plan_at", "assumed"])

if JIT and not TYPE_CHECKING:
    from .memory import address_of, column, f8_at, i4_at, i8_at, u8_at

    def _constructor() -> Any:
        """`view_at(a, p, k)`: a View of the state at a and the plan at p, under assumption k."""
        fields: list[str] = []
        namespace: dict[str, Any] = {
            "View": View, "zero": np.int64(0),
            "i8_at": i8_at, "u8_at": u8_at, "i4_at": i4_at, "f8_at": f8_at,
        }  # fmt: skip
        for buffer, base, header in ((STATE, "a", "s"), (PLAN, "p", "t")):
            fixed = dict(enumerate(buffer.fixed_offsets()))
            for k, (_, code, _) in enumerate(buffer.fields):
                fields.append(f"{code}_at({base}, {fixed.get(k, f'{header}[{1 + k}]')})")
            table = f"{base} + {header}[{1 + len(buffer.fields)}]"
            for (name, code), offset in zip(buffer.columns, buffer.column_offsets, strict=True):
                namespace[f"column_{name}"] = column(code, offset)
                fields.append(f"column_{name}({table})")
        exec(  # spelt out from the declared fields, so that their order is written down once
            "def view_at(a, p, k):\n"
            "    s, t = i8_at(a, zero), i8_at(p, zero)\n"
            f"    return View({', '.join(fields)}, a, p, k)\n",
            namespace,
        )
        return inline(namespace["view_at"])

    view_at = _constructor()

    @inline
    def view(state, plan, assumed):
        """The fields of a state and a plan buffer as raw pointers, and what is known of the run."""
        return view_at(address_of(state), address_of(plan), assumed)

else:

    def view(state, plan, assumed):
        """The fields of a state and a plan buffer as NumPy arrays."""
        fields = {**STATE.views(state), **PLAN.views(plan)}
        return View(**fields, state_at=0, plan_at=0, assumed=assumed)

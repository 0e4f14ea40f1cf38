"""What a mechanism is: a policy that is not split-and-coalesce under the native allocator.

Two calls hand out memory, and a third may give it back to the driver. `m` is the simulation's
Ground; a block is a row of its arrays, taken with `new_block` and given back with `drop_block`.

    allocate(m, size, lane) -> block   a block with addr, and size >= the bytes asked for; 0 = none
    free(m, block)                     the block's memory may be handed out again
    trim(m) -> bytes                   give memory that nobody holds back to the driver

The replay loop measures, keeps what other streams still read, and answers a refusal: it waits for
those streams, calls `trim` and asks once more. All three calls are compiled into the loop, once per
content of the policy. `ground_driver.py` is where memory comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..traces.program import Op, Program
from .device import Device
from .packing import Packed
from .param import Param
from .policy import Policy, _generic

CALLS = {"allocate": ("m", "size", "lane"), "free": ("m", "b"), "trim": ("m",)}
allocate = _generic("allocate", CALLS["allocate"])
free = _generic("free", CALLS["free"])
trim = _generic("trim", CALLS["trim"])


def keeps_everything(m: Any) -> int:
    """A trim for mechanisms that never give memory back."""
    return 0


@dataclass(frozen=True)
class Honours:
    """What a mechanism keeps apart or makes use of; the rest of a program is served regardless.

    Attributes:
        streams: memory freed on one stream is not handed to another.
        pools: private pools keep their memory to themselves.
        returns: memory that nobody holds can go back to the driver.
        shares: it takes a share of the device at the start, so it wants to know how large that is.
        knows: what it is told of the program before it runs, which no allocator is told; "" if
            nothing.
        model: why it stands for something real without following it; "" for what follows a source.
        simulated: why it can be simulated only, and not run as a live allocator; "" if it can.
    """

    streams: bool = False
    pools: bool = False
    returns: bool = False
    shares: bool = False
    knows: str = ""
    model: str = ""
    simulated: str = ""


@dataclass(frozen=True)
class Foresight:
    """What a mechanism is told before a replay.

    Attributes:
        hints: shape (n events,) int64; during event i it is found in `m.hint[m.g[NOW]]`.
        words: shape (n words,) int64; first words of `m.own` at the start.
    """

    hints: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    words: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


class Mechanism(Policy):
    """A policy with a mechanism of its own.

    Args:
        name: as users say it.
        source: the paper, or the code, that it follows.
        allocate, free, trim: the calls.
        params: its parameters; `m.param[k]` holds the value of the k-th.
        honours: what it keeps apart.
        alignment: every address is a multiple of this, whatever the parameters.
        own: number of words of `m.own` it needs, given the parameters and the number of lanes.
        foresight: works out, given the events and the parameters, what it is told beforehand; what
            that is must be said in `honours.knows`, unless every hint follows from earlier events.
    """

    def __init__(
        self,
        name: str,
        source: str,
        allocate: Callable[..., Any],
        free: Callable[..., Any],
        trim: Callable[..., Any] = keeps_everything,
        params: tuple[Param, ...] = (),
        honours: Honours = Honours(),  # noqa: B008 (frozen)
        alignment: int = 256,
        own: Callable[[Mapping[str, int], int], int] = lambda values, lanes: 1,
        foresight: Callable[[Packed, Mapping[str, int]], Foresight] | None = None,
    ) -> None:
        # No call of Policy's own: it wants the five hooks of the native mechanism.
        self.honours, self.alignment, self.own = honours, alignment, own
        self.foresight = foresight
        hooks = {"allocate": allocate, "free": free, "trim": trim}
        self._register(name, source, hooks, params, "mechanism-", (own, foresight))

    def ignores(self, program: Program, device: Device) -> list[str]:
        """Say what of program and device this mechanism does not honour; one sentence each."""
        out = []
        if not self.honours.streams and len(program.streams) > 1:
            out.append(
                f"{self.name} keeps no streams apart: memory goes from one of the program's "
                f"{len(program.streams)} streams to another as if they were one"
            )
        if not self.honours.pools and len(program.pools) > 1:
            n = len(program.pools) - 1
            out.append(
                f"{self.name} knows no private pools: the program's {n} "
                f"{'is' if n == 1 else 'are'} served from the common memory"
            )
        if not self.honours.returns and program.count(Op.EMPTY_CACHE):
            n = program.count(Op.EMPTY_CACHE)
            out.append(f"{self.name} returns no memory: {n:,} calls of empty_cache do nothing")
        if self.honours.knows:
            out.append(f"{self.name} is no allocator that could run: it knows {self.honours.knows}")
        if self.honours.model:
            out.append(f"{self.name} is a model, not a claim: {self.honours.model}")
        if self.honours.shares and device.capacity_bytes is None:
            out.append(
                f"{self.name} takes a share of the device at the start; without --capacity it "
                "takes memory as it needs it"
            )
        return out

"""Variant: PyTorch's allocator with some of its decisions replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..sim.device import Device
from ..sim.mechanism import Honours
from ..sim.param import Param
from ..sim.policy import HOOKS, Policy
from ..sim.release import Release
from ..sim.requests import Requests
from ..sim.settings_line import parse_settings
from ..traces.errors import PolicyError
from ..traces.program import Program
from .native import requests_of
from .pytorch import PYTORCH

Rounds = Callable[[np.ndarray, Mapping[str, int]], np.ndarray]


class Variant(Policy):
    """A policy that runs on the native mechanism.

    Args:
        name: as users say it.
        source: the paper, or the code, that it follows.
        rounds: bytes a block must have for each request: given an int64 array of bytes asked for
            and the parameters, returns an array of the same shape, nowhere smaller, each of its
            own size alone. It is plain NumPy, called once for each replay; live, once for a size.
        params: its parameters; `s.param[k]` holds the value of the k-th.
        line: settings of the native allocator that it starts from.
        alignment: every address is a multiple of this, whatever the parameters.
        hooks: functions for some of the hooks in sim/policy.py; PyTorch's own for the others.
    """

    honours = Honours(streams=True, pools=True, returns=True)

    def __init__(
        self,
        name: str,
        source: str,
        *,
        rounds: Rounds | None = None,
        params: tuple[Param, ...] = (),
        line: str = "",
        alignment: int = 512,
        **hooks: Callable[..., Any],
    ) -> None:
        for hook in hooks:
            if hook not in HOOKS:
                raise PolicyError(
                    f"{name}: there is no hook '{hook}'; there are {', '.join(HOOKS)}"
                )
        # A prefix: compiled code of a variant without hooks of its own is not PYTORCH's, whose loop
        # also knows more of it.
        kept = {**PYTORCH.hooks, **hooks}
        self._register(name, source, kept, params, "variant-", (rounds,))
        self.rounds, self.line, self.alignment = rounds, line, alignment

    def needs(self, sizes: np.ndarray, values: Mapping[str, int]) -> np.ndarray | None:
        """Bytes of the blocks for some requests; None where PyTorch's own rounding holds.

        Raises:
            PolicyError: `rounds` returned something else.
        """
        if self.rounds is None:
            return None
        needs = np.asarray(self.rounds(sizes.copy(), values))
        if needs.shape != sizes.shape or needs.dtype.kind not in "iu":
            raise PolicyError(
                f"{self.name}: rounds: found {needs.dtype} of shape {needs.shape}, expected whole "
                f"numbers of shape {sizes.shape}"
            )
        for k in np.flatnonzero(needs < sizes)[:1]:
            raise PolicyError(
                f"{self.name}: rounds: found {needs[k]} bytes for a request of {sizes[k]}"
            )
        return needs.astype(np.int64)

    def requests(
        self,
        program: Program,
        values: Mapping[str, int],
        device: Device,
        rules: Release,
        keep_start: bool,
    ) -> Requests:
        """Everything that it decides about a program's requests.

        Args:
            program: its distinct requests.
            values: all parameters by name.
            device: what the driver can give.
            rules: the release whose allocator it changes.
            keep_start: whether the replay keeps the recorded start layout.

        Raises:
            PolicyError: its settings line is refused, or `rounds` returned something else.
        """
        settings = parse_settings(self.line, rules)
        need = self.needs(program.req_size, values)
        return requests_of(program, settings, rules, device, keep_start, need=need)

    def ignores(self, program: Program, device: Device) -> list[str]:
        """What of program and device it does not honour: nothing."""
        return []

"""Contender: a policy with its parameters chosen, whichever mechanism it runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..sim.device import Device
from ..sim.mechanism_replay import replay_mechanism
from ..sim.packing import Packed
from ..sim.param import parse_params
from ..sim.release import Release
from ..sim.run import Run
from ..sim.settings_line import parse_settings
from ..traces.errors import PolicyError, did_you_mean
from ..traces.program import Program
from .catalogue import MECHANISMS, NATIVE
from .native import replay_native
from .pytorch import PYTORCH

BASELINE = "pytorch"


@dataclass(frozen=True)
class Contender:
    """What a user named to be measured.

    Attributes:
        label: as the user wrote it.
        source: the paper or the code that it follows.
        replay: carries a packed program out on a device.
        ignores: what of a program and a device it does not honour, one sentence each.
    """

    label: str
    source: str
    replay: Callable[[Packed, Device], Run]
    ignores: Callable[[Program, Device], list[str]]

    @property
    def is_baseline(self) -> bool:
        """It is PyTorch's allocator with the settings of its own."""
        return self.label == BASELINE


def names() -> list[str]:
    """Every name there is, the baseline first."""
    return [*NATIVE, *MECHANISMS]


def contender(text: str, rules: Release) -> Contender:
    """Find a policy and read its parameters.

    Args:
        text: "best_fit", "best_fit:quantum=4096", or "pytorch:" and a settings line.
        rules: the release whose native allocator is meant.

    Raises:
        PolicyError: there is no such policy, or its parameters are not acceptable.
    """
    name, colon, rest = text.strip().partition(":")
    if name in MECHANISMS:
        mechanism = MECHANISMS[name]
        values = parse_params(mechanism.params, rest, name)
        return Contender(
            text.strip(),
            mechanism.source,
            lambda packed, device: replay_mechanism(packed, mechanism, values, device),
            mechanism.ignores,
        )
    if name not in NATIVE:
        raise PolicyError(
            f"--policy: found '{name}', expected one of {', '.join(names())}"
            + did_you_mean(name, names())
        )
    if colon and NATIVE[name]:
        raise PolicyError(
            f"{name}: found {rest!r} behind it, but it is the line {NATIVE[name]} and nothing "
            f"else; write '{BASELINE}:{NATIVE[name]},...'"
        )
    settings = parse_settings(rest if colon else NATIVE[name], rules)
    return Contender(
        text.strip() if rest else name,
        PYTORCH.source,
        lambda packed, device: replay_native(packed, settings, rules, device),
        lambda program, device: [],
    )

"""Contender: a policy with its parameters chosen, whichever mechanism it runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..sim.device import Device
from ..sim.packing import Packed
from ..sim.param import parse_params
from ..sim.release import Release
from ..sim.run import Run
from ..sim.settings_line import parse_settings
from ..traces.errors import PolicyError, did_you_mean
from ..traces.program import Program
from .catalogue import NATIVE, POLICIES, PRESETS
from .named import native_line
from .native import replay_native
from .playing import AnyPolicy, play_policy
from .pytorch import PYTORCH
from .user_file import is_user_file, load_user_policy, split_words

BASELINE = "pytorch"


@dataclass(frozen=True)
class Contender:
    """What a user named to be measured.

    Attributes:
        label: as the user wrote it.
        source: the paper or the code that it follows.
        replay: carries a packed program out on a device.
        ignores: what of a program and a device it does not honour, one sentence each.
        knows: what it is told of the program beforehand; "" for an allocator that could run.
    """

    label: str
    source: str
    replay: Callable[[Packed, Device], Run]
    ignores: Callable[[Program, Device], list[str]]
    knows: str = ""

    @property
    def is_baseline(self) -> bool:
        """It is PyTorch's allocator with the settings of its own."""
        return self.label == BASELINE


def names() -> list[str]:
    """Every name there is, the baseline first."""
    return [*NATIVE, *POLICIES, *PRESETS]


def contender(text: str, rules: Release) -> Contender:
    """Find a policy and read its parameters.

    Args:
        text: "best_fit", "best_fit:quantum=4096", "pytorch:" and a settings line, or
            "my_fit.py:MyFit" and, behind a further colon, parameters.
        rules: the release whose native allocator is meant.

    Raises:
        PolicyError: there is no such policy, its parameters are not acceptable, or its file fails.
    """
    text = text.strip()
    if is_user_file(text):
        policy = load_user_policy(text)
        path, name, params = split_words(text)
        label = f"{path}:{name}" if name else path
        return _of(policy, f"{label}:{params}" if params else label, params, rules)
    name, colon, rest = text.partition(":")
    if name in PRESETS:
        name, preset = PRESETS[name]
        return _of(POLICIES[name], text, ",".join(filter(None, (preset, rest))), rules)
    if name in POLICIES:
        return _of(POLICIES[name], text, rest, rules)
    if name not in NATIVE:
        raise PolicyError(
            f"--policy: found '{name}', expected one of {', '.join(names())}, or path.py:Name"
            + did_you_mean(name, names())
        )
    settings = parse_settings(native_line(name, colon, rest), rules)
    return Contender(
        text if rest else name,
        PYTORCH.source,
        lambda packed, device: replay_native(packed, settings, rules, device),
        lambda program, device: [],
    )


def _of(policy: AnyPolicy, label: str, params: str, rules: Release) -> Contender:
    values = parse_params(policy.params, params, policy.name)
    return Contender(
        label,
        policy.source,
        lambda packed, device: play_policy(packed, policy, values, device, rules),
        policy.ignores,
        policy.honours.knows,
    )

"""A policy by name or by file, and what there is to know of it before it runs."""

from __future__ import annotations

from dataclasses import dataclass

from ..sim.mechanism import Mechanism
from ..sim.param import Param
from ..sim.settings_line import parse_settings
from ..traces.errors import PolicyError, did_you_mean
from .catalogue import NATIVE, POLICIES, PRESETS
from .playing import DEFAULT_RULES, AnyPolicy
from .pytorch import PYTORCH
from .runs_live import live_fault
from .user_file import is_user_file, load_user_policy, split_words
from .variant import Variant


@dataclass(frozen=True)
class Described:
    """One line of the list of policies.

    Attributes:
        name: as users write it.
        kind: "native", "hooks" (PyTorch's mechanism with other decisions), "mechanism", or
            "preset" (another policy with parameters chosen).
        source: the paper or the code that it follows.
        honours: what it keeps apart or makes use of.
        knows: what it is told of a program beforehand; "" for an allocator that could run.
        means: for a preset and the native lines what the name stands for; else "".
        params: what may be set.
    """

    name: str
    kind: str
    source: str
    honours: tuple[str, ...]
    knows: str
    means: str
    params: tuple[Param, ...]


def find_policy(text: str) -> tuple[str, AnyPolicy]:
    """Return a policy that follows the contract, with its full name.

    Args:
        text: a name of the catalogue, or `path.py:Name`.

    Raises:
        PolicyError: there is no such policy, or the name stands for more than one.
    """
    if is_user_file(text):
        path, name, params = split_words(text)
        if params:
            raise PolicyError(f"{text}: found parameters, expected path.py or path.py:Name")
        policy = load_user_policy(text, "policy")
        return (f"{path}:{name}" if name else path), policy
    if text in POLICIES:
        return text, POLICIES[text]
    name, _, params = text.partition(":")
    if name in NATIVE:
        raise PolicyError(
            f"policy: {name} is PyTorch's own allocator, which declares no parameters: `tightfit "
            "tune TRACE` without --policy tunes its settings line, and `tightfit prove` compares "
            "its simulation with the allocator itself"
        )
    if name in PRESETS:
        of, chosen = PRESETS[name]
        raise PolicyError(f"policy: {name} is {of} with {chosen} and no more; expected {of}")
    if name in POLICIES:
        raise PolicyError(f"policy: found the parameters {params!r}, expected {name} alone")
    raise PolicyError(
        f"policy: found '{text}', expected path.py, path.py:Name or one of {', '.join(POLICIES)}"
        + did_you_mean(text, POLICIES)
    )


def native_line(name: str, colon: str, rest: str) -> str:
    """The settings line that `pytorch`, `pytorch:LINE` or a name for one line stands for.

    Args:
        name: one of NATIVE.
        colon, rest: what stands behind it, "" if nothing does.

    Raises:
        PolicyError: a line stands behind the name of another.
    """
    if colon and NATIVE[name]:
        raise PolicyError(
            f"{name}: found {rest!r} behind it, but it is the line {NATIVE[name]} and nothing "
            f"else; write 'pytorch:{NATIVE[name]},...'"
        )
    return rest if colon else NATIVE[name]


def native_variant(line: str) -> Variant:
    """PyTorch's own allocator under a settings line, as a policy like any other.

    Raises:
        PolicyError: PyTorch refuses the line.
    """
    parse_settings(line, DEFAULT_RULES)
    source = f"{PYTORCH.source}, DeviceCachingAllocator under the line {line or '(default)'}"
    return Variant(PYTORCH.name, source, line=line)


def describe(name: str, policy: AnyPolicy, means: str = "") -> Described:
    """What there is to know of a policy."""
    kind = "mechanism" if isinstance(policy, Mechanism) else "hooks"
    h = policy.honours
    honours = [word for word in ("streams", "pools", "returns", "shares") if getattr(h, word)]
    honours += [] if live_fault(policy) else ["live"]
    return Described(
        name, "preset" if means else kind, policy.source, tuple(honours), h.knows, means,
        policy.params,
    )  # fmt: skip


def described() -> list[Described]:
    """Every policy with a name, the baseline first."""
    out = [
        Described(
            name, "native", PYTORCH.source, ("streams", "pools", "returns", "live"), "",
            line or "any settings line behind a colon", (),
        )
        for name, line in NATIVE.items()
    ]  # fmt: skip
    out += [describe(name, policy) for name, policy in POLICIES.items()]
    out += [
        describe(name, POLICIES[of], f"{of}:{params}") for name, (of, params) in PRESETS.items()
    ]
    return out

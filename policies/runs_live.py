"""Which policies can be the allocator of a running program, and why others cannot."""

from __future__ import annotations

from ..sim.mechanism import Mechanism
from ..traces.errors import PolicyError
from .catalogue import POLICIES
from .playing import AnyPolicy


def live_fault(policy: AnyPolicy) -> str:
    """Why a policy cannot run live, as a sentence; "" if it can."""
    if isinstance(policy, Mechanism) and policy.foresight is not None:
        if policy.honours.knows:
            told = policy.honours.knows
            return f"{policy.name} is told {told}; a running program has nobody to tell it"
        return f"{policy.name} learns from a recorded program, and a running one is not recorded"
    if policy.honours.simulated:
        return f"{policy.name} can be simulated only: {policy.honours.simulated}"
    return ""


def live_names() -> list[str]:
    """Policies of the catalogue that can run live."""
    return [name for name, policy in POLICIES.items() if not live_fault(policy)]


def checked_live(policy: AnyPolicy) -> AnyPolicy:
    """Return a policy that can run live.

    Raises:
        PolicyError: it cannot; the message says why, and which can.
    """
    fault = live_fault(policy)
    if fault:
        raise PolicyError(f"live: {fault}. Live run: {', '.join(live_names())}, or a file's")
    return policy

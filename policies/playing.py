"""Playing: a packed program through any policy, whichever mechanism it runs on."""

from __future__ import annotations

from collections.abc import Mapping

from ..sim.blame import blaming
from ..sim.device import Device
from ..sim.mechanism import Mechanism
from ..sim.mechanism_replay import replay_mechanism
from ..sim.packing import Packed
from ..sim.release import KNOWN, Release, release
from ..sim.replay import replay
from ..sim.run import Run
from .variant import Variant

AnyPolicy = Mechanism | Variant
DEFAULT_RULES = release(KNOWN[-1])  # of PyTorch's allocator, where nobody says otherwise


def play_policy(
    packed: Packed,
    policy: AnyPolicy,
    values: Mapping[str, int] | None = None,
    device: Device = Device(),  # noqa: B008 (frozen)
    rules: Release | None = None,
    *,
    stop_at_oom: bool = True,
    addresses: bool = False,
    track: bool = False,
) -> Run:
    """Replay a packed program through a policy.

    Args:
        packed: the program; a mechanism wants it packed without its start layout.
        policy: who decides.
        values: its parameters by name; missing ones have their defaults.
        device: what the driver can give.
        rules: the release whose allocator a variant changes; None = DEFAULT_RULES.
        stop_at_oom: end at the first out-of-memory error, as the program would; False = drop the
            failed allocation with its free and go on.
        addresses: return the address of every allocation.
        track: keep the full statistics, which a mechanism does not have.

    Raises:
        PolicyError: a value is out of its range, or the policy's own file is at fault.
    """
    with blaming(policy):
        if isinstance(policy, Mechanism):
            return replay_mechanism(
                packed, policy, values, device, stop_at_oom=stop_at_oom, addresses=addresses
            )
        rules = rules or DEFAULT_RULES
        chosen = dict(zip(policy.defaults, policy.checked(values), strict=True))
        requests = policy.requests(packed.program, chosen, device, rules, packed.keeps_start)
        return replay(
            packed, policy, requests, device, later=[(requests, device)] * len(packed.changes),
            stop_at_oom=stop_at_oom, events=addresses, track=track, values=chosen,
        )  # fmt: skip

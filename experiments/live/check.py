"""Checking that a policy can run live: its contract, its C functions, and recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...policies.catalogue import POLICIES
from ...policies.conformance import LENGTH, Verdict, examine
from ...policies.live import setting_of
from ...policies.live_conformance import (
    LIVE_CLAIMS,
    as_asked_live,
    difference,
    most_live_operations,
)
from ...policies.live_setting import Setting
from ...policies.playing import AnyPolicy
from ...policies.user_file import is_user_file, split_words
from ...sim.packing import pack
from ...traces.units import GiB
from ..policy_check import Report, check_policy, try_claims
from ..screen import progress
from ..subject import Subject, load_subjects, refuse_long

# Of the device on which recordings are tried: more than any has, and little enough for the
# reservations of expandable segments, which are as large, to fit into the addresses there are.
CAPACITY = 256 * GiB


def check_live(text: str, traces: Sequence[Path], operations: int) -> Report:
    """Try a policy on the contract of every policy, and on that of those that run live.

    Args:
        text: the policy as users write it; the recordings are tried with its parameters, the
            claims with the defaults and both ends of each.
        traces: recordings whose requests are put to it.
        operations: random operations of each of the larger claims, at the least.

    Raises:
        PolicyError: there is no such policy, or it cannot run live.
        TraceError: a recording cannot be read.
        ConfigError: it is a long trace.
    """
    setting = setting_of(text)
    for path in traces:
        refuse_long(path, "live --check")
    subjects = [subject for path in traces for subject in load_subjects(path)]
    report = replace(_contract(text, setting.policy, operations), policy=text)
    if not report.holds:
        return report
    found = list(report.verdicts)
    total = most_live_operations(setting.policy, operations)
    total += sum(subject.program.n_ops for subject in subjects)
    with progress(total, "trying it live") as advance:
        found += examine(setting.policy, LIVE_CLAIMS, operations, LENGTH, advance)
        for subject in subjects:
            found.append(_try_recording(subject, setting))
            advance(subject.program.n_ops)
    return replace(report, verdicts=found)


def _try_recording(subject: Subject, setting: Setting) -> Verdict:
    """Put a recording's requests to a live policy."""
    packed = pack(as_asked_live(subject.program), keep_start=False)
    fault = difference(packed, replace(setting, capacity_bytes=CAPACITY))
    words = f"{Path(subject.name).name}, device {subject.device}: every address is simulated."
    return Verdict("live: recording", words, not fault, len(packed.events), fault)


def _contract(text: str, policy: AnyPolicy, operations: int) -> Report:
    """What every policy must keep; PyTorch's own has no file that could be tried uncompiled."""
    if is_user_file(text):
        path, name, _ = split_words(text)
        return check_policy(f"{path}:{name}" if name else path, operations)
    if policy.name in POLICIES:
        return check_policy(policy.name, operations)
    return Report(text, policy.source, try_claims(policy, operations), None)

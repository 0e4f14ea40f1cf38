"""Checking a policy: without compiled code first, where a mistake has a line, then at full size.

Compiled code checks no index: a policy that leaves its arrays would end the process. So a small
trial runs without compiled code in a process of its own, which is stopped if it does not end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from ..policies.conformance import CLAIMS, LENGTH, Verdict, examine, most_operations
from ..policies.named import find_policy
from ..policies.playing import AnyPolicy, play_policy
from ..sim.packing import pack
from ..traces.errors import PolicyError, TightfitError
from ..traces.jit import watching_compiler
from ..traces.script import Script
from .options import MAIN_PATH_SECONDS
from .screen import announce_more_compiling, progress

PLAIN = "plain Python"
PLAIN_WORDS = "The claims hold without compiled code too, where every index is checked."
PLAIN_OPS, PLAIN_LENGTH = 1500, 600  # operations, steps of a program
PLAIN_SECONDS = 120  # until a trial counts as endless


@dataclass(frozen=True)
class Report:
    """What became of every claim about a policy.

    Attributes:
        policy, source: what it is called, and where it is from.
        verdicts: on the claims.
        compile_seconds: what the compiler worked; 0 = an earlier run had compiled it, None = it
            came to no compiling.
    """

    policy: str
    source: str
    verdicts: list[Verdict]
    compile_seconds: float | None

    @property
    def holds(self) -> bool:
        """Every claim was tried, and nothing was found against any."""
        return all(v.holds for v in self.verdicts)

    @property
    def operations(self) -> int:
        """Operations replayed for all claims."""
        return sum(v.operations for v in self.verdicts)

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        broken = [v.claim for v in self.verdicts if v.holds is False]
        if broken:
            return f"{self.policy} BREAKS THE CONTRACT: {', '.join(broken)}"
        return (
            f"{self.policy} keeps the contract: {len(self.verdicts)} claims on "
            f"{self.operations:,} operations"
        )

    def document(self) -> dict[str, Any]:
        """The report as `--json` prints it."""
        return {
            "policy": self.policy, "source": self.source, "holds": self.holds,
            "verdict": self.verdict, "operations": self.operations,
            "compile_seconds": self.compile_seconds, "claims": self.verdicts,
        }  # fmt: skip


def check_policy(name: str, operations: int) -> Report:
    """Try every claim on a policy.

    Args:
        name: a file, a file and a name in it, or a name of the catalogue.
        operations: random operations of the claims about blocks, at the least.

    Raises:
        PolicyError: there is no such policy, or its file cannot be compiled.
    """
    label, policy = find_policy(name)
    first = _plain_trial(name)
    if not first.holds:
        rest = [Verdict(c.name, c.words, None, 0) for c in CLAIMS]
        return Report(label, policy.source, [first, *rest], None)
    announce_more_compiling(MAIN_PATH_SECONDS)
    with watching_compiler() as compiled:
        play_policy(pack(Script().program()), policy)  # compiles, or says why not
        seconds = compiled()
    return Report(label, policy.source, [first, *try_claims(policy, operations)], seconds)


def try_claims(policy: AnyPolicy, operations: int) -> list[Verdict]:
    """Try the contract of every policy at full size, and show how far it is."""
    with progress(most_operations(policy, operations), "trying claims") as advance:
        return list(examine(policy, CLAIMS, operations, LENGTH, advance))


def _plain_trial(name: str) -> Verdict:
    """A small trial of all claims in a process without compiled code.

    Raises:
        PolicyError: the policy's file fails there.
    """
    words = [sys.executable, "-m", "tightfit.experiments.policy_check", name]
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    try:
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=PLAIN_SECONDS
        )
    except subprocess.TimeoutExpired:
        fault = f"no end after {PLAIN_SECONDS} s of a small trial: a loop that does not end?"
        return Verdict(PLAIN, PLAIN_WORDS, False, 0, fault)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        tail = " ".join(done.stderr.split())[-300:]
        raise PolicyError(f"{name}: the trial without compiled code failed: {tail}") from None
    if "error" in answer:
        raise PolicyError(answer["error"])
    return Verdict(PLAIN, PLAIN_WORDS, answer["holds"], answer["operations"], answer["fault"])


def _try_plainly(policy: AnyPolicy) -> dict[str, Any]:
    """All claims at a small size; the first that is broken ends it."""
    operations = 0
    for verdict in examine(policy, CLAIMS, PLAIN_OPS, PLAIN_LENGTH):
        operations += verdict.operations
        if not verdict.holds:
            fault = f"{verdict.claim}: {verdict.fault}"
            return {"holds": False, "operations": operations, "fault": fault}
    return {"holds": True, "operations": operations, "fault": ""}


if __name__ == "__main__":
    try:
        print(json.dumps(_try_plainly(find_policy(sys.argv[1])[1])))
    except TightfitError as error:
        print(json.dumps({"error": str(error)}))

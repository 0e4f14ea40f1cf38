"""What a policy in a user's file costs beside PyTorch's own."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ...policies.native import replay_native, requests_of
from ...policies.user_file import load_user_policy
from ...policies.variant import Variant
from ...sim.device import Device
from ...sim.packing import pack
from ...sim.replay import replay
from ...sim.settings import Settings
from ...traces.errors import VerificationError
from ...traces.synthetic import random_sizes
from ..policy_template import HOOKS
from .cases import RULES

SAME = {"least": 512}  # with this the template decides as PyTorch does, so the work is the same


def hooks_beside_native(n_ops: int, runs: int) -> dict[str, Any]:
    """Replay one program by the native kernel and by the template of `policy new`, in turn.

    Returns:
        native_ns, hooks_ns (processor time per event, medians) and their ratio.

    Raises:
        VerificationError: they do not decide the same.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mine.py"
        file.write_text(HOOKS.format(name="Mine", plain="mine"), encoding="utf-8")
        policy = load_user_policy(str(file))
        assert isinstance(policy, Variant)
        packed = pack(random_sizes(n_ops))
        requests = requests_of(packed.program, Settings(), RULES, Device())
        native, hooks = [], []
        for k in range(runs + 1):
            start = time.thread_time_ns()
            one = replay_native(packed, Settings(), RULES, skip=False)
            middle = time.thread_time_ns()
            other = replay(packed, policy, requests, values=SAME, skip=False)
            end = time.thread_time_ns()
            if one.stats != other.stats:
                raise VerificationError("bench: the template of a policy decides otherwise")
            if k:  # the first turn compiles
                native.append((middle - start) / len(packed.events))
                hooks.append((end - middle) / len(packed.events))
    native_ns, hooks_ns = statistics.median(native), statistics.median(hooks)
    return {"native_ns": native_ns, "hooks_ns": hooks_ns, "ratio": hooks_ns / native_ns}

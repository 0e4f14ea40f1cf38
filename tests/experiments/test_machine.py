"""What a benchmark says of the machine."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tightfit.experiments.bench.machine import touched_bytes
from tightfit.traces.units import MiB


def test_memory_that_is_never_written_is_not_touched() -> None:
    written = touched_bytes(partial(np.ones, 64 * MiB // 8))
    if written is None:
        pytest.skip("this system does not say how much memory is in use")
    reserved = touched_bytes(partial(np.zeros, 64 * MiB // 8))
    assert reserved is not None
    assert 63 * MiB < written < 80 * MiB
    assert reserved < 16 * MiB

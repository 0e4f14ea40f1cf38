"""Subjects: lost frees are settled by replay, releases are found, devices are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tightfit.experiments.release_fit import find_release
from tightfit.experiments.subject import Subject, load_subjects
from tightfit.traces.errors import ConfigError
from tightfit.traces.event import Action
from tightfit.traces.history import lift
from tightfit.traces.load import load

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"


def without_a_free(name: str, nth: int) -> Subject:
    """A recording from which one block's free was lost."""
    recording = load(DATA / f"{name}.npz")
    entries = recording.devices[0].entries
    requests = np.flatnonzero(entries["action"] == Action.FREE_REQUESTED)
    gone = requests[nth]
    keep = np.ones(len(entries["action"]), bool)
    keep[[gone, gone + 1]] = False
    assert entries["action"][gone + 1] == Action.FREE_COMPLETED
    recording.devices[0].entries = {k: v[keep] for k, v in entries.items()}
    return Subject(name, recording, lift(recording, 0))


@pytest.mark.parametrize("nth", [100, 400, 700])
def test_a_lost_free_is_named_and_everything_else_is_exact(nth: int) -> None:
    subject = without_a_free("cnn_resolutions.default", nth)
    (found,) = find_release([subject], None).exactness
    assert found.lost_frees == 1
    assert not found.complete
    assert found.allocs_exact == found.allocs
    assert found.segments_exact == found.segments


def test_the_newest_release_that_reproduces_the_recording_is_found() -> None:
    fit = find_release(load_subjects(DATA / "gpt_bf16_varlen.default.npz"), None)
    assert fit.rules.name == "2.15"
    assert "reproduce everything" in fit.words


def test_an_address_ordered_recording_is_not_taken_for_a_newer_one(shared: Path) -> None:
    fit = find_release(load_subjects(shared / "traces" / "opt_zeroth_order.pickle"), None)
    assert fit.rules.tie_break == "address"


def test_a_device_without_history_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(ConfigError, match="device 3, expected one of 0"):
        load_subjects(DATA / "streams.default.npz", device=3)

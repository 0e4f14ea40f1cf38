"""What the recording at hand cannot show about other settings: said wherever it may matter.

The proof of predictions (`tightfit prove --predictions`) excludes exactly these, and checks that
they are said.
"""

from __future__ import annotations

import numpy as np

from ..sim.release import Release
from ..sim.run import Run
from ..traces.event import Action
from ..traces.program import Op
from ..traces.recording import Finding
from .subject import Subject

ABOUT_EMPTY_CACHE = "unseen_empty_cache"
ABOUT_CAPTURE = "unseen_capture"
ABOUT_POOL_RELEASE = "unseen_pool_release"
ABOUT_COMPLETION = "unseen_completion"
ABOUT_POOL = "unseen_pool"
ABOUT_FAILED_SIZE = "unseen_size"
ABOUT_REJECTION = "unseen_rejection"

_TEXTS = {
    ABOUT_EMPTY_CACHE: "calls of empty_cache that released nothing leave no trace",
    ABOUT_CAPTURE: "graph captures leave no trace; inside one, cached memory is not given back "
    "before an out-of-memory error",
    ABOUT_POOL_RELEASE: "no recording shows when a memory pool lost its last user: here it keeps "
    "its memory for as long as it did when recorded",
    ABOUT_COMPLETION: "frees of memory that another stream used complete when they did when "
    "recorded, or when all streams are waited for; why they completed is not recorded",
    ABOUT_POOL: "releases until 2.11 do not record which private pool memory came from: what was "
    "released before the end is assigned by what it served, else to the default pools",
    ABOUT_FAILED_SIZE: "a request that failed is recorded with its size rounded up, and until 2.11 "
    "without its pool",
    ABOUT_REJECTION: "requests that throw_on_cudamalloc_oom rejected leave no trace",
}


def unseen_notes(subject: Subject, rules: Release, run: Run) -> list[Finding]:
    """Return what bears on a replay under conditions other than the recorded ones.

    Args:
        subject: the recorded program.
        rules: the release.
        run: the replay.
    """
    program, entries = subject.program, subject.recording.devices[subject.device].entries
    ops = set(np.unique(program.op).tolist())
    if not subject.shows_driver and Op.TRY not in ops:
        return []  # another tool's trace: what that lacks is said when it is read
    returned = np.isin(entries["action"], (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP)).any()
    stats = run.stats
    ran_out = stats["num_alloc_retries"] + stats["num_ooms"] > 0
    applies = {
        ABOUT_EMPTY_CACHE: True,
        ABOUT_CAPTURE: ran_out or Op.EMPTY_CACHE in ops,
        ABOUT_POOL_RELEASE: len(program.pools) > 1,
        ABOUT_COMPLETION: Op.FREE_LATER in ops,
        ABOUT_POOL: not entries["pool"].any() and bool(returned),
        ABOUT_FAILED_SIZE: Op.TRY in ops,
        ABOUT_REJECTION: subject.recorded_settings(rules)[0].throw_on_cudamalloc_oom,
    }
    return [Finding(kind, 1, _TEXTS[kind], subject.device) for kind, yes in applies.items() if yes]

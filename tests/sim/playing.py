"""Short ways to play a script through the reference and to say what came out."""

from __future__ import annotations

from tightfit.sim.device import FIRST_ADDRESS
from tightfit.sim.reference import replay_reference
from tightfit.sim.release import release
from tightfit.sim.run import Run
from tightfit.sim.settings import Settings
from tightfit.traces.event import Action
from tightfit.traces.units import MiB

from ..strategies import Script

ON, OFF = Settings(expandable_segments=True), Settings()
SEGMENT_ACTIONS = (
    Action.SEGMENT_ALLOC,
    Action.SEGMENT_FREE,
    Action.SEGMENT_MAP,
    Action.SEGMENT_UNMAP,
)


def play(script: Script, settings: Settings = OFF, torch: str = "2.15", **kwargs: object) -> Run:
    return replay_reference(script.program(), settings, release(torch), **kwargs)  # pyright: ignore


def blocks(run: Run) -> list[list[str]]:
    """Write the final layout as "16A" (MiB, A/I/P) per block, one list per segment."""
    assert run.layout is not None
    rows = run.layout.blocks
    return [
        [
            f"{rows['size'][k] / MiB:g}{'IAP'[rows['state'][k]]}"
            for k in range(first, first + run.layout.segments["n_blocks"][i])
        ]
        for i, first in enumerate(run.layout.segments["first_block"])
    ]


def segments(run: Run, first_op: int = 0) -> list[tuple[str, float, float]]:
    """Return the driver's calls since an op as (action, offset of the address, size), in MiB."""
    return [
        (Action(e["action"]).name.lower(), (int(e["addr"]) - FIRST_ADDRESS) / MiB, e["size"] / MiB)
        for e in run.events
        if e["action"] in SEGMENT_ACTIONS and e["op"] >= first_op
    ]


def actions(run: Run, op: int) -> list[str]:
    return [Action(e["action"]).name.lower() for e in run.events if e["op"] == op]


def offsets(run: Run) -> list[float]:
    """Offset of every allocation from the first address, in MiB."""
    return [(int(a) - FIRST_ADDRESS) / MiB for a in run.addr]

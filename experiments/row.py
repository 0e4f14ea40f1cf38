"""One row of a comparison: a policy, a bound or a packing on one recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..policies.contender import Contender
from ..policies.live_bytes import peak_live_bytes
from ..policies.packing import pack as pack_buffers
from ..policies.packing_of_program import buffers_of
from ..sim.costs import Cost, driver_seconds
from ..sim.device import Device
from ..sim.packing import Packed
from ..sim.run import Run
from .smallest import Smallest, find_smallest, ran
from .subject import Subject

# What no policy can go below, the weakest first: label, source, bytes of a packed program.
BOUNDS: tuple[tuple[str, str, Callable[[Packed], int]], ...] = (
    ("peak live bytes", "the program holds that much at once", peak_live_bytes),
)


PACKING = "best packing found"
PACKING_SOURCE = "skyline and first-fit packings, then an exact search: policies/packing.py"


@dataclass(frozen=True)
class Row:
    """One policy, or one bound, on one recording; simulated.

    Attributes:
        policy: as the user wrote it; for a bound its name.
        role: "bound" (no policy can go below it), "offline" (a packing found with all of the
            program known), "baseline", "told" (a policy that is told something of the program
            before it runs) or "policy".
        source: the paper or the code that it follows.
        peak_reserved_bytes: on the device asked about; None if it ran out of memory there.
        above_bound: share by which that exceeds the peak of live bytes.
        peak_allocated_bytes: most bytes in blocks handed out, until the end or the failure.
        device_allocs, device_frees, alloc_retries: successful driver calls, second attempts.
        driver_seconds: what the driver's calls take, by the table of costs; simulated.
        proven_bytes: for a packing, what none can go below; equal to the peak: no packing is lower.
        ooms: 1 if it ran out of memory; the replay ends there.
        first_oom_event: recorded entry at which it did; None = it did not.
        first_oom_bytes: what was asked for then.
        min_capacity_bytes: smallest device that the program runs on, the memory of others
            included; None = not asked, or it runs on none.
        min_capacity_proven: no smaller one is large enough; every size was tried.
        sure_capacity_bytes: from here on all sizes that were tried are large enough.
        ignores: what the program has that the policy does not honour.
    """

    policy: str
    role: str
    source: str
    peak_reserved_bytes: int | None
    above_bound: float | None
    peak_allocated_bytes: int | None = None
    device_allocs: int | None = None
    device_frees: int | None = None
    alloc_retries: int | None = None
    driver_seconds: float | None = None
    proven_bytes: int | None = None
    ooms: int = 0
    first_oom_event: int | None = None
    first_oom_bytes: int | None = None
    min_capacity_bytes: int | None = None
    min_capacity_proven: bool = False
    sure_capacity_bytes: int | None = None
    ignores: tuple[str, ...] = ()


def packing_row(packed: Packed, seconds: float, bound: Row) -> Row:
    """The best packing that a search of so many seconds finds.

    Raises:
        KeyboardInterrupt: the user ended the search.
    """
    found = pack_buffers(buffers_of(packed), seconds=seconds)
    if found.interrupted:
        raise KeyboardInterrupt
    least = bound.peak_reserved_bytes or 0
    return Row(
        PACKING, "offline", PACKING_SOURCE, found.height,
        found.height / least - 1 if least else None, proven_bytes=found.bound,
    )  # fmt: skip


def row_of(
    subject: Subject,
    policy: Contender,
    gpu: Device,
    run: Run,
    bound: int,
    costs: dict[str, Cost] | None,
) -> Row:
    """What a policy's run on a device comes to.

    Args:
        subject: whose program it was.
        policy: who decided.
        gpu: the device.
        run: the run.
        bound: peak of live bytes.
        costs: what the driver's calls take; None = the shipped table.
    """
    stats = run.stats
    failed = not ran(run)
    peak = None if failed else stats["reserved_bytes.all.peak"]
    event = None
    if failed:
        event = subject.program.entry_of(run.first_oom_op) if run.first_oom_op >= 0 else 0
    return Row(
        policy=policy.label,
        role="baseline" if policy.is_baseline else "told" if policy.knows else "policy",
        source=policy.source,
        peak_reserved_bytes=peak,
        above_bound=peak / bound - 1 if peak is not None and bound else None,
        peak_allocated_bytes=stats["allocated_bytes.all.peak"],
        device_allocs=stats["num_device_alloc"],
        device_frees=stats["num_device_free"],
        alloc_retries=stats["num_alloc_retries"],
        driver_seconds=driver_seconds(run.work, costs),
        ooms=int(failed),
        first_oom_event=event,
        first_oom_bytes=run.first_oom_bytes if failed else None,
        ignores=tuple(policy.ignores(subject.program, gpu)),
    )


def bound_rows(packed: Packed) -> list[Row]:
    """What no policy can go below on a program."""
    return [Row(label, "bound", source, size(packed), None) for label, source, size in BOUNDS]


def smallest_of(policy: Contender, packed: Packed, gpu: Device) -> Smallest | None:
    """The smallest device that a program runs on under a policy; None = there is none."""

    def play(total: int) -> Run:
        return policy.replay(packed, replace(gpu, capacity_bytes=total))

    free = policy.replay(packed, Device())
    return find_smallest([play], [free], gpu.other_bytes) if ran(free) else None

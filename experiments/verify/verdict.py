"""The verdict on one line, from what its stages found."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...traces.units import format_bytes
from .budget import Budget
from .counters import Counters
from .placement import Placement

CONFIRMED, BYTES_ONLY, NOT_CONFIRMED = "confirmed", "bytes only", "not confirmed"
UNFINISHED = "unfinished"  # no verdict: the same command goes on


@dataclass(frozen=True)
class LineResult:
    """What was found of one line.

    Attributes:
        role, conf: the line and its part in the check.
        refused: why the line was refused, by the simulator's parser or PyTorch's; "" = accepted.
        placement, counters, budget: the stages; None = not finished.
        died: stage -> what ended its process.
        predicted_peak_bytes: peak reserved; simulated.
    """

    role: str
    conf: str
    refused: str = ""
    placement: Placement | None = None
    counters: Counters | None = None
    budget: Budget | None = None
    died: dict[str, str] = field(default_factory=dict)
    predicted_peak_bytes: int = 0

    @property
    def verdict(self) -> str:
        """One of the three words, or "unfinished"."""
        if self.refused or self.died:
            return NOT_CONFIRMED
        c, b, p = self.counters, self.budget, self.placement
        if (c is not None and not (c.bytes_agree and c.witness_agrees)) or (
            b is not None and not (b.is_equal or b.is_near)
        ):
            return NOT_CONFIRMED
        if c is None or b is None or p is None:
            return UNFINISHED
        exact = p.is_exact and c.is_exact and b.is_equal and not b.wrong
        return CONFIRMED if exact else BYTES_ONLY

    @property
    def reasons(self) -> list[str]:
        """Why it is not "confirmed", most telling first."""
        out = [f"refused: {self.refused}"] if self.refused else []
        out += [f"{stage}: {why}" for stage, why in self.died.items()]
        c, b, p = self.counters, self.budget, self.placement
        if c is not None:
            if c.oom_step != c.predicted_oom_step:
                out.append(
                    f"V2: memory ran out at step {c.oom_step}, predicted {c.predicted_oom_step}"
                )
            out += _wrong("V2", c.wrong)
            if c.unstable:
                out.append(f"V2: {len(c.unstable)} counters differ between repeats: "
                           + ", ".join(sorted(c.unstable)[:4]))  # fmt: skip
            if not c.witness_agrees:
                out.append(
                    f"V2: the device says that {format_bytes(c.taken[1])} are gone, the allocator "
                    f"holds {format_bytes(c.reserved[1])}"
                )
        if b is not None:
            if not b.is_equal:
                out.append(f"V2b: smallest limit {_size(b.measured)}, predicted "
                           f"{_size(b.predicted)}")  # fmt: skip
            out += _wrong("V2b", b.wrong)
        if p is not None and not p.is_exact:
            told = " (exact once the driver's addresses are known)"
            out.append(f"V1: {p.divergence}" + (told if p.exact_when_told else ""))
        return out

    @property
    def notes(self) -> list[str]:
        """What does not speak against the line, and should be known."""
        p, b = self.placement, self.budget
        out = []
        if p is not None and p.by_address and p.unaided_exact < p.events:
            out.append(
                f"V1: without the driver's addresses {p.unaided_exact:,} of {p.events:,} events "
                "are predicted before the first that is not"
            )
        if b is not None and b.told and b.predicted != b.measured:
            out.append(
                f"V2b: without the driver's addresses the smallest limit is predicted as "
                f"{_size(b.predicted)}; it is {_size(b.measured)}"
            )
        return out


def _size(value: int | None) -> str:
    return "none" if value is None else format_bytes(value)


def _wrong(stage: str, wrong: dict[str, tuple[int, int]]) -> list[str]:
    return [f"{stage}: {name} = {real:,}, predicted {mine:,}"
            for name, (mine, real) in list(wrong.items())[:4]]  # fmt: skip


def overall(results: list[LineResult]) -> str:
    """The worst of the lines' verdicts."""
    order = (NOT_CONFIRMED, UNFINISHED, BYTES_ONLY, CONFIRMED)
    return min((r.verdict for r in results), key=order.index, default=UNFINISHED)

"""What V3 found, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ...traces.units import format_bytes
from ...traces.whole_file import replacing
from .workload import WorkloadResult


def describe(result: WorkloadResult, name: str) -> list[str]:
    """Return the verdict and one line of text per settings line."""
    where = "a GPU"
    if result.stand_in:
        where = f"stand-in for {result.stand_in}, whose times mean nothing"
    tau = "–" if result.tau is None else f"{result.tau:.3f}"
    out = [f"{result.verdict.upper()} on {where}: {name}, Kendall's tau {tau}"]
    for x in result.lines:
        time = "" if x.ratio is None else f"{x.ratio:.3f}"
        if x.low is not None and x.high is not None:
            time += f" [{x.low:.3f}, {x.high:.3f}]"
        out += [f"  failed under {x.conf or 'the default'}: {why}" for why in x.failed]
        out.append(
            f"  {x.role:9} predicted {format_bytes(x.predicted):>12}  measured "
            f"{format_bytes(x.peak):>12}  step time {time:22} {x.conf or '(default)'}"
        )
    return out


def write_workload(result: WorkloadResult, command: Sequence[str], path: Path) -> None:
    """Write every figure as JSON."""
    document = {"verdict": result.verdict, "command": list(command), **asdict(result)}
    with replacing(path) as out:
        out.write((json.dumps(document, indent=1) + "\n").encode())

"""What V3 found, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ... import __version__
from ...traces.units import format_bytes
from ...traces.whole_file import replacing
from .workload import RESAMPLES, Measured, WorkloadResult


def describe(result: WorkloadResult, name: str) -> list[str]:
    """Return the verdict and one line of text per settings line."""
    where = "a GPU"
    if result.stand_in:
        where = f"stand-in for {result.stand_in}, whose times mean nothing"
    tau = "–" if result.tau is None else f"{result.tau:.3f}"
    out = [f"{result.verdict.upper()} on {where}: {name}, Kendall's tau {tau}"]
    for x in result.lines:
        out += [f"  failed under {x.conf or 'the default'}: {why}" for why in x.failed]
        out.append(
            f"  {x.role:9} predicted {format_bytes(x.predicted):>12}  measured "
            f"{format_bytes(x.peak):>12}  step time {_time(x):22} {x.conf or '(default)'}"
        )
    return out


def markdown(result: WorkloadResult, command: Sequence[str], name: str) -> str:
    """Return the sheet for people."""
    facts = result.facts
    default = next((x for x in result.lines if x.role == "default"), None)
    out = [
        f"# {describe(result, name)[0]}",
        "",
        f"* program: `{' '.join(Path(word).name for word in command)}`",
        f"* device: {'**stand-in**, no GPU: ' if result.stand_in else ''}{facts.get('gpu', '–')}, "
        f"{format_bytes(facts.get('total', 0))}; torch {facts.get('torch', '–')}, CUDA "
        f"{facts.get('cuda', '–')}, driver {facts.get('driver') or 'none'}",
        f"* recording of the first run: sha256 `{facts.get('recording_sha256', '–')}`",
        f"* {result.date}; tightfit {__version__}; bootstrap of {RESAMPLES:,} resamples, seed "
        f"{result.seed}; Kendall's tau over {len(result.lines)} lines "
        + ("–" if result.tau is None else f"{result.tau:.3f}"),
        f"* clock of the multiprocessors at the end of the measured runs: {_clocks(result)}",
        "",
        "| line | part | peak reserved, predicted | measured | range | runs | step time against "
        "the default, 95 % interval | retries |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for x in result.lines:
        span = f"{format_bytes(max(x.peaks) - min(x.peaks))}" if x.peaks else "–"
        out.append(
            f"| `{x.conf or '(default)'}` | {x.role} | {format_bytes(x.predicted)} | "
            f"{format_bytes(x.peak) if x.peaks else 'failed'} | {span} | {len(x.peaks)} | "
            f"{_time(x)} | {x.retries} |"
        )
    winner = next((x for x in result.lines if x.role == "winner"), None)
    if default is not None and winner is not None and default.peaks and winner.peaks:
        out += [
            "",
            f"`{winner.conf}` promises {format_bytes(default.predicted - winner.predicted)} less; "
            f"measured were {format_bytes(default.peak - winner.peak)} less.",
        ]
    failed = [(x.conf, why) for x in result.lines for why in x.failed]
    if failed:
        out += ["", "Failed runs:", ""]
        out += [f"* under `{conf or '(default)'}`: {why}" for conf, why in failed]
    return "\n".join(out) + "\n"


def _clocks(result: WorkloadResult) -> str:
    """What the times of the lines that are compared were measured at."""
    found = [mhz for x in result.lines if x.role != "ladder" for mhz in x.sm_mhz if mhz]
    return f"{min(found):,} to {max(found):,} MHz" if found else "not told"


def _time(x: Measured) -> str:
    if x.ratio is None:
        return "–"
    if x.low is None or x.high is None:
        return f"{x.ratio:.3f}"
    return f"{x.ratio:.3f} [{x.low:.3f}, {x.high:.3f}]"


def write_workload(
    result: WorkloadResult, command: Sequence[str], name: str, folder: Path
) -> list[Path]:
    """Write NAME.workload.json with every figure, and NAME.workload.md for people."""
    document = {"tightfit": __version__, "verdict": result.verdict, "command": list(command),
                **asdict(result)}  # fmt: skip
    written = []
    for suffix, text in (
        (".workload.json", json.dumps(document, indent=1) + "\n"),
        (".workload.md", markdown(result, command, name)),
    ):
        path = folder / (name + suffix)
        with replacing(path) as out:
            out.write(text.encode(errors="backslashreplace"))  # a name need not be UTF-8
        written.append(path)
    return written

"""docs/gpu.md, from the results of the prepared runs.

    python -m tightfit.experiments.gpu.page [RESULTS] [-o docs/gpu.md] [--rehearsal]

RESULTS holds what the runs left, in any folders below it; by default experiments/gpu/results. What
a stand-in left is passed over, and without a result of a GPU no page is written: exit code 1. With
--rehearsal only what a stand-in left is shown, and the page says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...sim.costs import CALLS
from ...traces.errors import ConfigError
from ...traces.units import MiB, format_bytes
from ...traces.whole_file import replacing
from ..verify.cost_table import cost_table, under_load
from .habits import describe_habits, describe_libraries

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parents[1] / "docs" / "gpu.md"
MOST = 8  # kinds of difference that are named for each pair
NOTHING = "no result of a GPU was found; nothing has been run on one yet, and no page is written"


@dataclass(frozen=True)
class Results:
    """What the runs left; each is a document with where it was found in `found_in`."""

    sheets: list[dict[str, Any]]
    workloads: list[dict[str, Any]]
    first_blocks: list[dict[str, Any]]
    habits: list[dict[str, Any]]
    libraries: list[dict[str, Any]]
    costs: list[dict[str, Any]]
    pairs: list[dict[str, Any]]

    @property
    def is_empty(self) -> bool:
        return not any(vars(self).values())


def collect(folder: Path, rehearsal: bool = False) -> Results:
    """Read every result below a folder: those of a GPU, or those of a stand-in.

    Raises:
        ConfigError: a file is no result.
    """

    def read(pattern: str) -> Iterator[dict[str, Any]]:
        for path in sorted(folder.rglob(pattern)):
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ConfigError(f"{path}: not a result of a run: {error}") from None
            yield {**document, "found_in": path.relative_to(folder).as_posix()}

    def of_kind(pattern: str) -> list[dict[str, Any]]:
        return [d for d in read(pattern) if bool(d.get("stand_in")) == rehearsal]

    pairs = [pair for document in read("comparison.json") for pair in document["pairs"]]
    wanted = "stand-in" if rehearsal else "gpu"
    return Results(
        of_kind("*.sheet.json"), of_kind("*.workload.json"),
        [row for document in of_kind("first_block.json") for row in document["first_blocks"]],
        of_kind("habits.json"),
        of_kind("libraries.json"), of_kind("costs.json"),
        [pair for pair in pairs if pair["modes"][0] == wanted],
    )  # fmt: skip


def page(results: Results, rehearsal: bool = False) -> str:
    """Return the page; sections without a result are left out."""
    out = ["# On a real GPU" if not rehearsal else "# Rehearsal on a stand-in for a GPU", ""]
    if rehearsal:
        out += ["**Nothing here was measured on a GPU.** PyTorch and its allocator are the real "
                "ones, kernels did nothing, and times mean nothing.", ""]  # fmt: skip
    out += [
        "Written by `python -m tightfit.experiments.gpu.page` from the results in "
        "[experiments/gpu](../experiments/gpu/README.md), which says how each was obtained.",
        "",
    ]
    for title, lines in (
        ("Predictions put to the real allocator", _sheets(results.sheets)),
        ("Programs run under several lines", _workloads(results.workloads)),
        ("One block first, found by replay", _first_blocks(results.first_blocks)),
        ("The stand-in against the GPU, allocation by allocation", _pairs(results.pairs)),
        ("Habits of the driver", _habits(results.habits)),
        ("What libraries keep for themselves", _libraries(results.libraries)),
        ("What the driver's calls cost", _costs(results.costs)),
    ):
        if lines:
            out += [f"## {title}", "", *lines, ""]
    return "\n".join(out).rstrip() + "\n"


def _where(document: dict[str, Any]) -> str:
    facts = document.get("facts") or document
    return f"{facts.get('gpu')}, torch {facts.get('torch')}, driver {facts.get('driver') or 'none'}"


def _size(value: int | None) -> str:
    return "–" if value is None else format_bytes(value)


def _sheets(sheets: list[dict[str, Any]]) -> list[str]:
    if not sheets:
        return []
    confirmed = sum(line["verdict"] == "confirmed" for s in sheets for line in s["lines"])
    total = sum(len(s["lines"]) for s in sheets)
    out = [
        f"{confirmed} of {total} predictions on {len(sheets)} recordings confirmed: every event, "
        "every counter, the smallest limit.",
        "",
        "| recording | line | verdict | events exact | counters exact | peak reserved | smallest "
        "limit | where |",
        "|---|---|---|--:|--:|--:|--:|---|",
    ]
    reasons = []
    for sheet in sheets:
        for line in sheet["lines"]:
            v1, v2, v2b = line["placement"], line["counters"], line["budget"]
            conf = f"`{line['conf'] or '(default)'}`"
            events = f"{v1['events_exact']:,} of {v1['events']:,}" if v1 else "–"
            counters = f"{v2['compared'] - len(v2['wrong'])} of {v2['compared']}" if v2 else "–"
            out.append(
                f"| {sheet['trace'].removesuffix('.npz')} | {conf} | {line['verdict']} | {events} "
                f"| {counters} | {_size(v2 and v2['measured']['reserved_bytes.all.peak'])} | "
                f"{_size(v2b and v2b['measured'])} | {_where(sheet)} |"
            )
            reasons += [f"* {sheet['trace']}, {conf}: {why}"
                        for why in [*line["reasons"], *line["notes"]]]  # fmt: skip
    return [*out, *([""] if reasons else []), *reasons]


def _workloads(workloads: list[dict[str, Any]]) -> list[str]:
    if not workloads:
        return []
    out = [
        "| program | line | part | predicted | measured | step time against the default | where |",
        "|---|---|---|--:|--:|--:|---|",
    ]
    for found in workloads:
        name = Path(found["found_in"]).name.removesuffix(".workload.json")
        tau = "–" if found["tau"] is None else f"{found['tau']:.3f}"
        for x in found["lines"]:
            if x["role"] == "ladder":
                continue
            peaks = sorted(x["peaks"])
            measured = _size(peaks[len(peaks) // 2]) if peaks else "failed"
            time = (
                "–" if x["low"] is None else f"{x['ratio']:.3f} [{x['low']:.3f}, {x['high']:.3f}]"
            )
            out.append(f"| {name} ({found['verdict']}, tau {tau}) | `{x['conf'] or '(default)'}` | "
                       f"{x['role']} | {_size(x['predicted'])} | {measured} | {time} | "
                       f"{_where(found)} |")  # fmt: skip
    return out


def _first_blocks(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    confirmed = sum(row["verdict"] == "confirmed" for row in rows)
    out = [
        f"{confirmed} of {len(rows)} predictions confirmed to the byte; see "
        "[One block first](first-block.md).",
        "",
        "| program | first | held | without | predicted | measured | verdict | where |",
        "|---|---|--:|--:|--:|--:|---|---|",
    ]
    for row in rows:
        sizes = [_size(row[key]) for key in ("held", "without", "predicted", "measured")]
        cells = [row["program"], f"`{row['statement']}`", *sizes, row["verdict"],
                 f"{row['gpu']}, torch {row['torch']}"]  # fmt: skip
        out.append(f"| {' | '.join(cells)} |")
    return out


def _pairs(pairs: list[dict[str, Any]]) -> list[str]:
    if not pairs:
        return []
    met = sum(p["in_order"] for p in pairs)
    total = sum(p["allocations"][0] for p in pairs)
    out = [
        f"Of {total:,} allocations in {len(pairs)} recordings {met:,} "
        f"({met / max(1, total):.2%}) are met on the stand-in in the same order and size.",
        "",
        "| recording | allocations, GPU | stand-in | in order | peak requested, GPU | stand-in | "
        "peak reserved, GPU | stand-in | outside the allocator at the end, GPU |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for p in pairs:
        out.append(
            f"| {p['name'].removesuffix('.npz')} | {p['allocations'][0]:,} | "
            f"{p['allocations'][1]:,} | {p['in_order']:,} | {_size(p['peak_requested'][0])} | "
            f"{_size(p['peak_requested'][1])} | {_size(p['peak_reserved'][0])} | "
            f"{_size(p['peak_reserved'][1])} | {_size(p['outside'][0])} |"
        )
    for side, title in (("only_first", "Only on the GPU"), ("only_second", "Only on the stand-in")):
        rows = [(d["size"] * d["count"], d, p["name"]) for p in pairs for d in p[side][:MOST]]
        if rows:
            out += ["", f"{title}, most bytes first:", "", "| by | size | times | in |",
                    "|---|--:|--:|---|"]  # fmt: skip
            rows.sort(key=lambda row: (-row[0], row[2], row[1]["name"]))
            out += [f"| {d['name']} | {_size(d['size'])} | {d['count']:,} | "
                    f"{name.removesuffix('.npz')} |" for _, d, name in rows]  # fmt: skip
    return out


def _habits(habits: list[dict[str, Any]]) -> list[str]:
    out = []
    for found in habits:
        out += [f"{_where(found)}:", "", *(f"* {x}" for x in describe_habits(found["habits"])), ""]
    return out[:-1]


def _libraries(libraries: list[dict[str, Any]]) -> list[str]:
    out = []
    for found in libraries:
        out += [f"{_where(found)}:", "", *describe_libraries(found["libraries"]), ""]
    return out[:-1]


def _costs(costs: list[dict[str, Any]]) -> list[str]:
    out: list[str] = []
    for found in costs:
        table = cost_table(found, "", found["stand_in"])
        kernel = found["costs"]["kernel"] / 1000
        size = found["costs"]["behind_kernel"]["cudaFree"][0] // MiB
        out += [
            f"{_where(found)}; the last two columns for {size} MiB, the kernel takes {kernel:.0f} "
            "us:",
            "",
            "| call | us a call | us a MiB | idle, us | behind a kernel, us |",
            "|---|--:|--:|--:|--:|",
        ]
        for call in CALLS:
            idle, loaded = under_load(found["costs"], call)
            row = table[call]
            out.append(f"| {call} | {row['call_us']:.2f} | {row['mib_us']:.4f} | {idle:.1f} | "
                       f"{loaded:.1f} |")  # fmt: skip
        out += ["", "| size, idle | cudaMalloc, us | cudaFree, us |", "|---|--:|--:|"]
        for (bytes_, alloc), (_, free) in zip(
            found["costs"]["cudaMalloc"], found["costs"]["cudaFree"], strict=True
        ):
            out.append(f"| {format_bytes(bytes_)} | {alloc / 1000:.1f} | {free / 1000:.1f} |")
        out.append("")
    return out[:-1]


def main(argv: list[str]) -> int:
    """Write the page; 1 = there is nothing to write."""
    parser = argparse.ArgumentParser(prog="python -m tightfit.experiments.gpu.page")
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS)
    parser.add_argument("-o", "--out", type=Path, default=PAGE)
    parser.add_argument("--rehearsal", action="store_true")
    asked = parser.parse_args(argv)
    if asked.rehearsal and asked.out == PAGE:
        print("page: a rehearsal does not go to docs/gpu.md; name a file with -o", file=sys.stderr)
        return 2
    try:
        results = collect(asked.results, asked.rehearsal)
        text = page(results, asked.rehearsal)
    except (KeyError, TypeError) as error:
        print(f"page: {asked.results}: a result lacks {error}; an older version wrote it, run it "
              "again", file=sys.stderr)  # fmt: skip
        return 2
    except ConfigError as error:
        print(f"page: {error}", file=sys.stderr)
        return 2
    if results.is_empty:
        print(f"page: {asked.results}: {NOTHING}", file=sys.stderr)
        return 1
    with replacing(asked.out) as out:
        out.write(text.encode())
    print(f"{asked.out}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

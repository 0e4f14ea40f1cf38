"""docs/exactness.md and the README's line about it, written from what was proven.

    python -m tightfit.experiments.oracle.page docs README.md            writes both anew
    python -m tightfit.experiments.oracle.page docs README.md --check    exit code 1 if they differ

`docs/exactness/` holds the records: fuzz.jsonl (`tightfit prove --log`), predictions.json
(`tightfit prove --predictions --json`), lines.json (`tightfit prove --lines --json`), faults.json
(the module `mutants`).
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...sim.release import KNOWN
from ..corpus.catalogue import AUTOCAST, WORKLOADS
from .defects import OVERSIZE_RELEASE, PART_RELEASE, POOL_COUNT, REUSE_ASSERTION
from .ledger import Entry, read, totals
from .wheels import RELEASES

WIDTH = 100
README_LINE = re.compile(r"(<!-- exactness -->\n).*?(<!-- /exactness -->)", re.DOTALL)

WHY = {
    POOL_COUNT: "PyTorch counts a private pool's segments: one more per request that mapped "
    "memory, one less per unmapped range. Pieces mapped together and unmapped apart bring the "
    "count to zero too early: the pool is deleted while blocks of it are in use, or an assertion "
    "fails. Compared up to the call that does it.",
    OVERSIZE_RELEASE: "With max_split_size_mb and expandable segments the oversize release fails "
    "an assertion when it meets an expandable block. Compared up to the call.",
    PART_RELEASE: "A block of max_split_size or more that has neighbours (memory of a private "
    "pool until 2.4; after the size was changed at run time in every release) is handed to "
    "cudaFree although it is part of a segment. Compared up to the call.",
    REUSE_ASSERTION: "graph_capture_record_stream_reuse asks a stream that is not capturing for "
    "its capture, and a free raises. Compared up to the call.",
}

_HEAD = """# Exactness

Written by `python -m tightfit.experiments.oracle.page docs README.md` from the records in
`docs/exactness`; no number here was typed.

PyTorch's allocator is compiled code in two small libraries of its CUDA wheels. `tightfit prove`
runs them without a GPU, on a stand-in for the CUDA runtime that only keeps account of memory, and
holds the simulator against them. {total}
"""

_FUZZ = """## Random programs

Each program is run by the release's own allocator and by the simulator. Compared are every
returned address, every entry of the history in order, every counter of `memory_stats` and the
final snapshot, block by block. Programs allocate and free on several streams, let other streams
use blocks with work that completes later, empty caches, capture graphs, use and delete private
pools, run out of memory and go on; settings lines are random over all keys the release knows; in
a fifth of the programs lines are set at run time, limits are set by calls, and others take or
give back memory.
"""

_OPEN = """\
Not compared, because the allocator itself leaves it open (it follows the slots of hash tables):
the order in which memory of several private pools comes back within one call, and, where several
other streams used blocks, the order in which their frees complete while the allocator waits for
everything, with the accumulators of `inactive_split` that depend on it. Not generated: pages of
expandable memory that change their size at run time (`large_segment_size_mb` set while segments
expand).
"""

_MINORS = (
    "A patch release follows the rules of its minor, and every minor with rules was run.",
    "A snapshot does not name its release, but its keys and the order in which it uses blocks of "
    "equal size again narrow it down. Of the releases that are left the newest is followed: 2.8, "
    "2.11, 2.12 or {newest}, unless `--torch` names another. What `tightfit record` writes names "
    "its release, and that is followed.",
    "Releases before {oldest} have no rules of their own. Their snapshots follow 2.8 if they hold "
    "the settings (from 2.2 on), else 2.11. Of them only 2.1.2 was driven; it does not round sizes "
    "under `roundup_power2_divisions:1`, as later ones do. `tightfit check` says how much of such "
    "a recording is reproduced.",
)

_PREDICTIONS = """## Predictions

What the product promises: a program that was recorded under one settings line, by the real
allocator, is read back from an ordinary snapshot and replayed under another line and device by
the code behind `tightfit replay`; and the real allocator really runs it there. Compared are
peaks, driver calls, retries, the out-of-memory error and what was asked, every entry of the
history and the final layout, ending at the first out-of-memory error and, where a user asks for
that, going on. *In full*: to the last counter. *Up to a point*: until something matters that no
recording shows; `tightfit replay` says so in a note, and that it does is part of the comparison.
"""

_WHOLE = """### Whole programs

The recordings of [traces/data](../traces/data/README.md) come in pairs, under the default settings
and under `expandable_segments:True`. Each is predicted from the other, and held against what
`memory_stats` of its own run said at the end
([test_predictions.py](../tests/experiments/test_predictions.py),
[test_corpus.py](../tests/experiments/test_corpus.py)). Every counter must be the same, except
"""
_EXCEPT = (
    "`num_sync_all_streams`, left out everywhere: a synchronize that frees nothing leaves no "
    "entry;",
    "`inactive_split` and `inactive_split_bytes`, left out in `test_predictions.py` from one line "
    "to the other: the two runs of `gpt_checkpoint` free the same blocks in different orders, "
    "which shows there and nowhere else;",
    "the same two in {autocast}, where the default is predicted from expandable segments: the end "
    "of `autocast` frees in an order that follows host addresses. How far they may differ is said "
    "in [traces/data](../traces/data/README.md).",
)

_LINES = """## Settings lines

Random and spoilt lines, parsed by each release's compiled parser and by ours: both must accept or
refuse, and every value that was read must be the same.
"""

_FAULTS = """## Planted faults

The comparison is worth what it would notice. Each of these faults was put into a copy of the
simulator, which was then run until it differed from the real allocator (interpreted code, 2.15.0
and 2.9.1 in turn; a copy without a fault showed no difference).
"""


def total_line(entries: Sequence[Entry]) -> str:
    """Return everything that was compared, in one sentence."""
    differences = sum(e.differences for e in entries)
    events = sum(e.events for e in entries)
    programs = sum(e.programs for e in entries)
    releases = len({e.torch for e in entries})
    found = f"{differences:,} differences" if differences else "no difference"
    return (
        f"So far: **{found} in {events:,} events** of {programs:,} random programs on "
        f"{releases} releases, {entries[0].torch} to {entries[-1].torch}."
        if entries
        else "So far: nothing was compared."
    )


def page(folder: Path) -> str:
    """Return the page for the records in a folder.

    Args:
        folder: where fuzz.jsonl and faults.json are.
    """
    entries = sorted(totals(read(folder / "fuzz.jsonl")).values(), key=_age)
    parts = [_HEAD.format(total=total_line(entries)), _FUZZ, _releases(entries), _repeat(entries)]
    parts += [_minors(), _exclusions(entries), _OPEN]
    predictions = folder / "predictions.json"
    if predictions.exists():
        parts += [_PREDICTIONS, _predictions(json.loads(predictions.read_text(encoding="utf-8")))]
        parts += [_WHOLE, _except()]
    lines = folder / "lines.json"
    if lines.exists():
        parts += [_LINES, _lines(json.loads(lines.read_text(encoding="utf-8")))]
    faults = folder / "faults.json"
    if faults.exists():
        parts += [_FAULTS, _faults(json.loads(faults.read_text(encoding="utf-8")))]
    return "\n".join(parts)


def _age(entry: Entry) -> list[int]:
    return [int(part) for part in entry.torch.split(".")]


def _releases(entries: Sequence[Entry]) -> str:
    head = ["torch", "programs", "events", "requests", "out of memory", "differences", "hours",
            "last run"]  # fmt: skip
    rows = [
        [e.torch, f"{e.programs:,}", f"{e.events:,}", f"{e.mallocs:,}", f"{e.ooms:,}",
         f"{e.differences:,}", f"{e.seconds / 3600:.2f}", e.date]
        for e in entries
    ]  # fmt: skip
    sums = [sum(getattr(e, name) for e in entries) for name in ("programs", "events", "mallocs",
            "ooms", "differences")]  # fmt: skip
    hours = sum(e.seconds for e in entries) / 3600
    rows.append(["**all**", *(f"**{n:,}**" for n in sums), f"**{hours:.2f}**", ""])
    return table(head, rows)


def _repeat(entries: Sequence[Entry]) -> str:
    newest = entries[-1].torch if entries else "2.15.0"
    return (
        "The records name the first and the last program of every run. To repeat some, or to add "
        "more:\n\n```sh\n"
        f"tightfit prove --torch {newest} --seed 0 --events 1000000\n"
        "tightfit prove --torch all --events 10000000 --log docs/exactness/fuzz.jsonl\n```\n"
    )


def _minors() -> str:
    """Return which releases have rules, and whose rules a recording follows."""
    return "\n".join(_wrapped(t.format(oldest=KNOWN[0], newest=KNOWN[-1])) for t in _MINORS)


def _except() -> str:
    """Return what is not held against whole programs."""
    autocast = _listed([f"`{w.name}`" for w in WORKLOADS if w.note == AUTOCAST])
    return "".join(_item(text.format(autocast=autocast)) for text in _EXCEPT)


def _wrapped(text: str, first: str = "", later: str = "") -> str:
    """Return a paragraph in lines."""
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=False,
        break_on_hyphens=False,
    ) + "\n"  # fmt: skip


def _item(text: str) -> str:
    """Return an item of a list."""
    return _wrapped(text, "* ", "  ")


def _listed(words: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _again(found: dict[str, Any], option: str, key: str, file: str, of_each: bool = True) -> str:
    """Return the commands that make a record anew: as many, from the same first one on.

    Args:
        found: the record.
        option: which says how many: of each release, or of all together.
        key: how many there were of a release.
        file: where the record lies.
        of_each: the option's number is that of each release.
    """
    asked: dict[tuple[int, int], list[str]] = {}
    for r in found["releases"]:
        asked.setdefault((r["seed"], r[key]), []).append(r["torch"])
    into = f" > docs/exactness/{file}" if len(asked) == 1 else ""
    lines = [
        f"tightfit prove --torch {'all' if tuple(torch) == RELEASES else ','.join(torch)} "
        f"--seed {seed} --{option} {n if of_each else n * len(torch)} --json{into}\n"
        for (seed, n), torch in asked.items()
    ]
    return "\n```sh\n" + "".join(lines) + "```\n"


def _exclusions(entries: Sequence[Entry]) -> str:
    rows = []
    for name in sorted({name for e in entries for name in e.excluded}):
        where = ", ".join(
            f"{e.torch} ({e.excluded[name]:,})" for e in entries if name in e.excluded
        )
        rows.append([name, where, WHY[name]])
    return (
        "### Known defects of PyTorch\n\nA program that reaches one is compared up to there and "
        "no further; everything else is compared to the end.\n\n"
        + table(["defect", "releases (programs)", "what happens"], rows)
    )


def _predictions(found: dict[str, Any]) -> str:
    rows, unseen = [], Counter[str]()
    for r in found["releases"]:
        to_a_point, defects = sum(r["unseen"].values()), sum(r["defects"].values())
        unseen.update(r["unseen"])
        rows.append(
            [r["torch"], f"{r['seed']:,}", f"{r['triples']:,}", f"{r['compared']:,}",
             f"{r['out_of_memory']:,}", f"{to_a_point:,}", f"{defects:,}",
             f"{len(r['differences']):,}", f"{r['events']:,}"]
        )  # fmt: skip
    head = ["torch", "first", "programs", "in full", "of them out of memory", "up to a point",
            "defects of PyTorch", "wrong", "events"]  # fmt: skip
    triples = sum(r["triples"] for r in found["releases"])
    reasons = [[name, f"{n:,}", f"{n / triples:.1%}"] for name, n in unseen.most_common()]
    return (
        table(head, rows)
        + "\n"
        + table(["what no recording shows", "programs", "share"], reasons)
        + _again(found, "predictions", "triples", "predictions.json", of_each=False)
    )


def _lines(found: dict[str, Any]) -> str:
    excluded = Counter[str]()
    for r in found["releases"]:
        excluded.update(r["excluded"])
    rows = [
        [r["torch"], f"{r['seed']:,}", f"{r['lines']:,}", f"{r['accepted']:,}",
         f"{r['refused']:,}", f"{sum(r['excluded'].values()):,}", f"{len(r['differences']):,}"]
        for r in found["releases"]
    ]  # fmt: skip
    head = ["torch", "first", "lines", "accepted", "refused", "left out", "different"]
    left_out = "".join(f"Left out: {name} ({n:,} lines).\n" for name, n in excluded.items())
    return (
        table(head, rows)
        + (f"\n{left_out}" if left_out else "")
        + _again(found, "lines", "lines", "lines.json")
    )


def _faults(found: list[dict[str, Any]]) -> str:
    rows = [
        [f["name"], "yes" if f["caught"] else "**no**", f"{f['seconds']:.1f}", f"{f['events']:,}",
         f["torch"] or "–"]
        for f in found
    ]  # fmt: skip
    return table(["fault", "caught", "seconds", "events until then", "by torch"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table: the first column to the left, figures to the right."""
    is_figure = [
        all(re.fullmatch(r"[*\d,.%–:-]*", row[k]) is not None for row in rows)
        for k in range(len(head))
    ]
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "|".join("---:" if right else "---" for right in is_figure) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def readme(text: str, folder: Path) -> str:
    """Return the README's text with the line about exactness written anew."""
    entries = sorted(totals(read(folder / "fuzz.jsonl")).values(), key=_age)
    line = total_line(entries)
    predictions = folder / "predictions.json"
    if predictions.exists():
        found = json.loads(predictions.read_text(encoding="utf-8"))["releases"]
        n, whole = (sum(r[key] for r in found) for key in ("triples", "compared"))
        wrong = sum(len(r["differences"]) for r in found)
        line += (
            f" Of {n:,} programs recorded under one line and predicted for another, {whole:,} were "
            f"predicted to the last counter, {wrong or 'none'} wrongly, the others as far as a "
            "recording tells."
        )
    line += " [How, and what was left out](docs/exactness.md)."
    return README_LINE.sub(lambda m: f"{m[1]}{line}\n{m[2]}", text)


def main() -> int:
    docs, front = Path(sys.argv[1]), Path(sys.argv[2])
    made = {
        docs / "exactness.md": page(docs / "exactness"),
        front: readme(front.read_text(encoding="utf-8"), docs / "exactness"),
    }
    if "--check" in sys.argv:
        return int(any(path.read_text(encoding="utf-8") != text for path, text in made.items()))
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The list of recordings that stands beside them, made from the files themselves."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from ...traces.units import MiB
from .catalogue import LINES, WORKLOADS

HEAD = """# Recordings

What programs asked of PyTorch's allocator, as `tightfit` reads it. Made without a GPU: the
unmodified CUDA build of PyTorch ran on a stand-in for the device named, whose kernels do nothing;
its allocator is the real one. Work space that cuBLAS, cuDNN or NCCL would take of their own is not
in them. Peaks are PyTorch's own counters of the recorded run. MIT licence, as the rest.

This page and the files of the first table are made by `python -m tightfit.experiments.corpus`,
which records again whatever is missing. A recording made again differs in the times of its entries,
and so in its sha256; the entries, addresses, sizes and stacks are to be the same.

| recording | program | device | torch | entries | peak reserved MiB | KiB | sha256 |
|---|---|---|---|---:|---:|---:|---|
"""
PROGRAMS = """
Programs, in `experiments/corpus`; "expandable" files were recorded under
`expandable_segments:True`, "default" ones without a settings line:

| program | what it does |
|---|---|
"""
OLDER = """
Recorded before that command existed, with torch 2.15.0 on the same stand-in as a device of
80 GiB; kept because tests know their figures:

| recording | entries | KiB | sha256 |
|---|---:|---:|---|
"""


def readme(folder: Path) -> str:
    """Return README.md for a folder of recordings."""
    known = {
        name: w for w in WORKLOADS for line in LINES for name in w.files(line).values()
    }  # fmt: skip
    rows, older = [], []
    for path in sorted(folder.glob("*.npz")):
        header = _header(path)
        entries = sum(d["entries"] for d in header["devices"].values())
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        size = f"{path.stat().st_size / 1024:,.0f}"
        recorded = header["extra"].get("recorded")
        if recorded is None or path.name not in known:
            older.append(f"| {path.name} | {entries:,} | {size} | {digest} |")
            continue
        peak = max(
            d["stats"]["reserved_bytes.all.peak"] for d in recorded["devices"].values()
        )  # fmt: skip
        program = " ".join(filter(None, [known[path.name].program, recorded["options"]]))
        rows.append(
            f"| {path.name} | `{program}` | {recorded['profile']} | {recorded['torch']} | "
            f"{entries:,} | {peak / MiB:,.0f} | {size} | {digest} |"
        )
    notes: dict[str, list[str]] = {}
    for w in WORKLOADS:
        if w.note:
            notes.setdefault(w.note, []).append(w.name)
    said = ["", *(f"**{', '.join(names)}**: {text}" for text, names in notes.items())]
    what = {w.program: w.what for w in WORKLOADS}
    programs = [f"| {name} | {text} |" for name, text in sorted(what.items())]
    return HEAD + "\n".join(
        [*rows, *said, PROGRAMS.rstrip("\n"), *programs, OLDER.rstrip("\n"), *older, ""]
    )


def _header(path: Path) -> dict[str, Any]:
    """Return what a recording says of itself, without reading its columns."""
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("header.json"))

"""Results as few files: bundles of at most 14 MiB, with an index that says what lies where."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from ...traces.whole_file import replacing

PACKED_BYTES = 14 << 20  # of results in one file


def pack(folder: Path, target: Path) -> list[Path]:
    """Bundle what a folder holds; the folder stays, so that a later call can go on from there.

    Args:
        folder: the results.
        target: another folder, for results.0.tar and so on, and results.json, the index.

    Returns:
        The bundles.
    """
    target.mkdir(parents=True, exist_ok=True)
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".part")
    bundles: list[list[Path]] = [[]]
    size = 0
    for path in files:
        length = path.stat().st_size + 1024
        if bundles[-1] and size + length > PACKED_BYTES:
            bundles.append([])
            size = 0
        bundles[-1].append(path)
        size += length
    made = []
    for number, bundle in enumerate(bundles):
        file = target / f"results.{number}.tar"
        with replacing(file) as out, tarfile.open(fileobj=out, mode="w") as tar:
            for path in bundle:
                tar.add(path, path.relative_to(folder).as_posix())
        made.append(file)
    index = {t.name: [p.relative_to(folder).as_posix() for p in b]
             for t, b in zip(made, bundles, strict=True)}  # fmt: skip
    with replacing(target / "results.json") as out:
        out.write(json.dumps(index).encode())
    return made

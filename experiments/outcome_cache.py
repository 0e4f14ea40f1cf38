"""Outcomes of long searches, kept in the user's cache folder so that a search can be resumed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..sim.device import Device
from ..sim.packing import Packed
from ..sim.release import Release
from ..traces.jit import cache_folder
from ..traces.whole_file import replacing
from .code_hash import code_hash
from .kept import mark_of, read_back
from .outcome import Outcome

KEEP = 20  # files of outcomes that stay on disk, newest first


def identity(programs: Sequence[Packed], rules: Release, gpu: Device) -> str:
    """Return a name that is equal only if every outcome is: programs, rules, device and code."""
    digest = hashlib.sha256(repr((code_hash(), rules, gpu)).encode())
    for packed in programs:
        p = packed.program
        digest.update(repr(p.settings_calls).encode())
        arrays = (p.request, p.req_size, p.req_stream, p.req_pool)
        if packed.source is None:
            arrays = (packed.events, p.entry, *arrays)
        else:
            digest.update(b"".join(packed.source.hashes))
        layout = [*p.start.segments.values(), *p.start.blocks.values()]
        for array in (*arrays, p.streams, *layout):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


class OutcomeCache:
    """Outcomes measured earlier for the same question.

    Args:
        name: from `identity`.
        folder: where to keep them; None = beside the compiled kernels, if that can be written.
    """

    def __init__(self, name: str, folder: Path | None = None) -> None:
        base = folder or cache_folder()
        self.path = base / "outcomes" / f"{name}.json" if base else None

    def load(self) -> dict[bytes, list[Outcome]]:
        """Return what was kept; nothing if there is no file, or it was changed since."""
        if self.path is None:
            return {}
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            rows = document["rows"]
            if document["mark"] != mark_of(self.path.stem, rows):
                return {}
            found = {bytes.fromhex(k): [read_back(Outcome, o) for o in v] for k, v in rows.items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}
        # One outcome for each program, whatever the line.
        return found if len(set(map(len, found.values()))) <= 1 else {}

    def save(self, outcomes: dict[bytes, list[Outcome]]) -> None:
        """Keep outcomes; a folder that cannot be written is no error, only no cache."""
        if self.path is None:
            return
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            rows = {k.hex(): [asdict(o) for o in v] for k, v in outcomes.items()}
            with replacing(self.path) as out:
                document = {"mark": mark_of(self.path.stem, rows), "rows": rows}
                out.write(json.dumps(document).encode())
            kept = sorted(self.path.parent.glob("*.json"), key=os.path.getmtime, reverse=True)
            for old in kept[KEEP:]:
                old.unlink()

"""Record a part of a program from inside it; needs torch and a CUDA device."""

# pyright: reportMissingImports=false
# torch is the user's, and need not be where types are checked.
from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import capture_hook as hook
from .errors import ConfigError, TraceError


@contextmanager
def record(
    path: Path | str, *, stacks: str = "python", entries: int = hook.ENTRIES
) -> Iterator[None]:
    """Record what is allocated in the body of a `with` statement.

    Memory that was live before is part of the recording, as the state it began in. The file is
    written when the body ends, however it ends; one that was there is replaced. Settings lines that
    the body sets are part of it too. Within it PyTorch's own history belongs to this function: do
    not call `_record_memory_history`.

    Args:
        path: the file to write; its name ends in .npz.
        stacks: "python" or "all" frames of every entry, or "none".
        entries: how many are kept, the newest.

    Raises:
        ConfigError: the name ends otherwise, or PyTorch finds no CUDA device.
        TraceError: PyTorch's snapshot cannot be read; it is kept beside the file.
    """
    import torch

    path = Path(path)
    if path.suffix != ".npz":
        raise ConfigError(f"{path}: the recording's name must end in .npz")
    if not torch.cuda.is_available():
        raise ConfigError(
            "record: this PyTorch finds no CUDA device; without a GPU use "
            "tightfit record --stand-in h100-80g -- python your_script.py"
        )
    hook.start_history(torch, stacks, entries)
    first = _line_in_force(torch)
    with _settings_calls_noted(torch) as calls:
        try:
            yield
        finally:
            # Pickled and read back: the reader checks and interns, and never sees live objects.
            data = pickle.dumps(hook.take_snapshot(torch), protocol=4)
            facts = hook.circumstances(torch)
            torch.cuda.memory._record_memory_history(enabled=None)
            facts |= {"reason": "asked", "conf": facts["conf"] if first is None else first}
            _write(data, {**facts, "settings_calls": calls}, path)


def _line_in_force(torch: Any) -> str | None:
    """Return the line that was set last, by the environment or the program; None before 2.2."""
    return hook.take_snapshot(torch).get("allocator_settings", {}).get("PYTORCH_CUDA_ALLOC_CONF")


@contextmanager
def _settings_calls_noted(torch: Any) -> Iterator[list[tuple[int, str]]]:
    """Note the settings lines that the body sets, and when."""
    calls: list[tuple[int, str]] = []
    setters = {name: getattr(torch._C, name) for name in hook.SETTERS if hasattr(torch._C, name)}
    hook.note_settings_calls(torch, calls)
    try:
        yield calls
    finally:
        for name, call in setters.items():
            setattr(torch._C, name, call)


def _write(data: bytes, facts: dict, path: Path) -> None:
    from .provenance import keep_unread, origin_of, put_origin
    from .snapshot import read_snapshot
    from .store import save

    try:
        recording = read_snapshot(data, path.name)
    except TraceError as error:
        raise keep_unread(data, path, error) from error
    put_origin(recording, origin_of("gpu", "", sys.argv[:1] or ["python"]), facts)
    save(recording, path)

"""A package named torch that records nothing but knows the calls; for programs without PyTorch.

Its snapshot is the story's, its counters are made up; it is written into a folder as torch/.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

from .story import snapshot

SOURCE = '''
"""Stands in for PyTorch where only the order of calls matters."""
import json, os, pickle, types, sys

__version__ = "2.15.0+made.up"
version = types.SimpleNamespace(cuda="13.2")
FOLDER = os.path.dirname(__file__)
CALLS = []
observers = []
_C = types.SimpleNamespace(
    _cuda_attach_out_of_memory_observer=observers.append,
    _accelerator_setAllocatorSettings=CALLS.append,
)
backends = types.SimpleNamespace(cuda=types.SimpleNamespace(enable_cudnn_sdp=CALLS.append))
queued = []


def use_cuda():
    while queued:
        queued.pop(0)()


def run_out_of_memory():
    for observer in observers:
        observer(0, 1, 2, 3)


def _snapshot():
    with open(os.path.join(FOLDER, "snapshot.pickle"), "rb") as file:
        return pickle.load(file)


memory = types.SimpleNamespace(
    _snapshot=_snapshot,
    _record_memory_history=lambda **words: CALLS.append(words),
)
cuda = types.SimpleNamespace(
    _lazy_call=queued.append,
    memory=memory,
    device_count=lambda: 1,
    is_available=lambda: True,
    memory_stats=lambda d: {"num_device_alloc": 2, "retries": 0, "name": "not a number"},
    get_device_name=lambda d: "made-up GPU",
    mem_get_info=lambda d: (1, 4 << 30),
)
'''


def write(folder: Path) -> Path:
    """Write the package; return the folder to put on the path."""
    package = folder / "torch"
    package.mkdir()
    (package / "__init__.py").write_text(SOURCE)
    (package / "snapshot.pickle").write_bytes(pickle.dumps(snapshot(), protocol=4))
    return folder


def program(*lines: str) -> str:
    """Return a program that writes the calls it saw into calls.json when asked."""
    return "\n".join(["import json, os, sys, torch", *lines]) + "\n"


def read_calls(path: Path) -> list:
    """Return what a program noted."""
    return json.loads(path.read_text())

"""Start a prepared run from a bare checkout: nothing is installed, the folder's name is free.

    python3 experiments/gpu/run.py RUN -o OUT [--budget SECONDS] [--stand-in GPU]
    python3 experiments/gpu/run.py all -o OUT --budget 480
    python3 experiments/gpu/run.py verify TRACE... [--conf LINE]... -o OUT
    python3 experiments/gpu/run.py module NAME [WORD...]    (one of experiments/, as a script)

The repository's root is the package, whatever the folder is called here, so this file gives it its
name before anything of it is imported. Needs torch, numba, numpy and scipy; README.md lists RUNs.
"""

from __future__ import annotations

import importlib
import importlib.util
import runpy
import sys
import time
from pathlib import Path

BEGUN = time.monotonic()  # a budget counts from here on
ROOT = Path(__file__).resolve().parents[2]


def give_name() -> None:
    """Make the checkout importable as `tightfit`, unless it is installed from here already."""
    spec = importlib.util.spec_from_file_location(
        "tightfit", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tightfit"] = module
    spec.loader.exec_module(module)


def run_module(name: str, words: list[str]) -> None:
    """Run a module of the package as `python -m` would, were it installed."""
    sys.argv = [name, *words]
    runpy.run_module(f"tightfit.experiments.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    give_name()
    if sys.argv[1:2] == ["module"]:
        run_module(sys.argv[2], sys.argv[3:])
        raise SystemExit(0)
    runs = importlib.import_module("tightfit.experiments.gpu.runs")
    raise SystemExit(runs.main(sys.argv[1:], BEGUN))

"""Record the corpus anew: python -m tightfit.experiments.corpus [NAME...] [--into DIR] [--force].

Needs no GPU; fetches the CUDA build of PyTorch once (0.5 GB) and takes about half an hour. Files
that are there stay unless --force is given, so an interrupted run goes on where it ended.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...traces.errors import TightfitError, did_you_mean
from ..screen import warn
from .catalogue import WORKLOADS
from .readme import readme
from .rerecord import rerecord

DATA = Path(__file__).parents[2] / "traces" / "data"


def main() -> int:
    """Record what is missing and write README.md beside it."""
    parser = argparse.ArgumentParser(prog="python -m tightfit.experiments.corpus")
    parser.add_argument("names", nargs="*", metavar="NAME", help="workloads; default: all")
    parser.add_argument("--into", type=Path, default=DATA, help="the folder (default: traces/data)")
    parser.add_argument("--force", action="store_true", help="record again what is there")
    a = parser.parse_args()
    known = [w.name for w in WORKLOADS]
    for name in a.names:
        if name not in known:
            print(f"found no workload {name!r}, expected one of {', '.join(known)}"
                  + did_you_mean(name, known), file=sys.stderr)  # fmt: skip
            return 2
    try:
        for workload in WORKLOADS:
            if not a.names or workload.name in a.names:
                for line in workload.lines:
                    rerecord(workload, line, a.into, a.force)
        (a.into / "README.md").write_text(readme(a.into), encoding="utf-8")
    except TightfitError as error:
        print(f"corpus: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        warn("corpus: interrupted; what is finished stays")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

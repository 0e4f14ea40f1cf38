"""python -m tightfit, and what the command `tightfit` starts."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; Ctrl-C before it is even loaded ends as it does later."""
    try:
        from .experiments.cli import main as run
    except KeyboardInterrupt:
        print("\ntightfit: interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    raise SystemExit(main())

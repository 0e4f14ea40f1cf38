"""What was meant by a settings line that a release refuses: hints, which decide nothing."""

from __future__ import annotations

import re

from ..traces.units import shortened
from .settings_keys import BY_NAME

LONGEST_SHOWN = 1000  # characters of a line in a message; the names of all keys have some 500

# As `tightfit tune` prints a line to be copied, and as shells take it.
_NAME = re.compile(r"((?:export\s*)?PYTORCH_(?:CUDA_|HIP_)?ALLOC_CONF=)")
_EQUALS = re.compile(rf"(?<![^,\s])({'|'.join(BY_NAME)})=")


def meant_by(line: str) -> str:
    """Return "; did you mean '...'?" for a line in quotes, after its name, or with "=" for ":".

    Returns:
        "" for any other line.
    """
    line = line.strip()
    name = _NAME.match(line)
    own = _EQUALS.sub(r"\1:", line[name.end() if name else 0 :].strip("\"'"))
    if own == line:
        return ""
    left = f"; leave off '{name[1]}'" if name else ""
    return f"{left}; did you mean '{shortened(own, LONGEST_SHOWN)}'?"

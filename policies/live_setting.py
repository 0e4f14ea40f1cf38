"""What runs live, on how much; and objects that outlive the interpreter."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .playing import AnyPolicy


@dataclass(frozen=True)
class Setting:
    """What runs, and on how much.

    Attributes:
        policy: whose decisions serve the requests.
        values: its parameters by name; missing ones have their defaults.
        capacity_bytes: what it may hold of the device; None = without end.
    """

    policy: AnyPolicy
    values: Mapping[str, int]
    capacity_bytes: int | None


def keep_for_ever(*objects: Any) -> None:
    """Keep objects from being freed even when the interpreter ends."""
    for one in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))

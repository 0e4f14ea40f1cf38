"""What is kept in files from one call to the next: unchanged since, and of the types it had."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Kept = TypeVar("Kept")


def mark_of(key: object, value: object) -> str:
    """Return what an entry is known by that was not changed since it was written."""
    return hashlib.sha256(json.dumps([key, value]).encode()).hexdigest()[:12]


def read_back(kind: type[Kept], row: object) -> Kept:
    """Make a dataclass again of what `asdict` and JSON made of it.

    Raises:
        ValueError: it is none: a field is missing, unknown or of another type.
    """
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}, expected an object")
    hints = _hints_of(kind)
    for name, value in row.items():
        if name in hints and not fits(value, hints[name]):
            raise ValueError(f"{name}: found {type(value).__name__}, expected {_word(hints[name])}")
    try:
        # JSON knows lists only.
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})
    except TypeError as error:
        raise ValueError(str(error).partition(" ")[2]) from None


def fits(value: object, hint: Any) -> bool:
    """Return whether a value read from JSON is what a type hint says; a list may be a tuple."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is UnionType:
        return any(fits(value, one) for one in inner)
    if origin in (tuple, list):
        return isinstance(value, list) and all(fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(item, inner[1]) for item in value.values())
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and type(value) is not bool
    return isinstance(value, hint)


def has(value: object, hints: Mapping[str, Any]) -> bool:
    """Return whether a value read from JSON is an object with these keys, of these types."""
    return isinstance(value, dict) and all(
        name in value and fits(value[name], hint) for name, hint in hints.items()
    )


@cache
def _hints_of(kind: type) -> dict[str, Any]:
    assert dataclasses.is_dataclass(kind)
    return get_type_hints(kind)


def _word(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)

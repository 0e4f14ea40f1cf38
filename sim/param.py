"""Param: one parameter of a policy, declared once for checks, searches and documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..traces.errors import ConfigError, PolicyError, did_you_mean
from ..traces.units import exact_bytes, parse_bytes


@dataclass(frozen=True)
class Param:
    """A whole number that a policy leaves open.

    Attributes:
        name: as users write it.
        default, low, high: the value without a word from the user, and the range, ends included.
        doc: what it means, one line.
        unit: "bytes" (values may be written "2MiB"), "%" or "" for a plain number.
        log: a search should vary its magnitude; every value is then a power of two.
    """

    name: str
    default: int
    low: int
    high: int
    doc: str
    unit: str = ""
    log: bool = False

    def __post_init__(self) -> None:
        for value in (self.low, self.high, self.default):
            self.check(value, "its own declaration")

    def check(self, value: int, where: str) -> int:
        """Return the value if it is acceptable.

        Raises:
            PolicyError: it is out of range, or no power of two where one is needed.
        """
        if not self.low <= value <= self.high:
            raise PolicyError(
                f"{where}: {self.name} = {value} is outside {self.low} .. {self.high}"
                + (f" {self.unit}" if self.unit else "")
            )
        if self.log and value & (value - 1):
            below = 1 << (value.bit_length() - 1)
            raise PolicyError(
                f"{where}: {self.name} = {value} is not a power of two; "
                f"the nearest are {below} and {2 * below}"
            )
        return value

    def parse(self, text: str, where: str) -> int:
        """Read a value as a user writes it.

        Raises:
            PolicyError: it is not a number, or not an acceptable one.
        """
        try:
            value = int(text)
        except ValueError:
            if self.unit != "bytes":
                raise PolicyError(
                    f"{where}: {self.name}: found {text!r}, expected a whole number"
                ) from None
            try:
                value = parse_bytes(text, f"{where}: {self.name}")
            except ConfigError as error:
                raise PolicyError(str(error)) from None
        return self.check(value, where)

    def written(self, value: int) -> str:
        """A value as a user writes it, so that `parse` reads it."""
        return exact_bytes(value) if self.unit == "bytes" else str(value)


def parse_params(params: Sequence[Param], text: str, where: str) -> dict[str, int]:
    """Read "name=value,name=value"; what is not named keeps its default.

    Args:
        params: what may be named.
        text: the user's words; "" for none.
        where: what they are said of, for messages.

    Raises:
        PolicyError: an unknown or repeated name, or an unacceptable value.
    """
    values = {p.name: p.default for p in params}
    known = {p.name: p for p in params}
    seen: set[str] = set()
    for part in text.split(",") if text.strip() else []:
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise PolicyError(f"{where}: found {part!r}, expected name=value")
        if name not in known:
            raise PolicyError(
                f"{where}: unknown parameter '{name}'"
                + (did_you_mean(name, known) or f"; it has {', '.join(known) or 'none'}")
            )
        if name in seen:
            raise PolicyError(f"{where}: parameter '{name}' is given twice")
        seen.add(name)
        values[name] = known[name].parse(value, where)
    return values

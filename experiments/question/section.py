"""A table of a TOML file, read strictly: every message says where, what was found and expected."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ...traces.errors import ConfigError, did_you_mean
from ...traces.units import parse_bytes, shortened, with_its_unit

Value = TypeVar("Value")
MOST = 1 << 62  # largest whole number that any key takes
_KINDS: dict[type, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text",
    list: "a list", dict: "a table",
}  # fmt: skip


def read_toml(path: Path) -> Section:
    """Read a file.

    Raises:
        ConfigError: it cannot be read, or is no TOML.
    """
    try:
        return Section(path.name, tomllib.loads(path.read_text(encoding="utf-8")))
    except IsADirectoryError:
        raise ConfigError(f"{path}: found a folder, expected an experiment file in TOML") from None
    except OSError as error:
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*.toml")])
        raise ConfigError(f"{path}: {error.strerror}{near}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not text in UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path.name}: not TOML: {error}") from None
    except ValueError:  # Python reads no more digits than that
        raise ConfigError(
            f"{path.name}: found a number of thousands of digits, expected none above {MOST:,}"
        ) from None


class Section:
    """One table. Keys are asked for one by one; `only` and `done` refuse those of another name.

    Args:
        where: what stands in front of messages.
        given: the table.
    """

    def __init__(self, where: str, given: dict[str, Any]) -> None:
        self.where = where
        self.given = given
        self.asked: list[str] = []

    def fault(self, name: str, found: object, expected: str) -> ConfigError:
        """An error about the value of a key."""
        return ConfigError(f"{self.where}: {name}: found {_shown(found)}, expected {expected}")

    def has(self, name: str) -> bool:
        self.asked.append(name)
        return name in self.given

    def text(self, name: str, default: str | None = None) -> str:
        """A text that is not empty; a key without a default must be there."""
        return self._get(name, default, _text)

    def whole(self, name: str, default: int, least: int = 0, most: int = MOST) -> int:
        """A whole number within a range, ends included."""
        return self._get(name, default, lambda v: _whole(v, least, most))

    def number(self, name: str, default: float) -> float:
        """A number that is not negative."""
        return self._get(name, default, _number)

    def flag(self, name: str) -> bool:
        return self._get(name, False, lambda v: v if isinstance(v, bool) else _wrong(bool))

    def one_of(self, name: str, words: tuple[str, ...], default: str) -> str:
        """One of some words."""
        return self._get(name, default, lambda v: _one_of(v, words))

    def one(self, name: str, read: Callable[[Any], Value], default: Value) -> Value:
        """A value; arguments as of `several`."""
        return self._get(name, default, read)

    def several(
        self, name: str, read: Callable[[Any], Value], default: tuple[Value, ...]
    ) -> tuple[Value, ...]:
        """A value or a list of values, none of them twice.

        Args:
            name: the key.
            read: reads one; raises Wrong.
            default: what holds without the key.
        """
        return self._get(name, default, lambda v: _several(v, read))

    def table(self, name: str) -> Section:
        """A table inside this one; an empty one if it is not there."""
        found = self._get(name, {}, lambda v: v if isinstance(v, dict) else _wrong(dict))
        return Section(f"{self.where}: [{name}]", found)

    def tables(self, name: str) -> list[Section]:
        """A list of tables, [[name]] in the file."""
        found = self._get(name, [], _tables)
        return [Section(f"{self.where}: [[{name}]] {k}", t) for k, t in enumerate(found, start=1)]

    def done(self) -> None:
        """Refuse keys that nobody asked for.

        Raises:
            ConfigError: there is one.
        """
        self.only(*self.asked)

    def only(self, *names: str) -> None:
        """Refuse keys that are none of these: said before a key they may stand for is missed.

        Raises:
            ConfigError: there is one.
        """
        for name in self.given:
            if name not in names:
                near = did_you_mean(name, names)
                raise ConfigError(
                    f"{self.where}: unknown key '{name}'"
                    + (near or f"; it has {', '.join(dict.fromkeys(names))}")
                )

    def _get(self, name: str, default: Any, read: Callable[[Any], Any]) -> Any:
        self.asked.append(name)
        if name not in self.given:
            if default is None:
                raise ConfigError(f"{self.where}: {name} is missing")
            return default
        try:
            return read(self.given[name])
        except Wrong as wrong:
            found = self.given[name] if wrong.found is None else wrong.found
            raise self.fault(name, found, wrong.expected) from None


class Wrong(Exception):
    """A value is not what is expected; where it stands is added by whoever knows.

    Attributes:
        expected: in words.
        found: the value, where it is an item of a list.
    """

    def __init__(self, expected: str, found: object = None) -> None:
        super().__init__(expected)
        self.expected, self.found = expected, found


def memory(value: Any) -> int:
    """Bytes of a GPU's memory: a whole number, or a text such as "24GiB"."""
    if isinstance(value, bool) or not isinstance(value, int | str) or is_huge(value):
        raise Wrong('a size such as "24GiB" or 1073741824')
    try:
        found = parse_bytes(str(value))
    except ConfigError:
        raise Wrong('a size such as "24GiB" or 1073741824') from None
    meant = with_its_unit(str(value), found)
    if meant:
        raise Wrong(f'memory of a GPU such as "{meant}"')
    return found


def is_huge(value: object) -> bool:
    """A whole number beyond all that mean something; Python may refuse to write its digits."""
    return isinstance(value, int) and abs(value) > MOST


def words(value: Any) -> str:
    """A text that may be empty."""
    return value if isinstance(value, str) else _wrong(str)


def count(value: Any) -> int:
    """A whole number that is not negative."""
    return _whole(value, 0, MOST)


def _wrong(kind: type) -> Any:
    raise Wrong(_KINDS[kind])


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise Wrong("a text that is not empty")
    if "\0" in value:  # most texts name files
        raise Wrong("a text without the character NUL")
    return " ".join(value.split())


def _whole(value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise Wrong("a whole number")
    if not least <= value <= most:
        raise Wrong(f"{least:,} or more" if value < least else f"at most {most:,}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise Wrong("a number of 0 or more")
    return float(value)


def _one_of(value: Any, words: tuple[str, ...]) -> str:
    if value not in words:
        near = did_you_mean(value, words) if isinstance(value, str) else ""
        raise Wrong(f"one of {', '.join(words)}{near}")
    return value


def _several(value: Any, read: Callable[[Any], Any]) -> tuple[Any, ...]:
    given = value if isinstance(value, list) else [value]
    if not given:
        raise Wrong("a value or a list of some")
    out: list[Any] = []
    for item in given:
        try:
            out.append(read(item))
        except Wrong as wrong:
            raise Wrong(wrong.expected, item) from None
        if out[-1] in out[:-1]:
            raise Wrong("each value once", item)
    return tuple(out)


def _tables(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(v, dict) for v in value):
        raise Wrong("tables, each below a line with double brackets")
    return value


def _shown(value: object) -> str:
    try:
        text = repr(value) if not isinstance(value, bool) else str(value).lower()
    except ValueError:
        return "a number of thousands of digits"
    return shortened(text)

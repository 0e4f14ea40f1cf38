"""The settings line: parse PYTORCH_CUDA_ALLOC_CONF as a given PyTorch release does, and write it.

A line is read as a fresh process reads its environment, unless the settings of a running one are
given: then what it does not mention stays as it was, for the most part.
"""

from __future__ import annotations

import re
from dataclasses import fields

from ..traces.errors import PolicyError
from ..traces.units import GiB, MiB
from .release import Release
from .settings import OFF, Settings
from .settings_keys import KEYS
from .settings_parser import N_DIVISIONS, Parser, rounding_bytes

__all__ = [
    "KEYS", "format_settings", "parse_settings", "parse_settings_verbose",
    "parts_that_move_nothing",
]  # fmt: skip


def parse_settings(conf: str, rules: Release, before: Settings | None = None) -> Settings:
    """Parse a settings line; see `parse_settings_verbose`."""
    return parse_settings_verbose(conf, rules, before)[0]


def parse_settings_verbose(
    conf: str, rules: Release, before: Settings | None = None
) -> tuple[Settings, list[str]]:
    """Parse a settings line exactly as the release's own parser does.

    Args:
        conf: the value of PYTORCH_CUDA_ALLOC_CONF.
        rules: the release whose parser to follow.
        before: the settings in force, for a line that a program sets at run time.

    Returns:
        The settings, and the warnings PyTorch would print, in our words.

    Raises:
        PolicyError: the release refuses the line.
    """
    parser = Parser(conf, rules, before)
    return parser.parse(), parser.warnings


def format_settings(settings: Settings, rules: Release) -> str:
    """Write the shortest line that parses back to the same settings.

    Keys at their default are left out, keys keep the order of KEYS, the list of
    roundup_power2_divisions ascends. `settings.conf` plays no part.

    Raises:
        PolicyError: no line of this release means these settings.
    """
    parts = []
    default_rounding = rounding_bytes(settings.large_segment_size // MiB)
    for name, value, default in (
        ("backend", settings.backend, "native"),
        ("large_segment_size_mb", _write_mb(settings.large_segment_size), "20"),
        ("max_split_size_mb", _write_split(settings.max_split_size), ""),
        (
            "max_non_split_rounding_mb",
            _write_mb(settings.max_non_split_rounding),
            _write_mb(default_rounding),
        ),
        (
            "garbage_collection_threshold",
            _write_number(settings.garbage_collection_threshold),
            "0",
        ),
        ("roundup_power2_divisions", _write_divisions(settings.roundup_divisions, rules), "0"),
        ("expandable_segments", str(settings.expandable_segments), "False"),
        ("expandable_segments_reserve", _write_reserve(settings), ""),
        (
            "per_process_memory_fraction",
            _write_number(settings.per_process_memory_fraction),
            "1",
        ),
        ("throw_on_cudamalloc_oom", str(settings.throw_on_cudamalloc_oom), "False"),
        (
            "graph_capture_record_stream_reuse",
            str(settings.graph_capture_record_stream_reuse),
            "False",
        ),
    ):
        if value != default:
            parts.append(f"{name}:{value}")
    line = ",".join(parts)
    back = parse_settings(line, rules)
    wrong = [
        f"{f.name} = {getattr(settings, f.name)!r}"
        for f in fields(Settings)
        if f.name != "conf" and getattr(back, f.name) != getattr(settings, f.name)
    ]
    if wrong:
        raise PolicyError(f"settings line for torch {rules.name}: no line means {', '.join(wrong)}")
    return line


def parts_that_move_nothing(conf: str) -> list[str]:
    """Return the parts of a line, "key:value", whose keys move no device memory.

    They play no part in `format_settings`: who replaces a line carries them over.

    Args:
        conf: a line that its release accepts.
    """
    names = {name for key in KEYS if not key.moves_memory for name in (key.name, key.alias)}
    parts = re.findall(r"(?:[^,\[]|\[[^\]]*\])+", re.sub(r"\s", "", conf))
    return [part for part in parts if part.split(":")[0] in names]


def _write_mb(size: int) -> str:
    return str(size // MiB)


def _write_split(size: int) -> str:
    """The largest size in MiB is less than OFF, and means something else."""
    return "" if size == OFF else _write_mb(size)


def _write_number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _write_reserve(settings: Settings) -> str:
    if settings.reserve_fraction is not None:
        return _write_number(settings.reserve_fraction)
    if settings.reserve_bytes is not None:
        # A parser ignores 0, but accepts part of a byte, which comes to the same.
        return _write_number(max(settings.reserve_bytes, 0.5) / GiB) + "G"
    return ""


def _write_divisions(table: tuple[int, ...], rules: Release) -> str:
    """Write the table as one number or as the shortest ascending list."""
    if len(set(table)) == 1:
        return str(table[0])
    lists = [_division_list(table, rest, rules) for rest in range(1, N_DIVISIONS + 1)]
    return min((text for text in lists if text), key=len)


def _division_list(table: tuple[int, ...], rest: int, rules: Release) -> str:
    """Write the table with '>' for the entries from `rest` on (none if that is their number)."""
    if len(set(table[rest:])) > 1:
        return ""
    # The first entry also fills everything below it.
    first = next(i for i in range(N_DIVISIONS) if table[i] != table[0]) - 1
    listed = [i for i in range(N_DIVISIONS) if i == first or (i > first and table[i])]
    if rest < N_DIVISIONS:
        anchor = rest if rules.roundup_rest_overwrites_last else rest - 1
        if rest == 1 and not table[0] and not rules.roundup_rest_overwrites_last:
            listed = []  # '>' alone starts behind entry 0
        else:
            listed = sorted({i for i in listed if i < anchor} | {min(first, anchor), anchor})
    items = [f"{1 << i}:{table[i]}" for i in listed]
    if rest < N_DIVISIONS:
        items.append(f">:{table[rest]}")
    return f"[{','.join(items)}]"

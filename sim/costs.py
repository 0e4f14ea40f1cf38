"""What the driver's calls cost in time: a linear model, and where its figures come from.

A call takes so many microseconds, and so many more for each MiB it is about. The figures stand in
`driver_costs.json`, each with its source: from the literature, or measured on a GPU at a date. A
measurement replaces the file, or is named instead of it.

What the GPU was still computing when cudaFree made the host wait is not in a recording; the model
takes one kernel of 100 microseconds for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..traces.errors import ConfigError, did_you_mean
from ..traces.units import MiB
from .state import (
    ACCESS_BYTES,
    ACCESSES,
    CREATE_BYTES,
    CREATES,
    FREE_BYTES,
    FREES,
    MALLOC_BYTES,
    MALLOCS,
    MAP_BYTES,
    MAPS,
    RELEASE_BYTES,
    RELEASES,
    SYNCS,
    UNMAP_BYTES,
    UNMAPS,
)

FILE = Path(__file__).with_name("driver_costs.json")
SHIPPED = "sim/driver_costs.json"
KINDS = ("from literature", "measured")
COLUMNS = ("call_us", "mib_us", "kind", "source")  # of each row of a table
# Call -> counters of calls and of bytes; cudaFree waits for the device, which has its own row.
CALLS: dict[str, tuple[int, int]] = {
    "cudaMalloc": (MALLOCS, MALLOC_BYTES),
    "cudaFree": (FREES, FREE_BYTES),
    "cuMemCreate": (CREATES, CREATE_BYTES),
    "cuMemRelease": (RELEASES, RELEASE_BYTES),
    "cuMemMap": (MAPS, MAP_BYTES),
    "cuMemSetAccess": (ACCESSES, ACCESS_BYTES),
    "cuMemUnmap": (UNMAPS, UNMAP_BYTES),
}
WAIT = "wait"  # one wait for the device: in every cudaFree, and in every synchronization


def work_of(g: Sequence[int]) -> dict[str, int]:
    """Read the driver's calls and their bytes from a simulation's counters."""
    work = {}
    for call, (calls, size) in CALLS.items():
        work[call], work[f"{call}_bytes"] = g[calls], g[size]
    work[WAIT] = g[FREES] + g[SYNCS]
    return work


@dataclass(frozen=True)
class Cost:
    """What one kind of call takes.

    Attributes:
        call_us: microseconds of a call.
        mib_us: microseconds more for each MiB.
        kind: "from literature" or "measured".
        source: who says so; for a measurement the GPU and the date.
    """

    call_us: float
    mib_us: float
    kind: str
    source: str


def read_costs(path: Path = FILE) -> dict[str, Cost]:
    """Read a table of costs.

    Raises:
        ConfigError: it is no such table.
    """
    try:
        table: Any = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: found {type(table).__name__}, expected one object")
    costs = {}
    for call, row in table.items():
        if call not in CALLS and call != WAIT:
            raise ConfigError(
                f"{path}: found {call!r}, expected the calls {', '.join([*CALLS, WAIT])}"
                + did_you_mean(call, [*CALLS, WAIT])
            )
        costs[call] = _cost(row, f"{path}: {call}")
    missing = [call for call in (*CALLS, WAIT) if call not in costs]
    if missing:
        raise ConfigError(f"{path}: found no row for {', '.join(missing)}")
    return costs


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a file; of two rows of one name JSON would silently take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"found {twice!r} twice, expected each name once")
    return found


def _cost(row: Any, where: str) -> Cost:
    if not isinstance(row, dict):
        raise ConfigError(f"{where}: found {row!r}, expected an object with {', '.join(COLUMNS)}")
    for name in row:
        if name not in COLUMNS:
            near = did_you_mean(name, COLUMNS)
            raise ConfigError(f"{where}: found {name!r}, expected {', '.join(COLUMNS)}{near}")
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        raise ConfigError(f"{where}: found no {', '.join(missing)}")
    for name in ("call_us", "mib_us"):
        value = row[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise ConfigError(f"{where}: {name}: found {value!r}, expected microseconds, 0 or more")
    if row["kind"] not in KINDS:
        kinds = " or ".join(map(repr, KINDS))
        raise ConfigError(f"{where}: kind: found {row['kind']!r}, expected {kinds}")
    if not isinstance(row["source"], str) or not row["source"].strip():
        raise ConfigError(f"{where}: source: found {row['source']!r}, expected who says so")
    return Cost(float(row["call_us"]), float(row["mib_us"]), row["kind"], str(row["source"]))


@cache
def shipped_costs() -> dict[str, Cost]:
    """The table that comes with the package."""
    return read_costs()


def driver_seconds(work: dict[str, int], costs: dict[str, Cost] | None = None) -> float:
    """Seconds that a run's driver calls take; simulated.

    Args:
        work: as in Run.work.
        costs: None = the shipped table.
    """
    total = 0.0
    for call, cost in (costs or shipped_costs()).items():
        total += work[call] * cost.call_us + work.get(f"{call}_bytes", 0) / MiB * cost.mib_us
    return total / 1e6


def costs_words(costs: dict[str, Cost] | None = None, name: str = SHIPPED) -> str:
    """Where figures come from, in a few words.

    Args:
        costs: None = the shipped table.
        name: the table's file, as a user would say it.
    """
    kinds = {cost.kind for cost in (costs or shipped_costs()).values()}
    return f"{' and '.join(sorted(kinds))}, {name}"

"""The offline packer on instances whose least capacity is known, with the time it took.

python -m tightfit.experiments.packing_bar shared/packing/?.1048576.csv --seconds 60

Files are lifetimes as minimalloc keeps them, the capacity to reach in the name: A.1048576.csv. Exit
code 1 if one is not reached, 2 if a file is none.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..policies.packing import pack
from ..policies.packing_buffers import lifetimes_of
from ..policies.packing_validator import packing_fault
from ..traces.errors import ConfigError, TightfitError
from ..traces.history import lift
from ..traces.load import load
from .screen import Column, emit_json, progress, table, verdict, warn


@dataclass(frozen=True)
class Result:
    """One instance.

    Attributes:
        instance: its file.
        buffers: how many are packed.
        capacity_bytes: what its name says it fits in.
        height_bytes: what the packing found needs, checked by the plain validator.
        bound_bytes: what is proven that no packing needs less than.
        seconds: until it was found; loading, compiling and checking apart.
    """

    instance: str
    buffers: int
    capacity_bytes: int
    height_bytes: int
    bound_bytes: int
    seconds: float

    @property
    def is_reached(self) -> bool:
        """The packing needs no more than the capacity."""
        return self.height_bytes <= self.capacity_bytes


def solve(path: Path, seconds: float) -> Result:
    """Pack one instance.

    Raises:
        ConfigError: its name says no capacity.
        TraceError: it cannot be read.
        AssertionError: the packing is none; a bug.
    """
    found = re.search(r"\.(\d+)\.csv$", path.name)
    if found is None:
        raise ConfigError(f"{path}: expected a name such as A.1048576.csv, with the capacity in it")
    buffers = lifetimes_of(lift(load(path), 0), quantum=1)
    capacity = int(found[1])
    start = time.perf_counter()
    packing = pack(buffers, capacity, seconds)
    taken = time.perf_counter() - start
    lower, upper, size = (c.tolist() for c in (buffers.lower, buffers.upper, buffers.size))
    fault = packing_fault(lower, upper, size, packing.offsets.tolist(), packing.height)
    assert not fault, f"{path}: {fault}"
    return Result(path.name, len(buffers), capacity, packing.height, packing.bound, taken)


def bar(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.CAPACITY.csv...")],
    seconds: Annotated[float, typer.Option(help="For the search of each.")] = 60.0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Pack instances whose least capacity is known."""
    results = []
    try:
        solve(files[0], 1.0)  # compiles
        with progress(len(files), "packing") as advance:
            for path in files:
                results.append(solve(path, seconds))
                advance()
    except TightfitError as error:
        warn(f"packing_bar: {error}")
        raise typer.Exit(2) from None
    reached = sum(r.is_reached for r in results)
    if as_json:
        emit_json({"instances": results})
    else:
        verdict(f"{reached} of {len(results)} instances reach their capacity")
        table(
            "",
            ["instance", "buffers", "capacity", "reached", Column("gap", "%"), Column("time", "s")],
            [
                [r.instance, r.buffers, f"{r.capacity_bytes:,}", f"{r.height_bytes:,}",
                 max(0.0, r.height_bytes / r.capacity_bytes - 1), r.seconds]
                for r in results
            ],
        )  # fmt: skip
    if reached < len(results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(bar)

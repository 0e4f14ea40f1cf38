"""Cases: what a process asks of its allocator, call by call, and under which conditions."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np

from ...sim.conditions import Conditions, first_conditions
from ...sim.device import Device
from ...sim.release import Release
from ...sim.settings_line import parse_settings


class Code(IntEnum):
    """One call; standin/driver.cpp carries it out.

    Streams are small numbers, 0 the default one; pool p is the private pool (0, p), and 0 stands
    for the default pools.
    """

    MALLOC = 0  # id = a new allocation number, size, stream
    FREE = 1  # id = allocation
    RECORD = 2  # id = allocation; `stream` starts work on it (record_stream)
    FINISH = 3  # size = how much of the stream's work completes, -1 = all
    EMPTY = 4  # id = pool; 0 = empty_cache() of everything
    SCOPE_BEGIN = 5  # id = pool; allocations of `stream` (ANY_STREAM: of all) come from it
    SCOPE_END = 6  # id = pool
    RELEASE = 7  # id = pool; its last user goes
    CAPTURE_BEGIN = 8  # id = pool; `stream` is captured and allocates from the pool
    CAPTURE_END = 9  # id = pool, stream
    FRACTION = 10  # size = bits of the double: set_per_process_memory_fraction
    SETTINGS = 11  # id = number of a line in Case.lines, parsed at run time
    OTHERS = 12  # size = bytes that others hold of the device from now on


CHANGES = (Code.FRACTION, Code.SETTINGS, Code.OTHERS)  # calls that change conditions


ANY_STREAM = 0xFFFF
COMMAND = np.dtype(
    [("code", "u1"), ("unused", "u1"), ("stream", "<u2"), ("id", "<u4"), ("size", "<i8")]
)
HANDLE = 256  # raw handle of stream k is k * HANDLE, as in driver.cpp


def fraction_bits(fraction: float) -> int:
    """Return a double as the integer that FRACTION carries."""
    return struct.unpack("<q", struct.pack("<d", fraction))[0]


def fraction_of(bits: int) -> float:
    """Return the double that FRACTION carries."""
    return struct.unpack("<d", struct.pack("<q", bits))[0]


def commands_of(rows: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Return commands from (code, id, size, stream) rows."""
    out = np.zeros(len(rows), COMMAND)
    if rows:
        table = np.array(rows, np.int64)
        for k, name in enumerate(("code", "id", "size", "stream")):
            out[name] = table[:, k]
    return out


@dataclass(frozen=True)
class Case:
    """A list of commands and the conditions they meet.

    Attributes:
        name: where it came from, for messages.
        conf: settings line of the process.
        device: total memory, memory of others, granularity.
        commands: shape (n,), COMMAND.
        scattered: the driver's addresses follow no order, and the simulator is told them; else
            they increase, and the simulator names the same by itself.
        lines: the lines that SETTINGS commands name.
    """

    name: str
    conf: str
    device: Device
    commands: np.ndarray
    scattered: bool = False
    lines: tuple[str, ...] = ()

    def conditions(self, rules: Release) -> list[Conditions]:
        """Return what holds at first and after each of the commands in CHANGES."""
        now = first_conditions(parse_settings(self.conf, rules), rules, self.device)
        out = [now]
        for row in self.commands[np.isin(self.commands["code"], CHANGES)]:
            if row["code"] == Code.FRACTION:
                now = replace(now, limit_fraction=fraction_of(int(row["size"])))
            elif row["code"] == Code.SETTINGS:
                line = self.lines[int(row["id"])]
                now = replace(now, settings=parse_settings(line, rules, now.settings))
            else:
                device = replace(now.device, other_bytes=int(row["size"]))
                now = replace(now, device=device)
            out.append(now)
        return out

    def with_commands(self, commands: np.ndarray) -> Case:
        """Return the same case with other commands."""
        return replace(self, commands=commands)


def case_to_json(case: Case) -> dict[str, Any]:
    """Return a case as JSON values; commands become rows of numbers."""
    device = case.device
    columns = ("code", "id", "size", "stream")
    return {
        "name": case.name,
        "conf": case.conf,
        "scattered": case.scattered,
        "lines": list(case.lines),
        "device": [device.capacity_bytes, device.other_bytes, device.granularity],
        "commands": np.stack([case.commands[c].astype(np.int64) for c in columns], 1).tolist(),
    }


def case_from_json(value: dict[str, Any]) -> Case:
    """Read what `case_to_json` wrote."""
    rows = [(row[0], row[1], row[2], row[3]) for row in value["commands"]]
    return Case(
        value["name"],
        value["conf"],
        Device(*value["device"]),
        commands_of(rows),
        value["scattered"],
        tuple(value.get("lines", ())),
    )


def case_to_text(case: Case) -> str:
    """Return a case as one line of JSON, for bug reports."""
    return json.dumps(case_to_json(case), separators=(",", ":"))

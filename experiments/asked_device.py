"""What is simulated, as options of a command: read from them, and written again as them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..sim.device import Device


def parse_device(capacity: str | None, other: str | None) -> Device:
    """The simulated device that --capacity and --other describe.

    Raises:
        ConfigError: a size cannot be read, or others use more than there is.
    """
    from ..sim.device import Device
    from ..traces.errors import ConfigError
    from ..traces.units import parse_memory

    total = None if capacity is None else parse_memory(capacity, "--capacity")
    taken = 0 if other is None else parse_memory(other, "--other")
    if taken and total is None:
        raise ConfigError("--other: memory of others matters only with --capacity; give both")
    if total is not None and taken >= total:
        raise ConfigError(f"--other: found {other}, expected less than --capacity {capacity}")
    return Device(total, taken)


def device_words(gpu: Device, index: int | None = None) -> str:
    """A device as options of a command that is to be copied; "" if none was asked about.

    Args:
        gpu: the simulated one.
        index: which of the recording, if one was asked for.
    """
    from ..traces.units import exact_bytes

    words = f" --capacity {exact_bytes(gpu.capacity_bytes)}" if gpu.capacity_bytes else ""
    words += f" --other {exact_bytes(gpu.other_bytes)}" if gpu.other_bytes else ""
    return words + (f" --device {index}" if index is not None else "")


def torch_words(torch: str | None) -> str:
    """The release as an option of a command that is to be copied; "" if none was asked for."""
    return "" if torch is None else f" --torch {shlex.quote(torch)}"

"""The simulated device as options of a command: read from them, and written again as them."""

from __future__ import annotations

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
    from ..traces.units import parse_bytes

    total = None if capacity is None else parse_bytes(capacity, "--capacity")
    taken = 0 if other is None else parse_bytes(other, "--other")
    if taken and total is None:
        raise ConfigError("--other: memory of others matters only with --capacity; give both")
    if total is not None and taken >= total:
        raise ConfigError(f"--other: found {other}, expected less than --capacity {capacity}")
    return Device(total, taken)


def device_words(gpu: Device) -> str:
    """A device as options of a command that is to be copied; "" if none was asked about."""
    from ..traces.units import exact_bytes

    words = f" --capacity {exact_bytes(gpu.capacity_bytes)}" if gpu.capacity_bytes else ""
    return words + (f" --other {exact_bytes(gpu.other_bytes)}" if gpu.other_bytes else "")

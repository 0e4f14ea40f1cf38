"""The GPUs that the stand-in can be, read from profiles.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...traces.errors import ConfigError, did_you_mean

FILE = Path(__file__).parent / "profiles.toml"


@dataclass(frozen=True)
class Profile:
    """What a program can learn about a GPU.

    Attributes:
        key: how it is asked for, e.g. "h100-80g".
        name: what the driver calls it.
        memory_mib: all of its memory.
        capability: compute capability, e.g. "9.0".
        multiprocessors: number of them.
        threads, blocks: resident on one of them at most.
        shared_kib: shared memory of one of them.
        cache_mib: L2 cache.
    """

    key: str
    name: str
    memory_mib: int
    capability: str
    multiprocessors: int
    threads: int
    blocks: int
    shared_kib: int
    cache_mib: int

    @property
    def pretended(self) -> str:
        """What fake tensors need to know of it, as the numbers of fake.scratch.Device."""
        capability = self.capability.split(".")
        numbers = (*capability, self.memory_mib << 20, self.multiprocessors, self.threads)
        return " ".join(map(str, numbers))

    def environment(self, devices: int, codes: tuple[int, ...] = ()) -> dict[str, str]:
        """Return the variables that make the stand-in this GPU, several of them if asked.

        Args:
            devices: how many.
            codes: compute capabilities a build has kernels for, e.g. 75, 80, 86; the device loads
                those of the highest that is not above its own.
        """
        major, minor = map(int, self.capability.split("."))
        fitting = [code for code in codes if code <= 10 * major + minor] or list(codes[:1])
        return {
            "STANDIN_NAME": self.name,
            "STANDIN_TOTAL": f"{self.memory_mib}M",
            "STANDIN_CAPABILITY": self.capability,
            "STANDIN_MULTIPROCESSORS": str(self.multiprocessors),
            "STANDIN_THREADS": str(self.threads),
            "STANDIN_BLOCKS": str(self.blocks),
            "STANDIN_SHARED": f"{self.shared_kib}K",
            "STANDIN_CACHE": f"{self.cache_mib}M",
            "STANDIN_DEVICES": str(devices),
            "STANDIN_CODE": str(max(fitting, default=0)),
            "STANDIN_BACKED": "1",
        }


@cache
def profiles() -> dict[str, Profile]:
    """Return every profile by its key."""
    with open(FILE, "rb") as file:
        return {key: Profile(key, **values) for key, values in tomllib.load(file).items()}


def find_profile(key: str, option: str = "--stand-in") -> Profile:
    """Return a profile; `option` is what asked for it.

    Raises:
        ConfigError: there is none of that name.
    """
    known = profiles()
    if key not in known:
        raise ConfigError(
            f"{option}: found no device {key!r}, expected one of {', '.join(known)}"
            + did_you_mean(key, known)
        )
    return known[key]

"""What changed between PyTorch releases, as data: one switch per change that moves memory.

The switches were established by driving the compiled allocators of 13 releases: 2.1.2, and one of
each minor in KNOWN, which `tightfit prove` drives again (RELEASES in experiments/oracle/wheels.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from ..traces.errors import ConfigError, did_you_mean

# Releases with rules of their own, oldest first; a patch release follows the rules of its minor.
KNOWN = ("2.4", "2.5", "2.6", "2.7", "2.8", "2.9", "2.10", "2.11", "2.12", "2.13", "2.14", "2.15")
NEWEST = "2.15.0"


@dataclass(frozen=True)
class Release:
    """The rules of one PyTorch release.

    Attributes:
        version: (major, minor).
    """

    version: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"

    @property
    def tie_break(self) -> str:
        """How free blocks of equal size are ordered: "address", "block" or "segment" age."""
        if self.version >= (2, 13):
            return "segment"
        return "block" if self.version == (2, 12) else "address"

    @property
    def expandable_private_pools(self) -> bool:
        """Private pools can use expandable segments (2.5)."""
        return self.version >= (2, 5)

    @property
    def fraction_one_is_no_limit(self) -> bool:
        """A memory fraction of 1.0 sets no limit, hence no garbage collection (2.10)."""
        return self.version >= (2, 10)

    @property
    def rounds_limit(self) -> bool:
        """The limit is rounded half away from zero instead of truncated (2.13)."""
        return self.version >= (2, 13)

    @property
    def roundup_rest_overwrites_last(self) -> bool:
        """'>' in roundup_power2_divisions overwrites the last listed entry (until 2.9)."""
        return self.version <= (2, 9)

    @property
    def capture_means_any_scope(self) -> bool:
        """Any open pool scope counts as capture context (until 2.12)."""
        return self.version <= (2, 12)

    def is_captured(self, pool: tuple[int, int]) -> bool:
        """Whether whoever allocates from a pool is in capture context for certain.

        A graph that was given no pool makes one with a number of its own in front, which only its
        captures use. Until 2.12 the scope that any private pool needs is enough.

        Source: CUDAGraph::capture_begin and MemPool::graph_pool_handle.
        """
        return pool != (0, 0) and (self.capture_means_any_scope or pool[1] == 0)

    @property
    def empties_single_pools(self) -> bool:
        """empty_cache takes a pool id (2.8)."""
        return self.version >= (2, 8)

    @property
    def oversize_release_skips_expandable(self) -> bool:
        """Oversize release skips expandable blocks (2.5); before it fails an assertion."""
        return self.version >= (2, 5)

    @property
    def empties_pools_in_capture(self) -> bool:
        """empty_cache in capture context still empties freeable pools (2.8); before, an error."""
        return self.version >= (2, 8)

    @property
    def deletes_short_reservation(self) -> bool:
        """A fresh reservation smaller than the request that made it is deleted at once (2.15)."""
        return self.version >= (2, 15)


def _near(parts: list[str]) -> str:
    """Return the nearest right answer: the end of the list for what lies beyond it."""
    if len(parts) < 2 or not (parts[0].isdecimal() and parts[1].isdecimal()):
        return did_you_mean(".".join(parts[:2]), KNOWN)
    version = (int(parts[0]), int(parts[1]))
    oldest, newest = (tuple(map(int, known.split("."))) for known in (KNOWN[0], KNOWN[-1]))
    if version > newest:
        return f"; {KNOWN[-1]} is the newest whose rules are known"
    return f"; {KNOWN[0]} is the oldest whose rules are known" if version < oldest else ""


def release(text: str) -> Release:
    """Return the rules of a release such as "2.15.0", "2.11" or "2.12.1+cu132".

    Raises:
        ConfigError: the release is unknown.
    """
    parts = text.split("+")[0].split(".")
    minor = ".".join(parts[:2])
    if minor not in KNOWN or not all(p.isdigit() for p in parts):
        raise ConfigError(
            f"torch release: found '{text}', expected one of {KNOWN[0]} .. {KNOWN[-1]}"
            + _near(parts)
        )
    return Release((int(parts[0]), int(parts[1])))

"""The keys of PYTORCH_CUDA_ALLOC_CONF: one row per key, for the parser and the documentation."""

from __future__ import annotations

from dataclasses import dataclass

from .release import Release

MIB = "MiB"  # a whole number of MiB
COUNT = "count"
FLAG = "bool"
FRACTION = "fraction"
DIVISIONS = "divisions"
NAME = "name"
RESERVE = "reserve"
RESERVES = "list of reserves"


@dataclass(frozen=True)
class Key:
    """One key of the settings line.

    Attributes:
        name: as written in the line.
        type: one of the constants of this module.
        default: the value when the key is absent, as text.
        since: first release that knows the key; "2.4" stands for 2.4 and before.
        accepts: accepted values, in words.
        meaning: what it does, in one line.
        moves_memory: False if it cannot change where or how much device memory is reserved.
        common: parsed by the code all accelerators share, not by CUDA's own (from 2.10).
        alias: a second name for the same key, or "".
    """

    name: str
    type: str
    default: str
    since: str
    accepts: str
    meaning: str
    moves_memory: bool = True
    common: bool = False
    alias: str = ""

    def known_to(self, rules: Release) -> bool:
        """Return whether a release has this key."""
        major, minor = self.since.split(".")
        return rules.version >= (int(major), int(minor))


_FLAG = "True or False, exactly"
_AT_LEAST = (
    "whole MiB, at least large_segment_size_mb from 2.11; at least 20 in 2.10; above 20 before"
)

# Source: c10/core/AllocatorConfig.{h,cpp} and c10/cuda/CUDAAllocatorConfig.{h,cpp}; the first
# releases were found by asking the compiled parsers of 13 releases.
KEYS: tuple[Key, ...] = (
    Key(
        "backend", NAME, "native", "2.4",
        "native or cudaMallocAsync; until 2.9 without spaces around the colon",
        "which allocator serves the process; only native is simulated",
    ),
    Key(
        "large_segment_size_mb", MIB, "20", "2.11", "whole MiB, above 10",
        "segment for requests of 1 to 10 MiB and page of large expandable segments",
        common=True,
    ),
    Key(
        "max_split_size_mb", MIB, "off", "2.4", _AT_LEAST,
        "blocks of this size or more are never split, and only serve requests as large",
        common=True,
    ),
    Key(
        "max_non_split_rounding_mb", MIB, "large_segment_size_mb", "2.6", _AT_LEAST,
        "how much larger than the request an unsplittable block may be",
        common=True,
    ),
    Key(
        "garbage_collection_threshold", FRACTION, "0", "2.4",
        "a number between 0 and 1, both excluded",
        "share of the memory limit above which long unused blocks are returned; needs a limit",
        common=True,
    ),
    Key(
        "roundup_power2_divisions", DIVISIONS, "0", "2.4",
        "a power of two, or a list [size:divisions,...,>:divisions] where a size is a power of two "
        "in MiB and divisions are 0 or a power of two",
        "requests round up to a power of two or an equal division between two of them",
        common=True,
    ),
    Key(
        "expandable_segments", FLAG, "False", "2.4", _FLAG,
        "segments grow page by page instead of being allocated whole",
        common=True,
    ),
    Key(
        "expandable_segments_reserve", RESERVE, "1.125", "2.15",
        "a positive fraction of the device such as 0.5, or GiB such as 40G; others warn, no effect",
        "address space reserved for one expandable segment",
    ),
    Key(
        "expandable_segments_reserve_by_class", RESERVES, "[]", "2.15",
        "a list [name:reserve,...]; bad reserves are warned and ignored",
        "the same for streams of a class, which only C++ code can assign",
        moves_memory=False,
    ),
    Key(
        "per_process_memory_fraction", FRACTION, "1", "2.10", "a number from 0 to 1",
        "share of the device the process may reserve; 1 sets no limit",
    ),
    Key(
        "throw_on_cudamalloc_oom", FLAG, "False", "2.12", _FLAG,
        "fail before asking the driver for more than the fraction allows",
    ),
    Key(
        "graph_capture_record_stream_reuse", FLAG, "False", "2.9", _FLAG,
        "reuse blocks of other streams inside a capture once the graph orders them",
    ),
    Key(
        "release_lock_on_cudamalloc", FLAG, "False", "2.4", _FLAG,
        "other threads may allocate while the driver works",
        moves_memory=False, alias="release_lock_on_hipmalloc",
    ),
    Key(
        "pinned_use_cuda_host_register", FLAG, "False", "2.4", _FLAG,
        "pin host memory by registering it",
        moves_memory=False, alias="pinned_use_hip_host_register",
    ),
    Key(
        "pinned_num_register_threads", COUNT, "1", "2.4", "a power of two, at most 128",
        "threads that touch host pages before they are registered",
        moves_memory=False,
    ),
    Key(
        "pinned_use_background_threads", FLAG, "False", "2.6", _FLAG,
        "a thread of its own processes the events of host memory",
        moves_memory=False, common=True,
    ),
    Key(
        "pinned_reserve_segment_size_mb", MIB, "0", "2.10", "whole MiB, above 0",
        "host memory pinned in advance",
        moves_memory=False,
    ),
    Key(
        "pinned_free_catch_all", FLAG, "False", "2.12", _FLAG,
        "errors while freeing host memory are swallowed",
        moves_memory=False,
    ),
    Key(
        "pinned_max_round_threshold_mb", MIB, "off", "2.13", "whole MiB",
        "host blocks above this are not rounded to a power of two",
        moves_memory=False, common=True,
    ),
    Key(
        "pinned_max_cached_size_mb", MIB, "off", "2.13", "whole MiB",
        "host blocks above this are not cached",
        moves_memory=False, common=True,
    ),
)  # fmt: skip

BY_NAME = {key.name: key for key in KEYS} | {key.alias: key for key in KEYS if key.alias}

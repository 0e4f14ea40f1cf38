"""Random settings lines that a release accepts, over every key it knows."""

from __future__ import annotations

import random
from collections.abc import Callable

from ...sim.release import Release
from ...sim.settings_keys import KEYS

# How often a key stands in a line, if not as often as its neighbours.
USUAL = 0.25
OFTEN = {"expandable_segments": 0.6, "max_split_size_mb": 0.4}
SELDOM = {"backend": 0.03, "expandable_segments_reserve_by_class": 0.1}


def random_line(rng: random.Random, rules: Release, large_mb: int | None = None) -> str:
    """Return a line in which every key that moves memory can stand, in any order.

    Args:
        rng: chooses.
        rules: the release that must accept the line.
        large_mb: large_segment_size_mb in force, for a line set at run time, which leaves it and
            the backend alone; None = a line for the environment.
    """
    at_run_time = large_mb is not None
    if large_mb is not None:
        large = large_mb
    elif rules.version < (2, 11):
        large = 20
    else:
        large = rng.choice((11, 12, 20, 31, 32, 64)) if rng.random() < 0.3 else 20
    words = []
    for key in KEYS:
        chance = OFTEN.get(key.name, SELDOM.get(key.name, USUAL if key.moves_memory else 0.03))
        if key.name == "large_segment_size_mb":
            chance = float(large != 20 and not at_run_time)
        elif key.name == "backend" and at_run_time:
            chance = 0.0
        elif key.name == "expandable_segments" and large % 2:
            # The driver hands out pages in multiples of 2 MiB only: every allocation would fail.
            chance = 0.0
        if key.known_to(rules) and rng.random() < chance:
            words.append(f"{key.name}:{_VALUES[key.name](rng, rules, large)}")
    rng.shuffle(words)
    comma = " , " if rng.random() < 0.1 else ","
    return comma.join(words)


def _length(rng: random.Random, rules: Release, large: int) -> str:
    """A bound in MiB that max_split_size_mb and max_non_split_rounding_mb accept."""
    least = 21 if rules.version < (2, 10) else 20 if rules.version < (2, 11) else large
    return str(max(least, rng.choice((least, least, least + 1, 40, 64, 75, 120, 300))))


def _divisions(rng: random.Random, rules: Release, large: int) -> str:
    if rng.random() < 0.5:
        return str(rng.choice((1, 2, 4, 8, 16, 64)))
    sizes = sorted(rng.sample([1 << k for k in range(17)], rng.randint(1, 6)))
    items = [f"{size}:{rng.choice((0, 1, 2, 4, 8, 16))}" for size in sizes]
    if rng.random() < 0.6:
        items.append(f">:{rng.choice((0, 1, 2, 4, 8))}")
    return f"[{','.join(items)}]"


def _flag(rng: random.Random, rules: Release, large: int) -> str:
    return rng.choice(("True", "True", "False"))


def _one_of(*values: str) -> Callable[[random.Random, Release, int], str]:
    return lambda rng, rules, large: rng.choice(values)


_VALUES: dict[str, Callable[[random.Random, Release, int], str]] = {
    "backend": _one_of("native"),
    "large_segment_size_mb": lambda rng, rules, large: str(large),
    "max_split_size_mb": _length,
    "max_non_split_rounding_mb": _length,
    "garbage_collection_threshold": _one_of("0.05", "0.3", "0.5", "0.8", "0.99", "1e-3"),
    "roundup_power2_divisions": _divisions,
    "expandable_segments": _flag,
    "expandable_segments_reserve": _one_of("0.25", "0.5", "1", "2.5", "1G", "0.1g", "0", "x"),
    "expandable_segments_reserve_by_class": _one_of("[a:0.5]", "[a:0.5,b:2G]", "[]"),
    "per_process_memory_fraction": _one_of("1", "1.0", "0.999", "0.9", "0.7", "0.3", "0.123456"),
    "throw_on_cudamalloc_oom": _flag,
    "graph_capture_record_stream_reuse": _flag,
    "release_lock_on_cudamalloc": _flag,
    "pinned_use_cuda_host_register": _flag,
    "pinned_num_register_threads": _one_of("1", "8", "128"),
    "pinned_use_background_threads": _flag,
    "pinned_reserve_segment_size_mb": _one_of("1", "16"),
    "pinned_free_catch_all": _flag,
    "pinned_max_round_threshold_mb": _one_of("8", "64"),
    "pinned_max_cached_size_mb": _one_of("64", "512"),
}

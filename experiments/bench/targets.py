"""What was aimed at and what was reached, worked out from one report of `tightfit bench`."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import geometric_mean
from typing import Any

from .timing import Speed

# (what, patterns, least ratio); the slowest of the patterns counts.
BESIDE_SET = (
    ("training-like and pinned patterns beside std::set", ("train", "pinned"), 8.0),
    ("variable and serving patterns beside std::set", ("train_var", "serve"), 4.0),
    ("random sizes beside std::set", ("random",), 4.0),
)
BESIDE_PYTORCH = (
    ("training beside PyTorch's allocator", ("train",), 15.0),
    ("random sizes beside PyTorch's allocator", ("random",), 8.0),
)
EXPANDABLE = 1.5  # at most this many times the cost without
EVENTS_PER_SECOND = 50e6
SKIPPING = 10.0
LINES_SECONDS, CORES = 1.2, 1.8
FIRST_SECONDS, WARM_SECONDS = 5.0, 0.6
BYTES_PER_LIVE_BLOCK, BYTES_PER_EVENT = 64, 8
ENOUGH_LIVE_BLOCKS = 10**6  # fewer fit into memory that the process was given before


def targets_of(report: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Rows (what, aim, reached, whether it is), in a fixed order; without what was not measured."""
    patterns: dict[str, Speed] = report["patterns"]
    recorded: dict[str, Speed] = report["recorded"]
    rows: list[tuple[str, str, str, bool]] = []

    def at_least(what: str, aim: float, reached: Iterable[float | None]) -> None:
        known = [x for x in reached if x is not None]
        if known:
            rows.append((what, f">= {aim:g}x", f"{min(known):.1f}x", min(known) >= aim))

    for what, names, aim in BESIDE_SET:
        at_least(what, aim, (patterns[n].ratio for n in names))
    for what, names, aim in BESIDE_PYTORCH:
        at_least(what, aim, (patterns[n].pytorch_ratio for n in names))
    costs = expandable_costs(patterns, "tightfit_ns")
    worst = max(costs, key=lambda n: costs[n])
    rows.append((
        "expandable segments on, beside off", f"<= {EXPANDABLE:g}x",
        f"{geometric_mean(costs.values()):.2f}x; {costs[worst]:.2f}x on {worst}",
        costs[worst] <= EXPANDABLE,
    ))  # fmt: skip
    per_second = geometric_mean([1e9 / s.tightfit_ns for s in recorded.values()])
    rows.append((
        "recordings, geometric mean", f">= {EVENTS_PER_SECOND / 1e6:.0f} M events/s",
        f"{per_second / 1e6:.0f} M events/s", per_second >= EVENTS_PER_SECOND,
    ))  # fmt: skip
    skipped = [
        s.tightfit_ns / s.skipping_ns
        for s in recorded.values()
        if s.skipping_ns < s.tightfit_ns / 2
    ]
    if skipped:
        mean = geometric_mean(skipped)
        rows.append((
            f"repetitions skipped ({len(skipped)} of {len(recorded)} recordings repeat)",
            f">= {SKIPPING:g}x", f"{mean:.1f}x", mean >= SKIPPING,
        ))  # fmt: skip
    lines = report["lines"]
    rows.append((
        f"{lines['lines']:,} lines x {lines['events']:,} events on {lines['threads']} cores",
        f"<= {LINES_SECONDS} s", f"{lines['seconds']:.2f} s", lines["seconds"] <= LINES_SECONDS,
    ))  # fmt: skip
    of_pattern: dict[str, dict[int, float]] = {}
    for row in report["cores"]:
        of_pattern.setdefault(row["pattern"], {})[row["threads"]] = row["events_per_second"]
    if all(2 in speeds for speeds in of_pattern.values()):
        at_least("two cores beside one", CORES, (s[2] / s[1] for s in of_pattern.values()))
    by_free = report["free_blocks"]
    ours, of_tree = (growth(by_free, key) for key in ("tightfit_ns", "cpp_set_ns"))
    if ours is not None and of_tree is not None:
        rows.append((
            f"cost from {by_free[0]['free']:,} to {by_free[-1]['free']:,} free blocks, beside "
            "std::set's logarithmic steps",
            f"<= {of_tree:.1f}x", f"{ours:.1f}x", ours <= of_tree,
        ))  # fmt: skip
    command = report["command_s"]
    for what, aim, seconds in (
        ("first tightfit replay, compiling included", FIRST_SECONDS, command["cold"]),
        ("a later tightfit replay", WARM_SECONDS, command["warm"]),
    ):
        rows.append((what, f"<= {aim:g} s", f"{seconds:.2f} s", seconds <= aim))
    fewest, *_, most = report["live_blocks"]
    if most["live"] >= ENOUGH_LIVE_BLOCKS:
        used = (most["touched_bytes"] - fewest["touched_bytes"]) / (most["live"] - fewest["live"])
        of_event = most["packed_bytes"] / most["events"]
        rows.append((
            f"memory touched for each of {most['live']:,} live blocks, beside {of_event:.0f} B an "
            "event of the program",
            f"<= {BYTES_PER_LIVE_BLOCK} B", f"{used:.1f} B",
            used <= BYTES_PER_LIVE_BLOCK and of_event <= BYTES_PER_EVENT,
        ))  # fmt: skip
    return rows


def expandable_costs(patterns: dict[str, Speed], simulator: str) -> dict[str, float]:
    """How many times longer each pattern takes with expandable segments, where that was measured.

    Args:
        simulator: a field of Speed, nanoseconds per event.
    """
    costs = {}
    for name in patterns:
        if f"{name}_expandable" in patterns:
            off, on = (getattr(patterns[n], simulator) for n in (name, f"{name}_expandable"))
            if off is not None and on is not None:
                costs[name] = on / off
    return costs


def growth(rows: list[dict[str, Any]], simulator: str) -> float | None:
    """How many times the first row's cost per event the last one's is; None = not measured.

    A balanced tree takes logarithmically many steps, so that to grow no faster than std::set does
    is to grow no faster than the logarithm, on a machine whose caches are too small for both.
    """
    first, last = rows[0][simulator], rows[-1][simulator]
    return None if first is None or last is None else last / first


def growth_plot(rows: list[dict[str, Any]], column: str, width: int = 40) -> list[str]:
    """A plot in characters: cost per event over a count that grows tenfold from row to row.

    A cost that grows with the logarithm of the count makes a straight line; the last column is
    what each tenfold step added.
    """
    top = max(row["tightfit_ns"] for row in rows)
    out = []
    before = None
    for row in rows:
        ns = row["tightfit_ns"]
        step = "" if before is None else f"  {ns - before:+5.1f}"
        out.append(f"{row[column]:>9,} {'#' * round(width * ns / top):<{width}} {ns:5.1f} ns{step}")
        before = ns
    return out

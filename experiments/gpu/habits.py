"""What was seen of the driver and the libraries, in words."""

from __future__ import annotations

from typing import Any

from ...traces.units import MiB, format_bytes


def describe_habits(habits: dict[str, Any]) -> list[str]:
    """Return one sentence per habit; see verify/driver_habits.py for the figures."""
    recurs, gaps = habits["recurs"], habits["gaps"]
    reserve, pages = habits["reserve"], habits["granularity"]
    rest = {row["size"]: row for row in habits["cudaMalloc"]}
    taken = ", ".join(
        f"{format_bytes(size)} takes {format_bytes(round(row['taken_each']))}"
        for size, row in rest.items()
        if size <= 3 * MiB
    )
    least = min(row["alignment"] for row in rest.values())
    kept = sum(row["kept_after_free"] for row in rest.values())
    each = ", ".join(
        f"{format_bytes(int(size))} {order}" for size, order in habits["order_of_each_size"].items()
    )
    most = ", ".join(f"{format_bytes(gap)} ({times} times)" for gap, times in gaps[:3])
    joined = "serves" if recurs["joined_hole_serves_more"] else "does not serve"
    odd = ", ".join(
        f"{int(size):,} B: " + (
            f"status {row['status']}" if row["status"] else f"takes {format_bytes(row['taken'])}"
        )
        for size, row in habits["cuMemCreate"].items()
    )  # fmt: skip
    return [
        f"cudaMalloc aligns to {format_bytes(least)} at least; {taken}.",
        f"Addresses of requests in turn are {habits['order']} ({each}); the gaps between "
        f"neighbours are {most}.",
        f"The same requests after a free get {'the same' if habits['same_again'] else 'other'} "
        "addresses.",
        f"Of two equal holes the first request goes into {recurs['first_into']}, the second into "
        f"{recurs['second_into']}; the lower one "
        + ("first." if recurs["lower_hole_first"] else "not first."),
        f"A smaller request goes {'into a hole' if recurs['smaller_into_hole'] else 'elsewhere'}; "
        + ("a hole of two neighbours " if recurs["neighbours"] else "a hole ")
        + f"{joined} a request of twice the size.",
        "cudaFree gives memory back at once." if not kept else
        f"After cudaFree {format_bytes(kept)} were still gone.",
        f"Mapped memory comes in {format_bytes(pages['minimum'])}, recommended "
        f"{format_bytes(pages['recommended'])}; cuMemCreate of {odd}.",
        f"Reservations are aligned to {format_bytes(reserve['alignment'])}, {reserve['order']}; a "
        f"freed one {'comes' if reserve['comes_again'] else 'does not come'} again; "
        f"{reserve['of_9_8_of_the_device']} of 8 of nine eighths of the device were had.",
    ]  # fmt: skip


def describe_libraries(rows: list[dict[str, Any]]) -> list[str]:
    """Return a Markdown table: what each step left in the allocator, and what outside of it."""
    out = [
        "| first use of | stays allocated | peak | outside the allocator | largest requests |",
        "|---|--:|--:|--:|---|",
    ]
    for row in rows:
        largest = ", ".join(
            f"{format_bytes(size)} {name}".strip() for size, name in row["largest"][:3]
        )
        said = (row["error"] or largest).replace("|", "\\|")
        out.append(
            f"| {row['step']} | {format_bytes(row['stays'])} | {format_bytes(row['peak'])} | "
            f"{format_bytes(row['outside'])} | {said} |"
        )
    return out

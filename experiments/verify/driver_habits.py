"""Look at how the driver gives memory out: addresses, alignment, granularity; used by the worker.

It imports nothing of this package.
"""

# Torch may be absent where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import ctypes
from typing import Any

from driver_calls import MIB, Location, Properties, load_driver, u64

GIB = 1 << 30
SIZES = (512, 4096, MIB, 2 * MIB, 3 * MIB, 20 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB)
PATTERN_MIB = (2, 20, 2, 34)  # as small, medium and large requests make them
PATTERN = 64
EACH = 8


class Memory:
    """cudaMalloc and cudaFree, with the addresses they deal in."""

    def __init__(self, torch: Any, runtime: Any) -> None:
        self.torch, self.runtime = torch, runtime

    def take(self, size: int) -> int:
        """Return an address.

        Raises:
            RuntimeError: there was none.
        """
        pointer = ctypes.c_void_p()
        status = self.runtime.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size))
        if status or not pointer.value:
            raise RuntimeError(f"cudaMalloc of {size} bytes failed with status {status}")
        return pointer.value

    def give(self, *addresses: int) -> None:
        for address in addresses:
            self.runtime.cudaFree(ctypes.c_void_p(address))

    @property
    def free(self) -> int:
        """Bytes that the device says are free."""
        return self.torch.cuda.mem_get_info()[0]


def look(torch: Any) -> dict[str, Any]:
    """Return what the driver does, as numbers and booleans; addresses only as distances."""
    torch.empty(1, device="cuda")
    runtime, driver = load_driver()
    memory = Memory(torch, runtime)
    return {
        "cudaMalloc": [_size(memory, size) for size in SIZES],
        **_pattern(memory),
        "recurs": _recurrence(memory),
        **_granularity(driver, memory),
        "reserve": _reservations(driver, memory),
    }


def alignment_of(addresses: list[int]) -> int:
    """Return the largest power of two that divides all of them."""
    together = 0
    for address in addresses:
        together |= address
    return together & -together


def order_of(numbers: list[int]) -> str:
    """Return "rising", "falling" or "mixed"."""
    pairs = list(zip(numbers, numbers[1:], strict=False))
    if all(a < b for a, b in pairs):
        return "rising"
    return "falling" if all(a > b for a, b in pairs) else "mixed"


def _size(memory: Memory, size: int) -> dict[str, Any]:
    """Take a few of one size: how they are aligned, and what they take of the device."""
    before = memory.free
    got = [memory.take(size) for _ in range(EACH)]
    taken = before - memory.free
    memory.give(*got)
    return {
        "size": size, "taken_each": taken / EACH, "alignment": alignment_of(got),
        "order": order_of(got), "kept_after_free": before - memory.free,
    }  # fmt: skip


def _pattern(memory: Memory) -> dict[str, Any]:
    """Take sizes in turn, as an allocator does, and say where each lies from the first."""
    sizes = [PATTERN_MIB[k % len(PATTERN_MIB)] * MIB for k in range(PATTERN)]
    got = [memory.take(size) for size in sizes]
    memory.give(*got)
    again = [memory.take(size) for size in sizes]
    memory.give(*again)
    steps: dict[int, int] = {}
    for (a, size), b in zip(zip(got, sizes, strict=True), got[1:], strict=False):
        steps[b - a - size] = steps.get(b - a - size, 0) + 1
    return {
        "pattern": [[size, address - got[0]] for size, address in zip(sizes, got, strict=True)],
        "order": order_of(got),
        "order_of_each_size": {
            str(size): order_of([a for a, s in zip(got, sizes, strict=True) if s == size])
            for size in sorted(set(sizes))
        },
        "gaps": sorted(steps.items(), key=lambda row: -row[1])[:8],
        "same_again": again == got,
    }


def _recurrence(memory: Memory) -> dict[str, Any]:
    """Free some of a row of neighbours and see where the next ones go."""
    out: dict[str, Any] = {}
    row = [memory.take(20 * MIB) for _ in range(7)]
    memory.give(row[1])
    memory.give(row[4])
    one = memory.take(20 * MIB)
    two = memory.take(20 * MIB)
    names = {row[1]: "the hole made first", row[4]: "the hole made last"}
    out["first_into"] = names.get(one, "elsewhere")
    out["second_into"] = names.get(two, "elsewhere")
    out["lower_hole_first"] = one < two if {one, two} == {row[1], row[4]} else None
    memory.give(one, two)
    smaller = memory.take(2 * MIB)
    holes = [(row[1], row[1] + 20 * MIB), (row[4], row[4] + 20 * MIB)]
    out["smaller_into_hole"] = any(low <= smaller < high for low, high in holes)
    memory.give(smaller, row[2])  # the first hole now has two rooms, if they are neighbours
    larger = memory.take(40 * MIB)
    low = min(row[1], row[2])
    out["neighbours"] = abs(row[1] - row[2]) == 20 * MIB
    out["joined_hole_serves_more"] = larger == low
    memory.give(larger, row[0], row[3], row[5], row[6])
    return out


def _granularity(driver: Any, memory: Memory) -> dict[str, Any]:
    """Ask for the granularity of mapped memory, and try what is none of its multiples."""
    pinned = Properties(1, 0, Location(1, 0), None)
    out = {}
    for flag, name in enumerate(("minimum", "recommended")):
        size = ctypes.c_size_t()
        driver.cuMemGetAllocationGranularity(ctypes.byref(size), ctypes.byref(pinned), flag)
        out[name] = size.value
    handle = u64()
    status = {}
    for size in (out["minimum"], out["minimum"] // 2, out["minimum"] + 4096):
        before = memory.free
        status[str(size)] = {
            "status": driver.cuMemCreate(
                ctypes.byref(handle), ctypes.c_size_t(size), ctypes.byref(pinned), u64(0)
            ),
            "taken": before - memory.free,
        }
        if not status[str(size)]["status"]:
            driver.cuMemRelease(handle)
    return {"granularity": out, "cuMemCreate": status}


def _reservations(driver: Any, memory: Memory) -> dict[str, Any]:
    """Reserve address space and see where it lies and whether it comes again."""

    def reserve(size: int) -> int:
        start = u64()
        n, none = ctypes.c_size_t(size), ctypes.c_size_t(0)
        status = driver.cuMemAddressReserve(ctypes.byref(start), n, none, u64(0), u64(0))
        return 0 if status else start.value

    def release(address: int, size: int) -> None:
        driver.cuMemAddressFree(u64(address), ctypes.c_size_t(size))

    total = memory.torch.cuda.mem_get_info()[1]
    whole = total // 8 * 9 // (20 * MIB) * (20 * MIB)  # what an expandable segment reserves
    got = [reserve(GIB) for _ in range(EACH)]
    release(got[3], GIB)
    again = reserve(GIB)
    for address in {*got, again} - {0}:
        release(address, GIB)
    many = [reserve(whole) for _ in range(EACH)]
    for address in many:
        if address:
            release(address, whole)
    return {
        "alignment": alignment_of(got), "order": order_of(got),
        "comes_again": again == got[3], "of_9_8_of_the_device": sum(a != 0 for a in many),
    }  # fmt: skip

"""Time the driver's own calls, idle and behind a running kernel; imported by the worker.

It imports nothing of this package. Every figure is the median of several calls, in nanoseconds.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

MIB = 1 << 20
# Below 2 MiB the driver divides pages that it has; PyTorch asks for no less.
MALLOC_BYTES = (
    512, 4096, MIB, 2 * MIB, 3 * MIB, 20 * MIB, 64 * MIB, 256 * MIB, 1024 * MIB, 4096 * MIB,
)  # fmt: skip
MAP_MIB = (2, 20, 200)
LOADED_MIB = 20  # behind a kernel; among the sizes of both lists above
KERNEL_CYCLES = 200_000  # about 100 microseconds
REPEATS = 15


class Location(ctypes.Structure):
    """CUmemLocation."""

    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_int)]


class Properties(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_ = [
        ("type", ctypes.c_int), ("handles", ctypes.c_int), ("location", Location),
        ("window", ctypes.c_void_p), ("flags", ctypes.c_ubyte * 8),
    ]  # fmt: skip


class Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = [("location", Location), ("flags", ctypes.c_int)]


def load_driver() -> tuple[Any, Any]:
    """Return the runtime that PyTorch has loaded, and the driver."""
    return ctypes.CDLL(_loaded("libcudart")), ctypes.CDLL("libcuda.so.1")


def measure(torch: Any) -> dict[str, Any]:
    """Return medians by call and size, idle and behind a kernel.

    {"cudaMalloc": [[bytes, ns], ...], ..., "behind_kernel": {"cudaMalloc": [bytes, ns], ...},
    "kernel": ns}: `behind_kernel` is what a call takes that is made right after a kernel was
    launched which by itself takes `kernel` from launch to end.
    """
    torch.empty(1, device="cuda")
    runtime, driver = load_driver()
    out: dict[str, Any] = {name: [] for name in ("cudaMalloc", "cudaFree")}
    for size in MALLOC_BYTES:
        if size > torch.cuda.mem_get_info()[0] // 2:
            continue  # too much for this device
        allocs, frees = zip(*(_malloc(runtime, size) for _ in range(REPEATS)), strict=True)
        out["cudaMalloc"].append([size, median(allocs)])
        out["cudaFree"].append([size, median(frees)])
    for mib in MAP_MIB:
        rows = [_mapping(driver, mib * MIB) for _ in range(REPEATS)]
        for name in rows[0]:
            out.setdefault(name, []).append([mib * MIB, median([row[name] for row in rows])])
    return out | _under_load(torch, runtime, driver)


def median(values: Any) -> int:
    """Return the middle value."""
    return sorted(values)[len(values) // 2]


def _loaded(name: str) -> str:
    with open("/proc/self/maps", encoding="utf-8") as file:
        return next(line.split()[-1] for line in file if f"/{name}" in line)


def _timed(call: Callable[[], int]) -> int:
    """Return nanoseconds of a call.

    Raises:
        RuntimeError: it failed.
    """
    begun = time.perf_counter_ns()
    status = call()
    taken = time.perf_counter_ns() - begun
    if status:
        raise RuntimeError(f"a call of the driver failed with status {status}")
    return taken


def _malloc(runtime: Any, size: int, before: Callable[[], None] = lambda: None) -> tuple[int, int]:
    """Time cudaMalloc and cudaFree; `before` is called before each, and not timed."""
    pointer = ctypes.c_void_p()
    before()
    alloc = _timed(lambda: runtime.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)))
    before()
    return alloc, _timed(lambda: runtime.cudaFree(pointer))


def _mapping(driver: Any, size: int, before: Callable[[], None] = lambda: None) -> dict[str, int]:
    """Time one life of mapped memory; `before` is called before each call, and not timed."""
    n, none, start, handle = ctypes.c_size_t(size), ctypes.c_size_t(0), u64(), u64()
    pinned = Properties(1, 0, Location(1, 0), None)
    access = Access(Location(1, 0), 3)
    one = ctypes.c_size_t(1)
    calls: dict[str, Callable[[], int]] = {
        "cuMemAddressReserve": lambda: driver.cuMemAddressReserve(
            ctypes.byref(start), n, none, u64(0), u64(0)
        ),
        "cuMemCreate": lambda: driver.cuMemCreate(
            ctypes.byref(handle), n, ctypes.byref(pinned), u64(0)
        ),
        "cuMemMap": lambda: driver.cuMemMap(start, n, none, handle, u64(0)),
        "cuMemSetAccess": lambda: driver.cuMemSetAccess(start, n, ctypes.byref(access), one),
        "cuMemUnmap": lambda: driver.cuMemUnmap(start, n),
        "cuMemRelease": lambda: driver.cuMemRelease(handle),
        "cuMemAddressFree": lambda: driver.cuMemAddressFree(start, n),
    }
    taken = {}
    for name, call in calls.items():
        before()
        taken[name] = _timed(call)
    return taken


def u64(value: int = 0) -> ctypes.c_uint64:
    """Return a C integer of 64 bits."""
    return ctypes.c_uint64(value)


def _under_load(torch: Any, runtime: Any, driver: Any) -> dict[str, Any]:
    """Time every call right behind the launch of a kernel, and that kernel by itself."""

    def launch() -> None:
        torch.cuda.synchronize()
        torch.cuda._sleep(KERNEL_CYCLES)

    kernels = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        begun = time.perf_counter_ns()
        torch.cuda._sleep(KERNEL_CYCLES)
        torch.cuda.synchronize()
        kernels.append(time.perf_counter_ns() - begun)
    size = LOADED_MIB * MIB
    allocs, frees = zip(*(_malloc(runtime, size, launch) for _ in range(REPEATS)), strict=True)
    behind = {"cudaMalloc": [size, median(allocs)], "cudaFree": [size, median(frees)]}
    rows = [_mapping(driver, size, launch) for _ in range(REPEATS)]
    behind |= {name: [size, median([row[name] for row in rows])] for name in rows[0]}
    torch.cuda.synchronize()
    return {"behind_kernel": behind, "kernel": median(kernels)}

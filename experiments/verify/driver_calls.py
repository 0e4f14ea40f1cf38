"""Time the driver's own calls, idle and behind a running kernel; imported by the worker.

It imports nothing of this package. Every figure is the median of several calls, in nanoseconds.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

MIB = 1 << 20
MALLOC_MIB = (2, 20, 64, 256, 1024)
MAP_MIB = (2, 20, 200)
REPEATS = 15


class _Location(ctypes.Structure):
    """CUmemLocation."""

    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_int)]


class _Properties(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_ = [
        ("type", ctypes.c_int), ("handles", ctypes.c_int), ("location", _Location),
        ("window", ctypes.c_void_p), ("flags", ctypes.c_ubyte * 8),
    ]  # fmt: skip


class _Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = [("location", _Location), ("flags", ctypes.c_int)]


def measure(torch: Any) -> dict[str, Any]:
    """Return medians by call and size: {"cudaMalloc": [[bytes, ns], ...], ...}, and the wait.

    `wait` is what cudaFree takes longer behind a kernel of the length `kernel`, both in ns.
    """
    torch.empty(1, device="cuda")
    runtime = ctypes.CDLL(_loaded("libcudart"))
    driver = ctypes.CDLL("libcuda.so.1")
    out: dict[str, Any] = {name: [] for name in ("cudaMalloc", "cudaFree")}
    for mib in MALLOC_MIB:
        allocs, frees = zip(*(_malloc(runtime, mib * MIB) for _ in range(REPEATS)), strict=True)
        out["cudaMalloc"].append([mib * MIB, median(allocs)])
        out["cudaFree"].append([mib * MIB, median(frees)])
    for mib in MAP_MIB:
        rows = [_mapping(driver, mib * MIB) for _ in range(REPEATS)]
        for name in rows[0]:
            out.setdefault(name, []).append([mib * MIB, median([row[name] for row in rows])])
    out |= _waits(torch, runtime)
    return out


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


def _malloc(runtime: Any, size: int) -> tuple[int, int]:
    pointer = ctypes.c_void_p()
    alloc = _timed(lambda: runtime.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)))
    return alloc, _timed(lambda: runtime.cudaFree(pointer))


def _mapping(driver: Any, size: int) -> dict[str, int]:
    """Time one life of mapped memory."""
    n, none, start, handle = ctypes.c_size_t(size), ctypes.c_size_t(0), u64(), u64()
    pinned = _Properties(1, 0, _Location(1, 0), None)
    access = _Access(_Location(1, 0), 3)
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
    return {name: _timed(call) for name, call in calls.items()}


def u64(value: int = 0) -> ctypes.c_uint64:
    """Return a C integer of 64 bits."""
    return ctypes.c_uint64(value)


def _waits(torch: Any, runtime: Any) -> dict[str, int]:
    """Time cudaFree behind a kernel, and that kernel."""
    pointer = ctypes.c_void_p()
    waits, kernels = [], []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        runtime.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(20 * MIB))
        begun = time.perf_counter_ns()
        torch.cuda._sleep(200_000)  # cycles: about 100 microseconds
        torch.cuda.synchronize()
        kernels.append(time.perf_counter_ns() - begun)
        torch.cuda._sleep(200_000)
        waits.append(_timed(lambda: runtime.cudaFree(pointer)))
    return {"free_behind_kernel": median(waits), "kernel": median(kernels)}

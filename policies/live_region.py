"""The memory of a live policy: one range of addresses, and how pages are mapped into it.

On a GPU the driver's virtual memory calls, page by page, and not one cudaMalloc of the whole
capacity. A policy's addresses then are those of its simulation, where segments never lie where
others lay; the device has as much memory taken as the policy holds, and libraries beside PyTorch
can have the rest; and what a policy gives back is given back.

Without a GPU a range of host memory stands in: a page is accessible while it is mapped, and loses
its content when it is unmapped. A policy that hands out memory it does not hold faults there.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..sim.live_state import (
    BASE,
    CONTEXT,
    CREATE,
    CUDA,
    KIND,
    MAP,
    PAGE,
    POP,
    PUSH,
    RELEASE,
    SET_ACCESS,
    SPACE,
    SPACE_BYTES,
    STAND_IN,
    SYNCHRONIZE,
    UNMAP,
)
from ..traces.errors import ConfigError
from ..traces.units import GiB, format_bytes

LEAST_SPACE = 64 * GiB  # addresses, below which segments would soon have used them up
_PROT_NONE, _PRIVATE_UNRESERVED = 0, 0x4022  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE


class Region(Protocol):
    """Where a device's memory comes from.

    Attributes:
        base: the first of its addresses.
    """

    base: int

    def describe(self, fields: Mapping[str, np.ndarray]) -> None:
        """Write into a LIVE buffer's fields where the region is and how it is mapped."""
        ...

    def close(self) -> None:
        """Give the addresses back; nothing of it may be in use."""
        ...


def address_of_function(library: ctypes.CDLL, name: str) -> int:
    """Address of an exported function or object; 0 if there is none of that name."""
    try:
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
    except AttributeError:
        return 0


class StandInRegion:
    """Host memory that stands in for a device's.

    Args:
        space: bytes of addresses; memory is taken for what is mapped only.

    Raises:
        ConfigError: this system has no such range of addresses.
    """

    def __init__(self, space: int = SPACE) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_long,
        ]  # fmt: skip
        self.size = space + PAGE
        found = self.libc.mmap(None, self.size, _PROT_NONE, _PRIVATE_UNRESERVED, -1, 0)
        if found in (None, ctypes.c_void_p(-1).value):
            raise ConfigError(f"live: the system has no {format_bytes(space)} of free addresses")
        self.start, self.space = found, space
        self.base = (found + PAGE - 1) // PAGE * PAGE

    def describe(self, fields: Mapping[str, np.ndarray]) -> None:
        word = fields["word"]
        word[KIND], word[BASE], word[SPACE_BYTES] = STAND_IN, self.base, self.space
        word[MAP] = address_of_function(self.libc, "mprotect")
        word[UNMAP] = address_of_function(self.libc, "madvise")

    def close(self) -> None:
        self.libc.munmap(ctypes.c_void_p(self.start), ctypes.c_size_t(self.size))


class CudaRegion:
    """Addresses of a GPU, reserved with cuMemAddressReserve.

    Source: cuda.h, CUmemAllocationProp, CUmemAccessDesc; PyTorch's ExpandableSegment maps alike.

    Args:
        device: its number.

    Raises:
        ConfigError: there is no driver, or it refuses.
    """

    CALLS = {
        MAP: "cuMemMap", UNMAP: "cuMemUnmap", CREATE: "cuMemCreate", RELEASE: "cuMemRelease",
        SET_ACCESS: "cuMemSetAccess", SYNCHRONIZE: "cuCtxSynchronize",
        PUSH: "cuCtxPushCurrent_v2", POP: "cuCtxPopCurrent_v2",
    }  # fmt: skip

    def __init__(self, device: int) -> None:
        try:
            self.driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise ConfigError(f"live: no CUDA driver: {error}") from None
        self.device = device
        self._do("cuInit", 0)
        self.context = ctypes.c_void_p()
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(self.context), device)
        self.space = SPACE
        address = ctypes.c_uint64()
        zero = ctypes.c_uint64(0)
        while True:
            code = self._call(
                "cuMemAddressReserve", ctypes.byref(address), ctypes.c_size_t(self.space),
                ctypes.c_size_t(PAGE), zero, zero,
            )  # fmt: skip
            if code == 0:
                break
            self.space //= 2
            if self.space < LEAST_SPACE:
                raise ConfigError(f"live: cuMemAddressReserve fails with CUDA error {code}")
        self.base = int(address.value)

    def _call(self, name: str, *arguments: Any) -> int:
        return int(getattr(self.driver, name)(*arguments))

    def _do(self, name: str, *arguments: Any) -> None:
        code = self._call(name, *arguments)
        if code:
            raise ConfigError(f"live: {name} fails with CUDA error {code}")

    def describe(self, fields: Mapping[str, np.ndarray]) -> None:
        word = fields["word"]
        word[KIND], word[BASE], word[SPACE_BYTES] = CUDA, self.base, self.space
        word[CONTEXT] = self.context.value or 0
        for place, name in self.CALLS.items():
            word[place] = address_of_function(self.driver, name)
        pinned, on_device, read_write = 1, 1, 3
        properties = struct.pack("<iiiiqQ", pinned, 0, on_device, self.device, 0, 0)
        access = struct.pack("<iiii", on_device, self.device, read_write, 0)
        fields["properties"].view("u1")[: len(properties)] = np.frombuffer(properties, "u1")
        fields["access"].view("u1")[: len(access)] = np.frombuffer(access, "u1")

    def close(self) -> None:
        self._call("cuMemAddressFree", ctypes.c_uint64(self.base), ctypes.c_size_t(self.space))

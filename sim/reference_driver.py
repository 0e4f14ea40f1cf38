"""The driver below the reference replay: simulated from a capacity, or as it was recorded."""

from __future__ import annotations

from ..traces.event import Action
from ..traces.program import Program
from ..traces.units import round_up
from .device import ALIGNMENT, FIRST_ADDRESS, Device


class Driver:
    """A CUDA driver that only does accounting.

    Attributes:
        device: how much memory there is.
        used: physical bytes handed out, in the driver's granularity.
        next_address: where the next segment or reservation goes.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.used = 0
        self.next_address = FIRST_ADDRESS

    def begin(self, op: int, may_fail: bool) -> None:
        """Note which op of the program the coming calls belong to."""

    def keep_clear(self, end: int) -> None:
        """Never hand out addresses below `end`."""
        self.next_address = max(self.next_address, round_up(end, ALIGNMENT))

    def take_addresses(self, size: int) -> int:
        """Return the start of `size` bytes of address space that were never used before."""
        addr = self.next_address
        self.next_address = round_up(addr + size, ALIGNMENT)
        return addr

    def physical(self, size: int) -> int:
        """Return the physical bytes one allocation or one page of `size` bytes occupies."""
        return round_up(size, self.device.granularity)

    def take_memory(self, size: int) -> bool:
        """Take physical memory for one allocation or page if there is enough."""
        need = self.used + self.physical(size) + self.device.other_bytes
        if self.device.capacity_bytes is not None and need > self.device.capacity_bytes:
            return False
        self.used += self.physical(size)
        return True

    def give_memory(self, size: int) -> None:
        """Give physical memory of one allocation or page back."""
        self.used -= self.physical(size)

    def free_bytes(self) -> int:
        """Return what cudaMemGetInfo would call free; 0 on a device without a capacity."""
        if self.device.capacity_bytes is None:
            return 0
        return max(0, self.device.capacity_bytes - self.device.other_bytes - self.used)

    def malloc(self, size: int) -> int | None:
        """cudaMalloc: return the address, or None if memory ran out."""
        return self.take_addresses(size) if self.take_memory(size) else None

    def free(self, addr: int, size: int) -> None:
        """cudaFree."""
        self.give_memory(size)

    def reserve(self, size: int) -> int:
        """cuMemAddressReserve: return the base address."""
        return self.take_addresses(size)

    def map(self, addr: int, n_pages: int, page: int) -> int | None:
        """cuMemCreate and cuMemMap of all pages or none; return the address mapped, or None."""
        for done in range(n_pages):
            if not self.take_memory(page):
                for _ in range(done):
                    self.give_memory(page)
                return None
        return addr

    def unmap(self, addr: int, n_pages: int, page: int) -> None:
        """cuMemUnmap and cuMemRelease of pages."""
        for _ in range(n_pages):
            self.give_memory(page)


class RecordedDriver(Driver):
    """A driver that answers as the recording says it did.

    During one op it grants exactly what the recorded calls of that op granted, in their order.
    An op of which every recorded call has been answered has left the recording's path: its
    further calls get synthetic addresses, unless the op is a recorded failure.
    """

    def __init__(self, device: Device, program: Program) -> None:
        super().__init__(device)
        self.script: dict[int, list[tuple[int, int, int]]] = {}
        for op, action, addr, size in zip(
            program.driver_op.tolist(),
            program.driver_action.tolist(),
            program.driver_addr.tolist(),
            program.driver_size.tolist(),
            strict=True,
        ):
            self.script.setdefault(op, []).append((action, addr, size))
            self.keep_clear(addr + size)
        self.left: list[tuple[int, int, int]] = []
        self.may_fail = False

    def begin(self, op: int, may_fail: bool) -> None:
        """Turn to the recorded calls of one op; `may_fail` marks a recorded failure."""
        self.left = self.script.get(op, [])
        self.may_fail = may_fail

    def take_memory(self, size: int) -> bool:
        """Take memory whatever the capacity: the recording knows best."""
        self.used += self.physical(size)
        return True

    def malloc(self, size: int) -> int | None:
        """cudaMalloc: succeeds iff the next recorded call is one of this size."""
        if not self.left:
            return None if self.may_fail else super().malloc(size)
        action, addr, recorded = self.left[0]
        if action != Action.SEGMENT_ALLOC or recorded != size:
            return None
        self.left.pop(0)
        self.take_memory(size)
        return addr

    def free(self, addr: int, size: int) -> None:
        """cudaFree: takes the call off the script."""
        self._strike(Action.SEGMENT_FREE, addr)
        super().free(addr, size)

    def reserve(self, size: int) -> int:
        """cuMemAddressReserve: the base is where the recording maps next."""
        if self.left and self.left[0][0] == Action.SEGMENT_MAP:
            return self.left[0][1]
        return super().reserve(size)

    def map(self, addr: int, n_pages: int, page: int) -> int | None:
        """cuMemMap: succeeds iff the next recorded call is one; returns the recorded address."""
        if self.left:
            if self.left[0][0] != Action.SEGMENT_MAP:
                return None
            addr = self.left.pop(0)[1]
        elif self.may_fail:
            return None
        return super().map(addr, n_pages, page)

    def unmap(self, addr: int, n_pages: int, page: int) -> None:
        """cuMemUnmap: takes the call off the script."""
        self._strike(Action.SEGMENT_UNMAP, addr)
        super().unmap(addr, n_pages, page)

    def _strike(self, action: Action, addr: int) -> None:
        for i, row in enumerate(self.left):
            if row[:2] == (action, addr):
                del self.left[i]
                return

"""How a twin meets a program: the driver, the waiting blocks and the numbers, all by lists.

A twin answers the same question as a compiled policy in the slowest and plainest way, and shares no
code with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tightfit.sim.device import Device
from tightfit.traces.program import Op, Program

MiB = 1 << 20


class Driver:
    """Counts what is taken from the device."""

    def __init__(self, device: Device) -> None:
        self.room = None
        if device.capacity_bytes is not None:
            self.room = max(0, device.capacity_bytes - device.other_bytes)
        self.step = device.granularity
        self.used = self.reserved = self.peak = self.allocs = self.frees = 0
        self.next_address = 0x7F0000000000

    def physical(self, size: int) -> int:
        return -(-size // self.step) * self.step

    def map(self, size: int) -> bool:
        if self.room is not None and self.used + self.physical(size) > self.room:
            return False
        self.used += self.physical(size)
        self.reserved += size
        self.peak = max(self.peak, self.reserved)
        self.allocs += 1
        return True

    def unmap(self, size: int) -> None:
        self.used -= self.physical(size)
        self.reserved -= size
        self.frees += 1

    def addresses(self, size: int) -> int:
        address = self.next_address
        self.next_address += -(-size // (2 * MiB)) * 2 * MiB
        return address

    def malloc(self, size: int) -> int | None:
        return self.addresses(size) if self.map(size) else None


@dataclass(eq=False)
class Block:
    """Some bytes, handed out or free."""

    addr: int
    size: int
    lane: int = 0
    is_free: bool = False

    @property
    def end(self) -> int:
        return self.addr + self.size


class Twin:
    """What a twin is; `streams` says whether each stream has memory of its own.

    Attributes:
        hint, words: what a policy with foresight is told of the current request, and at the start.
    """

    streams = False
    hint = 0
    words: tuple[int, ...] = ()

    def __init__(self, values: Mapping[str, int], driver: Driver) -> None:
        self.p, self.driver = values, driver

    def allocate(self, size: int, lane: int) -> Block | None:
        raise NotImplementedError

    def free(self, block: Block) -> None:
        raise NotImplementedError

    def trim(self) -> int:
        return 0


@dataclass
class Played:
    """What a twin did; named as in a Run."""

    n_ops: int = 0
    first_oom_op: int = -1
    first_oom_bytes: int = 0
    stats: dict[str, int] = field(default_factory=dict)
    addr: list[int] = field(default_factory=list)


@dataclass(eq=False)
class Held:
    """One allocation of the program."""

    asked: int
    block: Block
    waits: bool = False


def play(
    program: Program,
    make: type[Twin],
    values: Mapping[str, int],
    device: Device,
    stop: bool = True,
    hints: Sequence[int] = (),
    words: tuple[int, ...] = (),
) -> Played:
    """Carry a program out on a twin; hints are given op by op, words at the start."""
    driver = Driver(device)
    twin = make(values, driver)
    twin.words = words
    out = Played(addr=[0] * len(program.request))
    held: dict[int, Held] = {}
    waiting: list[int] = []
    count = {"ooms": 0, "syncs": 0, "retries": 0}
    peaks = {"allocated": 0, "active": 0, "requested": 0}
    capturing = False

    def now(what: str) -> int:
        if what == "allocated":
            return sum(h.block.size for h in held.values() if not h.waits)
        return sum(h.asked if what == "requested" else h.block.size for h in held.values())

    def give_back() -> bool:
        count["syncs"] += 1
        waited = bool(waiting)
        for a in waiting:
            twin.free(held.pop(a).block)
        waiting.clear()
        return twin.trim() > 0 or waited

    for i in range(len(program.op)):
        op, arg = Op(int(program.op[i])), int(program.arg[i])
        out.n_ops = i + 1
        twin.hint = hints[i] if hints else 0
        if op in (Op.MALLOC, Op.TRY):
            r = int(program.request[arg]) if op == Op.MALLOC else arg
            asked, lane = int(program.req_size[r]), 0
            if make.streams:
                lane = sorted(set(program.req_stream.tolist())).index(int(program.req_stream[r]))
            block = twin.allocate(asked, lane)
            if block is None and not capturing and give_back():
                count["retries"] += 1
                block = twin.allocate(asked, lane)
            if block is None:
                count["ooms"] += 1
                if out.first_oom_op < 0:
                    out.first_oom_op, out.first_oom_bytes = i, asked
                if stop:
                    break
                continue
            held[-1 if op == Op.TRY else arg] = Held(asked, block)
            for what in peaks:
                peaks[what] = max(peaks[what], now(what))
            if op == Op.TRY:
                twin.free(held.pop(-1).block)
            else:
                out.addr[arg] = block.addr
        elif op == Op.FREE and arg in held:
            twin.free(held.pop(arg).block)
        elif op == Op.FREE_LATER and arg in held:
            held[arg].waits = True
            waiting.append(arg)
        elif op == Op.COMPLETE and arg in held:
            waiting.remove(arg)
            twin.free(held.pop(arg).block)
        elif op == Op.CAPTURE:
            capturing = bool(arg)
        elif op == Op.EMPTY_CACHE and not capturing:
            give_back()
    out.stats = {
        "allocated_bytes.all.current": now("allocated"),
        "active_bytes.all.current": now("active"),
        "requested_bytes.all.current": now("requested"),
        "reserved_bytes.all.current": driver.reserved,
        "reserved_bytes.all.peak": driver.peak,
        "num_device_alloc": driver.allocs,
        "num_device_free": driver.frees,
        "num_alloc_retries": count["retries"],
        "num_ooms": count["ooms"],
        "num_sync_all_streams": count["syncs"],
        **{f"{what}_bytes.all.peak": peak for what, peak in peaks.items()},
    }
    return out

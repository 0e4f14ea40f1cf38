"""The slow, obvious check of a recording: plain Python, one entry after the other.

It shares no code with the kernels and readers it is there to catch. A recording may begin while
blocks are live and segments reserved; what it never shows being made is taken to be older than the
recording wherever that is possible, and nowhere else.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from .event import Action, BlockState
from .recording import DeviceRecording, Finding, Recording

Row = dict[str, int]


def problems(recording: Recording) -> list[Finding]:
    """Return what contradicts itself in a recording; nothing if it is sound.

    One finding for each kind and device; its text shows the first case. Kinds: bad_size,
    segments_overlap, blocks_do_not_tile, segment_sums, time_backwards, alloc_over_live,
    alloc_outside_segments, free_unknown, free_size, free_not_requested, segment_free_unknown,
    segment_free_live, map_over_mapped, unmap_unmapped, unmap_live, lost_free, unknown_live.
    """
    found = []
    for number, device in recording.devices.items():
        report = _Report(number)
        _check_state(device, report)
        _History(device, report).check()
        found += report.findings()
    return found


class _Report:
    """Counts the cases of each kind of problem and keeps the first."""

    def __init__(self, device: int) -> None:
        self.device = device
        self.cases: dict[str, list[str]] = {}

    def add(self, kind: str, case: str) -> None:
        self.cases.setdefault(kind, []).append(case)

    def findings(self) -> list[Finding]:
        out = []
        for kind, cases in self.cases.items():
            more = f" ({len(cases)} such cases)" if len(cases) > 1 else ""
            out.append(
                Finding(kind, len(cases), f"device {self.device}: {cases[0]}{more}", self.device)
            )
        return out


class _Ranges:
    """Half-open address ranges as a list of (start, end); every question looks at all of them."""

    def __init__(self) -> None:
        self.items: list[tuple[int, int]] = []

    def overlaps(self, start: int, end: int) -> bool:
        return any(a < end and start < b for a, b in self.items)

    def add(self, start: int, end: int) -> None:
        self.items.append((start, end))

    def remove(self, start: int, end: int) -> None:
        left = []
        for a, b in self.items:
            if a < start:
                left.append((a, min(b, start)))
            if b > end:
                left.append((max(a, end), b))
        self.items = left


def _rows(columns: dict) -> list[Row]:
    lists = {name: column.tolist() for name, column in columns.items()}
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def _check_state(device: DeviceRecording, report: _Report) -> None:
    """Check the final segments and blocks."""
    segments, blocks = _rows(device.segments), _rows(device.blocks)
    by_address = sorted(segments, key=lambda s: s["address"])
    for one, next_one in zip(by_address, by_address[1:], strict=False):
        if one["address"] + one["total_size"] > next_one["address"]:
            report.add(
                "segments_overlap",
                f"segment {one['address']:#x} of {one['total_size']} B reaches into segment "
                f"{next_one['address']:#x}",
            )
    for segment in segments:
        where = f"segment {segment['address']:#x}"
        if segment["total_size"] <= 0:
            report.add("bad_size", f"{where} has size {segment['total_size']}")
        inside = blocks[segment["first_block"] : segment["first_block"] + segment["n_blocks"]]
        end = segment["address"]
        for block in inside:
            if block["size"] <= 0:
                report.add("bad_size", f"block {block['address']:#x} has size {block['size']}")
            if block["address"] != end:
                report.add(
                    "blocks_do_not_tile",
                    f"{where}: a block begins at {block['address']:#x}, expected {end:#x}",
                )
            end = block["address"] + block["size"]
        if end != segment["address"] + segment["total_size"]:
            report.add(
                "blocks_do_not_tile",
                f"{where}: its blocks end at {end:#x}, expected "
                f"{segment['address'] + segment['total_size']:#x}",
            )
        active = [b for b in inside if b["state"] != BlockState.INACTIVE]
        allocated = [b for b in active if b["state"] == BlockState.ALLOCATED]
        sums = {
            "allocated_size": sum(b["size"] for b in allocated),
            "active_size": sum(b["size"] for b in active),
        }
        if all(b["requested_size"] >= 0 for b in active):
            sums["requested_size"] = sum(b["requested_size"] for b in active)
        for name, expected in sums.items():
            if segment[name] not in (-1, expected):
                report.add(
                    "segment_sums",
                    f"{where}: {name} is {segment[name]}, its blocks add up to {expected}",
                )


class _History:
    """What is live, pending, reserved and returned after each entry."""

    def __init__(self, device: DeviceRecording, report: _Report) -> None:
        self.entries = _rows(device.entries)
        self.segments = _rows(device.segments)
        self.blocks = _rows(device.blocks)
        self.report = report
        self.live: dict[int, int] = {}  # address -> requested size
        self.pending: dict[int, int] = {}
        self.starts: list[int] = []  # of live and pending allocations, ascending
        self.reserved = _Ranges()  # certainly reserved now
        self.returned = _Ranges()  # certainly returned to the driver
        self.whole: dict[int, int] = {}  # segments seen to be allocated: address -> size

    def check(self) -> None:
        if not self.entries:
            return
        self.assume_start()
        last_time = 0
        for i, entry in enumerate(self.entries):
            time = entry["time_us"]
            if time and time < last_time:
                self.report.add(
                    "time_backwards", f"entry {i} is {last_time - time} us before the one before it"
                )
            last_time = time or last_time
            self.step(f"entry {i}", entry)
        self.check_end()

    def assume_start(self) -> None:
        """Take as live from the start what is freed, or live at the end, and never allocated."""
        made = {Action.SEGMENT_ALLOC, Action.SEGMENT_MAP}
        gone = {Action.SEGMENT_FREE, Action.SEGMENT_UNMAP}
        touched, old = _Ranges(), _Ranges()
        for segment in self.segments:
            old.add(segment["address"], segment["address"] + segment["total_size"])
        for entry in self.entries:
            if entry["action"] in made | gone:
                span = entry["addr"], entry["addr"] + entry["size"]
                touched.add(*span)
                if entry["action"] in gone:
                    old.add(*span)
        for start, end in ((s["address"], s["address"] + s["total_size"]) for s in self.segments):
            if not touched.overlaps(start, end):
                self.reserved.add(start, end)
        new, seen = _Ranges(), set()
        for entry in self.entries:
            action, addr = entry["action"], entry["addr"]
            if action in made:
                new.add(addr, addr + entry["size"])
            if action not in (Action.ALLOC, Action.FREE_REQUESTED, Action.FREE_COMPLETED):
                continue
            if addr in seen:
                continue
            seen.add(addr)
            if action == Action.ALLOC:
                continue
            if old.overlaps(addr, addr + 1) and not new.overlaps(addr, addr + 1):
                self.begin(addr, entry["size"], pending=action == Action.FREE_COMPLETED)
        for block in self.blocks:
            if block["state"] != BlockState.INACTIVE and block["address"] not in seen:
                if not new.overlaps(block["address"], block["address"] + 1):
                    size = block["size"] if block["requested_size"] < 0 else block["requested_size"]
                    self.begin(block["address"], size, block["state"] == BlockState.PENDING)

    def begin(self, addr: int, size: int, pending: bool = False) -> None:
        self.end(addr)
        (self.pending if pending else self.live)[addr] = size
        insort(self.starts, addr)

    def end(self, addr: int) -> None:
        """Forget an allocation, if there is one at this address."""
        if self.live.pop(addr, None) is not None or self.pending.pop(addr, None) is not None:
            del self.starts[bisect_left(self.starts, addr)]

    def size_at(self, addr: int) -> int:
        return self.live[addr] if addr in self.live else self.pending[addr]

    def live_inside(self, start: int, end: int) -> int | None:
        """Return the address of a live or pending allocation that overlaps the range."""
        i = bisect_left(self.starts, start)
        if i > 0 and self.starts[i - 1] + self.size_at(self.starts[i - 1]) > start:
            return self.starts[i - 1]
        return self.starts[i] if i < len(self.starts) and self.starts[i] < end else None

    def step(self, where: str, entry: Row) -> None:
        action, addr, size = entry["action"], entry["addr"], entry["size"]
        if action in (Action.SNAPSHOT, Action.ANNOTATE, Action.OTHER):
            return
        if size <= 0:
            name = Action(action).name.lower()
            self.report.add("bad_size", f"{where}: {name} of {size} B")
            return
        at = f"{where} at {addr:#x}"
        if action == Action.ALLOC:
            self.alloc(at, addr, size)
        elif action == Action.FREE_REQUESTED:
            self.free_requested(at, addr, size)
        elif action == Action.FREE_COMPLETED:
            self.free_completed(at, addr, size)
        elif action in (Action.SEGMENT_ALLOC, Action.SEGMENT_MAP):
            self.reserve(at, addr, size, mapped=action == Action.SEGMENT_MAP)
        elif action in (Action.SEGMENT_FREE, Action.SEGMENT_UNMAP):
            self.give_back(at, addr, size, mapped=action == Action.SEGMENT_UNMAP)

    def alloc(self, at: str, addr: int, size: int) -> None:
        other = self.live_inside(addr, addr + size)
        while other is not None:
            self.report.add(
                "alloc_over_live",
                f"{at}: an alloc of {size} B lies over the live allocation {other:#x} of "
                f"{self.size_at(other)} B",
            )
            self.end(other)
            other = self.live_inside(addr, addr + size)
        if self.returned.overlaps(addr, addr + size):
            self.report.add(
                "alloc_outside_segments", f"{at}: an alloc of {size} B lies in returned memory"
            )
        self.begin(addr, size)

    def free_requested(self, at: str, addr: int, size: int) -> None:
        if addr not in self.live:
            what = "is already requested" if addr in self.pending else "is not allocated"
            self.report.add("free_unknown", f"{at}: the free is of what {what}")
            return
        self.check_freed_size(at, size, self.live[addr])
        self.pending[addr] = self.live.pop(addr)

    def free_completed(self, at: str, addr: int, size: int) -> None:
        if addr not in self.pending:
            kind = "free_not_requested" if addr in self.live else "free_unknown"
            what = "was not requested" if addr in self.live else "is of what is not allocated"
            self.report.add(kind, f"{at}: the completed free {what}")
        else:
            self.check_freed_size(at, size, self.pending[addr])
        self.end(addr)

    def check_freed_size(self, at: str, size: int, allocated: int) -> None:
        if size != allocated:
            self.report.add("free_size", f"{at}: freed {size} B, allocated {allocated} B")

    def reserve(self, at: str, addr: int, size: int, mapped: bool) -> None:
        if self.reserved.overlaps(addr, addr + size):
            kind = "map_over_mapped" if mapped else "segments_overlap"
            self.report.add(kind, f"{at}: {size} B are reserved where memory is reserved already")
            self.reserved.remove(addr, addr + size)
        self.reserved.add(addr, addr + size)
        self.returned.remove(addr, addr + size)
        if not mapped:
            self.whole[addr] = size

    def give_back(self, at: str, addr: int, size: int, mapped: bool) -> None:
        known = self.whole.pop(addr, size)
        if self.returned.overlaps(addr, addr + size):
            kind = "unmap_unmapped" if mapped else "segment_free_unknown"
            self.report.add(kind, f"{at}: {size} B are returned that were returned before")
        elif not mapped and known != size:
            self.report.add(
                "segment_free_unknown", f"{at}: freed {size} B of a segment of {known} B"
            )
        inside = self.live_inside(addr, addr + size)
        if inside is not None:
            kind = "unmap_live" if mapped else "segment_free_live"
            self.report.add(kind, f"{at}: {size} B are returned while {inside:#x} is live in them")
        self.reserved.remove(addr, addr + size)
        self.returned.remove(addr, addr + size)
        self.returned.add(addr, addr + size)

    def check_end(self) -> None:
        """Compare what is live after the last entry with the final blocks."""
        active = {b["address"] for b in self.blocks if b["state"] != BlockState.INACTIVE}
        ours = set(self.starts)
        for addr in sorted(ours - active):
            self.report.add(
                "lost_free",
                f"{addr:#x} of {self.size_at(addr)} B is never freed and not live at the end",
            )
        for addr in sorted(active - ours):
            self.report.add(
                "unknown_live", f"{addr:#x} is live at the end but not after the entries"
            )

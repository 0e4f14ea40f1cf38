"""PyTorch's native allocator as plainly as Python can say it: the heart of the reference replay.

Every list is searched from end to end and sorted anew at every use; nothing here is meant to be
fast. The methods follow a request through malloc, then a free, then memory on its way back.
"""

from __future__ import annotations

import math

from ..traces.event import Action, BlockState
from ..traces.units import MiB, round_up
from .conditions import Conditions
from .reference_driver import Driver
from .reference_heap import UNMAPPED, Block, BlockPool, Segment, Stats
from .release import Release
from .settings import OFF, Settings

# Source: c10/cuda/CUDACachingAllocator.h, the constants at the top of the file.
MIN_BLOCK = 512
SMALL_LIMIT = 1 * MiB
SMALL_SEGMENT = 2 * MiB
MIN_LARGE = 10 * MiB
LARGE_ROUNDING = 2 * MiB
TOO_LARGE = 1 << 60  # a request of this many bytes is refused without a look at the memory


class Rejected(Exception):
    """A malloc ends here and now, without the recovery chain and without a trace."""


def round_size(n: int, settings: Settings) -> int:
    """Return the bytes a request of n bytes counts as.

    Source: DeviceCachingAllocator::round_size and roundup_power2_next_division.
    """
    if n < MIN_BLOCK:
        return MIN_BLOCK
    entry = min(max(n.bit_length() - 1 - 20, 0), 15)
    divisions = settings.roundup_divisions[entry]
    if divisions > 1 and n > MIN_BLOCK * divisions:
        floor = 1 << (n.bit_length() - 1)
        return round_up(n, floor // divisions)
    return round_up(n, MIN_BLOCK)


def allocation_size(size: int, settings: Settings) -> int:
    """Return how much a request of `size` rounded bytes asks cudaMalloc for.

    Source: DeviceCachingAllocator::get_allocation_size.
    """
    if size <= SMALL_LIMIT:
        return SMALL_SEGMENT
    if size < MIN_LARGE:
        return settings.large_segment_size
    return round_up(size, LARGE_ROUNDING)


def memory_limit(conditions: Conditions, rules: Release) -> int | None:
    """Return the bytes the allocator may take from the driver; None = as many as it gives.

    Source: DeviceCachingAllocator::setMemoryFraction.
    """
    device = conditions.device
    was_called = conditions.limit_fraction is not None
    fraction = conditions.settings.per_process_memory_fraction
    if conditions.limit_fraction is not None:
        fraction = conditions.limit_fraction
    is_no_limit = fraction >= 1.0 and (rules.fraction_one_is_no_limit or not was_called)
    if device.capacity_bytes is None or is_no_limit:
        return None
    limit = fraction * device.total_bytes
    return math.floor(limit + 0.5) if rules.rounds_limit else int(limit)


class Allocator:
    """One device's caching allocator.

    Source: c10/cuda/CUDACachingAllocator.cpp, class DeviceCachingAllocator; each method names the
    one of that class it follows where the names differ.

    Attributes:
        segments: every segment and reservation, in creation order.
        pools: (pool number, is_small) -> pool. A private pool that was emptied needs no new
            object: it behaves as a fresh one.
        freeable: numbers of the private pools whose last user is gone.
        pending: blocks whose free was requested and is not completed, in the order of requests.
        events: rows of RUN_EVENT.
    """

    def __init__(self, conditions: Conditions, rules: Release, driver: Driver) -> None:
        self.rules = rules
        self.driver = driver
        self.meet(conditions)
        self.stats = Stats()
        self.segments: list[Segment] = []
        self.pools = {(0, False): BlockPool(0, False), (0, True): BlockPool(0, True)}
        self.freeable: set[int] = set()
        self.pending: list[Block] = []
        self.capturing = False
        self.next_age = 0
        self.total_allocated = 0
        self.op = -1
        self.events: list[tuple[int, int, int, int, int, int]] = []

    # ---- bookkeeping

    def meet(self, conditions: Conditions) -> None:
        """Go on under other conditions; whatever was decided before stays as it is."""
        self.settings = conditions.settings
        self.device = self.driver.device = conditions.device
        self.limit = memory_limit(conditions, self.rules)

    def trace(self, action: Action, addr: int, size: int, stream: int, pool: BlockPool) -> None:
        """Source: record_trace."""
        self.events.append((self.op, action, addr, size, stream, pool.number))

    def pool(self, number: int, is_small: bool) -> BlockPool:
        """Return the small or large pool of a pool number. Source: get_pool."""
        return self.pools.setdefault((number, is_small), BlockPool(number, is_small))

    def all_blocks(self) -> list[Block]:
        """Return every block of every segment."""
        return [block for segment in self.segments for block in segment.blocks]

    def tick(self) -> int:
        """Return the next creation counter. Source: BlockComparatorSize's counters."""
        self.next_age += 1
        return self.next_age - 1

    def new_segment(self, base: int, stream: int, page: int, size: int, pool: BlockPool) -> Block:
        """Add a segment of one block and return the block, which is in no set yet."""
        segment = Segment(base, stream, page, self.tick())
        block = Block(base, size, pool, segment, segment.age)
        segment.blocks.append(block)
        self.segments.append(segment)
        return block

    def new_block(self, addr: int, size: int, of: Block) -> Block:
        """Return a new block cut from `of`, in no list yet. Source: Block's constructor."""
        age = self.tick() if self.rules.tie_break == "block" else of.segment.age
        return Block(addr, size, of.pool, of.segment, age)

    def order(self, block: Block) -> tuple[int, int, int, int]:
        """Return the key the free set is sorted by. Source: BlockComparatorSize."""
        age = 0 if self.rules.tie_break == "address" else block.age
        return block.stream, block.size, age, block.addr

    @property
    def collects_garbage(self) -> bool:
        return self.limit is not None and self.settings.garbage_collection_threshold > 0

    # ---- malloc

    def malloc(
        self, n: int, stream: int, pool_number: int, alloc: int, captured: bool = False
    ) -> Block | None:
        """Serve a request of n bytes, or return None after reporting out of memory.

        Raises:
            Rejected: refused at once.
        """
        if n >= TOO_LARGE:
            raise Rejected
        size = round_size(n, self.settings)
        self.freeable.discard(pool_number)
        pool = self.pool(pool_number, size <= SMALL_LIMIT)
        block = self.get_free_block(pool, size, stream)
        if block is None:
            if self.collects_garbage:
                self.garbage_collect_cached_blocks()
            block = self.alloc_block(pool, size, stream)
        # Only the first attempt ends the malloc when it is rejected. A later one is an attempt that
        # failed; if none succeeds the malloc ends as rejected, without a trace.
        rejected = False

        def attempt() -> Block | None:
            nonlocal rejected
            try:
                return self.alloc_block(pool, size, stream)
            except Rejected:
                rejected = True
                return None

        if block is None and self.release_available_cached_blocks(pool, size, stream):
            block = attempt()
        if block is None and not (self.capturing or captured):
            self.release_cached_blocks(0)
            self.stats.counts["num_alloc_retries"] += 1
            block = attempt()
        if block is None and rejected:
            raise Rejected
        if block is None:
            self.trace(Action.OOM, self.driver.free_bytes(), size, stream, pool)
            self.stats.counts["num_ooms"] += 1
            return None
        return self.alloc_found_block(block, n, size, alloc)

    def get_free_block(self, pool: BlockPool, size: int, stream: int) -> Block | None:
        """Take the best fit out of the free set."""
        if self.collects_garbage:
            pool.call_count += 1
        fitting = sorted(
            (b for b in pool.free if b.stream == stream and b.size >= size), key=self.order
        )
        if not fitting:
            return None
        block = fitting[0]
        if block.expandable and self.settings.expandable_segments:

            def size_to_grow_to(b: Block) -> int:
                after = b.neighbour(1)
                return b.size + (after.size if after and after.state == UNMAPPED else 0)

            for following in fitting[1:]:
                if not block.expandable or size_to_grow_to(following) >= size_to_grow_to(block):
                    break
                block = following
        elif block.expandable:
            ordinary = [b for b in fitting if not b.expandable]
            if not ordinary:
                return None
            block = ordinary[0]
        max_split = self.settings.max_split_size
        if size < max_split and block.size >= max_split:
            return None
        if size >= max_split and block.size >= size + self.settings.max_non_split_rounding:
            return None
        pool.free.remove(block)
        return block

    def garbage_collect_cached_blocks(self) -> None:
        """Give old unsplit blocks of the default large pool back to the driver."""
        assert self.limit is not None
        threshold = int(self.settings.garbage_collection_threshold * self.limit)
        target = self.total_allocated - threshold
        large = self.pool(0, False)

        def age(b: Block) -> int:
            return large.call_count - b.gc_base

        unsplit = [b for b in large.free if not b.is_split]
        total_age, count, reclaimed, freed_one = sum(map(age, unsplit)), len(unsplit), 0, True
        while reclaimed < target and freed_one and count > 0:
            mean_age = total_age / count
            freed_one = False
            for block in sorted(large.free, key=self.order):
                if not block.is_split and not block.expandable and age(block) >= mean_age:
                    freed_one = True
                    reclaimed += block.size
                    total_age -= age(block)
                    count -= 1
                    self.release_block(block)

    def alloc_block(self, pool: BlockPool, size: int, stream: int) -> Block | None:
        """Get memory for a request from the driver, within the limits.

        Raises:
            Rejected: throw_on_cudamalloc_oom refuses the request.
        """
        wanted = allocation_size(size, self.settings)
        if self.limit is not None and self.total_allocated + wanted > self.limit:
            return None
        if self.settings.throw_on_cudamalloc_oom and self.device.capacity_bytes is not None:
            fraction = self.settings.per_process_memory_fraction
            if self.total_allocated + wanted > int(fraction * self.device.total_bytes):
                self.stats.counts["num_oom_rejections"] += 1
                raise Rejected
        if self.settings.expandable_segments and (
            pool.number == 0 or self.rules.expandable_private_pools
        ):
            return self.try_allocate_expandable_block(pool, size, stream)
        addr = self.driver.malloc(wanted)
        if addr is None:
            return None
        self.total_allocated += wanted
        self.stats.change("segment", pool, 1)
        self.stats.change("reserved_bytes", pool, wanted)
        if wanted >= self.settings.max_split_size:
            self.stats.change_oversize("oversize_segments", 1)
        self.stats.counts["num_device_alloc"] += 1
        self.trace(Action.SEGMENT_ALLOC, addr, wanted, stream, pool)
        return self.new_segment(addr, stream, 0, wanted, pool)

    def should_split(self, block: Block, size: int) -> bool:
        """Whether the rest of a block of which a request needs `size` bytes is cut off."""
        rest = block.size - size
        if block.pool.is_small or self.settings.expandable_segments:
            return rest >= MIN_BLOCK
        return size < self.settings.max_split_size and rest > SMALL_LIMIT

    def alloc_found_block(self, block: Block, n: int, size: int, alloc: int) -> Block:
        """Hand a block out, splitting it if that is worth it."""
        pool = block.pool
        was_split = block.is_split
        if self.should_split(block, size):
            rest = block
            block = self.new_block(rest.addr, size, rest)
            rest.segment.blocks.insert(rest.segment.blocks.index(rest), block)
            rest.addr += size
            rest.size -= size
            pool.insert(rest)
            if not block.expandable and was_split:
                self.stats.change("inactive_split_bytes", pool, -size)
            elif not block.expandable:
                self.stats.change("inactive_split", pool, 1)
                self.stats.change("inactive_split_bytes", pool, rest.size)
        elif was_split and not block.expandable:
            self.stats.change("inactive_split", pool, -1)
            self.stats.change("inactive_split_bytes", pool, -block.size)
        block.state = BlockState.ALLOCATED
        block.requested = n
        block.alloc = alloc
        self.trace(Action.ALLOC, block.addr, n, block.stream, pool)
        self.count_active(block, 1)
        self.count_allocated(block, 1)
        return block

    def count_allocated(self, block: Block, sign: int) -> None:
        """Count a block as allocated (sign 1) or as no longer so (sign -1)."""
        self.stats.change("allocation", block.pool, sign)
        self.stats.change("allocated_bytes", block.pool, sign * block.size)
        if block.size >= self.settings.max_split_size:
            self.stats.change_oversize("oversize_allocations", sign)

    def count_active(self, block: Block, sign: int) -> None:
        """Count a block as active (sign 1) or as no longer so (sign -1)."""
        self.stats.change("active", block.pool, sign)
        self.stats.change("active_bytes", block.pool, sign * block.size)
        self.stats.change("requested_bytes", block.pool, sign * block.requested)

    # ---- free

    def free(self, block: Block, later: bool = False) -> None:
        """Take a free; with `later` the block pends until `complete` or a synchronize."""
        block.state = BlockState.PENDING
        self.count_allocated(block, -1)
        self.trace(Action.FREE_REQUESTED, block.addr, block.requested, block.stream, block.pool)
        if later:
            self.pending.append(block)
        else:
            self.free_block(block)

    def complete(self, block: Block) -> None:
        """Let a pending free complete; nothing if it already has. Source: process_events."""
        if block in self.pending:
            self.pending.remove(block)
            self.free_block(block)

    def free_block(self, block: Block) -> None:
        """Put a block back into the free set, merged with its free neighbours."""
        pool = block.pool
        self.trace(Action.FREE_COMPLETED, block.addr, block.requested, block.stream, pool)
        self.count_active(block, -1)
        block.state = BlockState.INACTIVE
        block.alloc = -1
        more_split, more_split_bytes = 0, 0
        for step in (-1, 1):
            subsumed = self.try_merge_blocks(block, step)
            if subsumed > 0:
                more_split -= 1
                more_split_bytes -= subsumed
        pool.insert(block)
        if block.is_split:
            more_split += 1
            more_split_bytes += block.size
        if not block.expandable:
            self.stats.change("inactive_split", pool, more_split)
            self.stats.change("inactive_split_bytes", pool, more_split_bytes)

    def try_merge_blocks(self, block: Block, step: int) -> int:
        """Absorb the neighbour on one side if it is in the same state; return its size or 0.

        Mapped blocks merge with free ones, unmapped with unmapped: `state` says both.
        """
        other = block.neighbour(step)
        if other is None or other.state != block.state:
            return 0
        (block.pool.unmapped if other.state == UNMAPPED else block.pool.free).remove(other)
        block.segment.blocks.remove(other)
        block.addr = min(block.addr, other.addr)
        block.size += other.size
        return other.size

    # ---- expandable segments

    def find_expandable_block(self, pool: BlockPool, size: int, stream: int) -> Block:
        """Return the lowest free or unmapped block from which `size` bytes can be had."""
        holes = [b for b in pool.unmapped if b.stream == stream]
        for start in sorted(holes, key=lambda b: b.addr):
            before = start.neighbour(-1)
            if before and before.state == BlockState.INACTIVE:
                start = before
            room = 0
            for b in start.segment.blocks[start.segment.blocks.index(start) :]:
                if room >= size or b.state not in (BlockState.INACTIVE, UNMAPPED):
                    break
                room += b.size
            if room >= size:
                return start
        page = SMALL_SEGMENT if pool.is_small else self.settings.large_segment_size
        reserve = self.reservation_size(page)
        block = self.new_segment(self.driver.reserve(reserve), stream, page, reserve, pool)
        block.state = UNMAPPED
        pool.unmapped.append(block)
        return block

    def reservation_size(self, page: int) -> int:
        """Return the bytes of address space of a reservation.

        Source: the constructor of ExpandableSegment.
        """
        total = self.device.total_bytes
        reserve = total + total // 8
        if self.settings.reserve_fraction is not None:
            reserve = min(reserve, int(self.settings.reserve_fraction * total))
        if self.settings.reserve_bytes is not None:
            reserve = min(reserve, self.settings.reserve_bytes)
        return round_up(reserve, page)

    def try_allocate_expandable_block(
        self, pool: BlockPool, size: int, stream: int
    ) -> Block | None:
        """Grow expandable memory until one free block has `size` bytes, and take it.

        What was mapped before a failure stays mapped and free.
        """
        block = self.find_expandable_block(pool, size, stream)
        if len(block.segment.blocks) == 1 and block.size < size:
            if self.rules.deletes_short_reservation:
                self.delete_reservation(block)
            return None
        if block.state == UNMAPPED and not self.map_block(block, min(block.size, size)):
            return None
        while block.size < size:
            hole = block.neighbour(1)
            assert hole is not None and hole.state == UNMAPPED
            if not self.map_block(hole, min(size - block.size, hole.size)):
                return None
            block = hole  # which has absorbed the block before it
        pool.free.remove(block)
        return block

    def map_block(self, block: Block, size: int) -> bool:
        """Put memory behind the first `size` bytes of an unmapped block, whole pages or none.

        Source: DeviceCachingAllocator::map_block and ExpandableSegment::map.
        """
        page, pool, segment = block.segment.page, block.pool, block.segment
        n_pages = round_up(size, page) // page
        addr = self.driver.map(block.addr, n_pages, page)
        if addr is None:
            return False
        if len(segment.blocks) == 1:  # the reservation's first page tells where a recorded one lay
            segment.base = block.addr = addr
        pool.unmapped.remove(block)
        block.state = BlockState.INACTIVE
        mapped = n_pages * page
        if mapped < block.size:
            rest = self.new_block(block.addr + mapped, block.size - mapped, block)
            rest.state = UNMAPPED
            segment.blocks.insert(segment.blocks.index(block) + 1, rest)
            pool.unmapped.append(rest)
            block.size = mapped
        start = block.addr
        self.try_merge_blocks(block, -1)
        self.try_merge_blocks(block, 1)
        pool.insert(block)
        self.total_allocated += mapped
        self.stats.change("reserved_bytes", pool, mapped)
        self.stats.counts["num_device_alloc"] += 1
        self.trace(Action.SEGMENT_MAP, start, mapped, block.stream, pool)
        return True

    def unmap_block(self, block: Block) -> None:
        """Take the memory away from the whole pages inside a free block.

        Source: DeviceCachingAllocator::unmap_block and ExpandableSegment::unmap.
        """
        segment, pool = block.segment, block.pool
        start = segment.base + round_up(block.addr - segment.base, segment.page)
        end = segment.base + (block.addr + block.size - segment.base) // segment.page * segment.page
        if start >= end:
            return
        pool.free.remove(block)
        i = segment.blocks.index(block)
        if start > block.addr:
            before = self.new_block(block.addr, start - block.addr, block)
            segment.blocks.insert(i, before)
            pool.insert(before)
        if block.addr + block.size > end:
            after = self.new_block(end, block.addr + block.size - end, block)
            segment.blocks.insert(segment.blocks.index(block) + 1, after)
            pool.insert(after)
        block.addr, block.size, block.state = start, end - start, UNMAPPED
        self.driver.unmap(start, (end - start) // segment.page, segment.page)
        self.try_merge_blocks(block, -1)
        self.try_merge_blocks(block, 1)
        pool.unmapped.append(block)
        self.total_allocated -= end - start
        self.stats.change("reserved_bytes", pool, start - end)
        self.stats.counts["num_device_free"] += 1
        self.trace(Action.SEGMENT_UNMAP, start, end - start, block.stream, pool)
        if not block.is_split:
            self.delete_reservation(block)

    def delete_reservation(self, block: Block) -> None:
        """Forget a reservation nothing of which is mapped. Source: release_expandable_segment."""
        block.pool.unmapped.remove(block)
        self.segments.remove(block.segment)

    # ---- giving memory back

    def release_available_cached_blocks(self, pool: BlockPool, size: int, stream: int) -> bool:
        """Free oversize blocks of the request's pool and stream until `size` bytes are free.

        An oversize block with neighbours (a recorded start layout under a new max_split_size) is
        passed over as an expandable one is: cudaFree takes whole segments only. Releases before
        2.5 stop at an assertion where this passes over an expandable block.
        """
        max_split = self.settings.max_split_size
        if max_split >= OFF:
            return False
        size = max(size, max_split)
        cached = sorted((b for b in pool.free if b.stream == stream), key=self.order)
        larger = [b for b in cached if b.size >= size]
        if larger and not larger[0].expandable and not larger[0].is_split:
            self.release_block(larger[0])
            return True
        released = 0
        for block in reversed([b for b in cached if b.size < size]):
            if released >= size or block.size < max_split:
                break
            if not block.expandable and not block.is_split:
                released += block.size
                self.release_block(block)
        return released >= size

    def release_cached_blocks(self, pool_number: int) -> None:
        """Give cached memory back: of everything (0), or of one freeable private pool.

        Source: release_cached_blocks with a mempool id.
        """
        if pool_number == 0 and not self.capturing:
            self.synchronize_and_free_events(None)
            self.release_blocks(self.pool(0, False))
            self.release_blocks(self.pool(0, True))
        elif pool_number == 0 and not self.rules.empties_pools_in_capture:
            self.stats.counts["num_sync_all_streams"] += 1  # and then an assertion fails
            return
        for number in sorted(self.freeable):
            if pool_number not in (0, number):
                continue
            if pool_number != 0 and self.capturing:
                self.stats.counts["num_sync_all_streams"] += 1  # and then an assertion fails
                return
            if pool_number != 0:
                self.synchronize_and_free_events(number)
            self.release_blocks(self.pool(number, True))
            self.release_blocks(self.pool(number, False))
            if not any(b.pool.number == number and b.state != UNMAPPED for b in self.all_blocks()):
                self.freeable.discard(number)

    def synchronize_and_free_events(self, pool_number: int | None) -> None:
        """Let all pending frees complete, or those of one pool."""
        self.stats.counts["num_sync_all_streams"] += 1
        for block in list(self.pending):
            if pool_number is None or block.pool.number == pool_number:
                self.complete(block)

    def release_blocks(self, pool: BlockPool) -> None:
        """Give every wholly free segment and page of a pool back."""
        cached = sorted(pool.free, key=self.order)
        for block in cached:
            if not block.expandable and not block.is_split:
                self.release_block(block)
        for block in cached:
            if block.expandable:
                self.unmap_block(block)

    def release_block(self, block: Block) -> None:
        """cudaFree a segment that is one free block."""
        pool = block.pool
        self.driver.free(block.addr, block.size)
        self.total_allocated -= block.size
        self.stats.change("segment", pool, -1)
        self.stats.change("reserved_bytes", pool, -block.size)
        if block.size >= self.settings.max_split_size:
            self.stats.change_oversize("oversize_segments", -1)
        self.stats.counts["num_device_free"] += 1
        self.trace(Action.SEGMENT_FREE, block.addr, block.size, block.stream, pool)
        pool.free.remove(block)
        self.segments.remove(block.segment)

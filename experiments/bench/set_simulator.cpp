// The yardstick: PyTorch's native allocator written the usual way, on std::set<Block*>.
//
// Same semantics as the compiled kernel under default options (and expandable segments): best fit
// with split and coalesce, small and large pools, streams, private pools, pending frees, growth by
// whole pages, and release-everything-and-retry when memory runs out. It reads the kernel's packed
// events and class rows, so that both are given the same work. Held to the kernel address by
// address in tests/experiments/test_bench.py.
//
// Source: c10/cuda/CUDACachingAllocator.cpp, DeviceCachingAllocator.

#include <time.h>

#include <algorithm>
#include <cstdint>
#include <list>
#include <set>
#include <vector>

namespace {

using i64 = std::int64_t;

constexpr i64 kAlignment = 2 << 20;
constexpr i64 kFirstAddress = 0x7F0000000000;
enum Op { Malloc, Free, FreeLater, Complete, Try, EmptyCache, ReleasePool, Capture, MallocRevives };
enum Tie { TieAddress, TieSegment, TieBlock };

struct Class {  // one distinct request
  i64 need, asked, segment, least_rest, pool, stream, expands, page, captured;
};

struct Options {
  i64 capacity, granularity, reserve, tie, stop_at_oom, empties_in_capture, empties_single,
      refuses_small_reserve, expandable;
};

struct Counters {
  i64 allocated, peak_allocated, active, peak_active, requested, peak_requested, reserved,
      peak_reserved, device_allocs, device_frees, retries, ooms, syncs;
};

struct Pool;

struct Segment {
  i64 base, page, order;  // page 0: fixed
};

struct Block {
  i64 size, addr, order, stream;
  Pool* pool;
  Segment* segment;
  Block *prev = nullptr, *next = nullptr;
  bool used = false, mapped = true;
  i64 asked = 0, slot = 0;
  std::list<Block*>::iterator place{};  // in the list of pending frees
};

struct BySize {
  bool operator()(const Block* a, const Block* b) const {
    if (a->stream != b->stream) return a->stream < b->stream;
    if (a->size != b->size) return a->size < b->size;
    if (a->order != b->order) return a->order < b->order;
    return a->addr < b->addr;
  }
};

struct ByAddress {
  bool operator()(const Block* a, const Block* b) const {
    if (a->stream != b->stream) return a->stream < b->stream;
    return a->addr < b->addr;
  }
};

struct Pool {
  i64 number, held = 0;  // held: bytes from the driver
  std::set<Block*, BySize> free;
  std::set<Block*, ByAddress> unmapped;
};

i64 round_up(i64 x, i64 step) { return (x + step - 1) / step * step; }

class Allocator {
 public:
  Allocator(const Options& options, i64 n_pools, i64 n_slots, Counters& counters)
      : slots(n_slots), options_(options), pools_(2 * n_pools), freeable_(n_pools), c_(counters) {
    for (i64 k = 0; k < 2 * n_pools; k++) pools_[k].number = k / 2;
  }

  // Deletes what is left: every block is in a free set, in a set of holes, or held by a slot.
  void clear() {
    std::set<Block*> left;
    for (Block* b : slots) {
      if (b != nullptr) left.insert(b);
    }
    for (Pool& pool : pools_) {
      left.insert(pool.free.begin(), pool.free.end());
      left.insert(pool.unmapped.begin(), pool.unmapped.end());
    }
    std::set<Segment*> segments;
    for (Block* b : left) {
      segments.insert(b->segment);
      delete b;
    }
    for (Segment* segment : segments) delete segment;
  }

  Block* malloc(const Class& q) {
    freeable_[q.pool / 2] = false;
    Pool& pool = pools_[q.pool];
    Block* b = get_free_block(pool, q);
    if (b == nullptr) b = alloc_block(pool, q);
    if (b == nullptr && !capturing && !q.captured) {
      release_everything();
      c_.retries++;
      b = alloc_block(pool, q);
    }
    if (b == nullptr) {
      c_.ooms++;
      return nullptr;
    }
    if (b->size - q.need >= q.least_rest) {
      Block* rest = b;
      b = new_block(rest, rest->addr, q.need);
      b->prev = rest->prev;
      if (b->prev != nullptr) b->prev->next = b;
      b->next = rest;
      rest->prev = b;
      rest->addr += q.need;
      rest->size -= q.need;
      pool.free.insert(rest);
    }
    b->used = true;
    b->asked = q.asked;
    c_.allocated += b->size;
    c_.active += b->size;
    c_.requested += q.asked;
    c_.peak_allocated = std::max(c_.peak_allocated, c_.allocated);
    c_.peak_active = std::max(c_.peak_active, c_.active);
    c_.peak_requested = std::max(c_.peak_requested, c_.requested);
    return b;
  }

  void free(Block* b) {
    c_.allocated -= b->size;
    free_block(b);
  }

  void free_later(Block* b, i64 slot) {
    c_.allocated -= b->size;
    b->slot = slot;
    b->place = pending_.insert(pending_.end(), b);
  }

  void complete(Block* b) {
    slots[b->slot] = nullptr;
    pending_.erase(b->place);
    free_block(b);
  }

  void empty_cache(i64 pool) {
    if (pool == 0 || !options_.empties_single) {
      if (!capturing) {
        release_everything();
      } else if (options_.empties_in_capture) {
        release_freeable_pools();
      } else {
        c_.syncs++;
      }
    } else if (freeable_[pool]) {
      if (capturing) {
        c_.syncs++;
      } else {
        synchronize(pool);
        release_pool(pool);
      }
    }
  }

  void release_pool_later(i64 pool) { freeable_[pool] = true; }

  bool capturing = false;
  std::vector<Block*> slots;

 private:
  Block* get_free_block(Pool& pool, const Class& q) {
    key_.stream = q.stream;
    key_.size = q.need;
    auto it = pool.free.lower_bound(&key_);
    if (it == pool.free.end() || (*it)->stream != q.stream) return nullptr;
    if ((*it)->segment->page != 0) {
      if (options_.expandable) {
        auto next = it;
        next++;
        while ((*it)->segment->page != 0 && next != pool.free.end() &&
               (*next)->stream == q.stream && reach(*next) < reach(*it)) {
          it = next++;
        }
      } else {
        while (it != pool.free.end() && (*it)->segment->page != 0 && (*it)->stream == q.stream) it++;
        if (it == pool.free.end() || (*it)->stream != q.stream) return nullptr;
      }
    }
    Block* b = *it;
    pool.free.erase(it);
    return b;
  }

  static i64 reach(const Block* b) {
    return b->size + (b->next != nullptr && !b->next->mapped ? b->next->size : 0);
  }

  Block* new_block(const Block* of, i64 addr, i64 size) {
    Block* b = new Block{size, addr, of->order, of->stream, of->pool, of->segment};
    if (options_.tie == TieBlock) b->order = next_order_++;
    return b;
  }

  Block* new_segment(Pool& pool, i64 stream, i64 addr, i64 size, i64 page) {
    i64 order = options_.tie == TieAddress ? 0 : next_order_++;
    Block* b = new Block{size, addr, order, stream, &pool, new Segment{addr, page, order}};
    return b;
  }

  i64 fresh_address(i64 size) {
    i64 addr = next_address_;
    next_address_ = round_up(addr + size, kAlignment);
    return addr;
  }

  void account_reserved(Pool& pool, i64 change) {
    pool.held += change;
    c_.reserved += change;
    (change > 0 ? c_.device_allocs : c_.device_frees)++;
    c_.peak_reserved = std::max(c_.peak_reserved, c_.reserved);
  }

  bool take_memory(i64 size, i64 quantum) {
    i64 taken = size / quantum * round_up(quantum, options_.granularity);
    if (taken > options_.capacity - driver_used_) return false;
    driver_used_ += taken;
    return true;
  }

  void give_memory(i64 size, i64 quantum) {
    driver_used_ -= size / quantum * round_up(quantum, options_.granularity);
  }

  Block* alloc_block(Pool& pool, const Class& q) {
    if (q.expands) return grow_segment(pool, q);
    if (!take_memory(q.segment, q.segment)) return nullptr;
    account_reserved(pool, q.segment);
    return new_segment(pool, q.stream, fresh_address(q.segment), q.segment, 0);
  }

  void merge(Block* b, Block* other) {  // same state, neither or both in a set that other left
    if (b->prev == other) {
      b->addr = other->addr;
      b->prev = other->prev;
      if (b->prev != nullptr) b->prev->next = b;
    } else {
      b->next = other->next;
      if (b->next != nullptr) b->next->prev = b;
    }
    b->size += other->size;
    delete other;
  }

  bool may_merge(const Block* b, const Block* other) {
    return other != nullptr && !other->used && other->mapped == b->mapped;
  }

  void merge_neighbours(Block* b) {
    for (Block* other : {b->prev, b->next}) {
      if (!may_merge(b, other)) continue;
      if (b->mapped) {
        b->pool->free.erase(other);
      } else {
        b->pool->unmapped.erase(other);
      }
      merge(b, other);
    }
  }

  void free_block(Block* b) {
    c_.active -= b->size;
    c_.requested -= b->asked;
    b->used = false;
    merge_neighbours(b);
    b->pool->free.insert(b);
  }

  // ---- expandable segments

  Block* find_growable(Pool& pool, const Class& q) {
    key_.stream = q.stream;
    key_.addr = 0;
    for (auto it = pool.unmapped.lower_bound(&key_);
         it != pool.unmapped.end() && (*it)->stream == q.stream; it++) {
      Block* first = *it;
      if (first->prev != nullptr && !first->prev->used) first = first->prev;
      i64 room = 0;
      for (Block* b = first; b != nullptr && !b->used && room < q.need; b = b->next) room += b->size;
      if (room >= q.need) return first;
    }
    i64 size = round_up(options_.reserve, q.page);
    i64 addr = fresh_address(size);
    if (options_.refuses_small_reserve && size < q.need) {
      if (options_.tie != TieAddress) next_order_++;
      return nullptr;
    }
    Block* b = new_segment(pool, q.stream, addr, size, q.page);
    b->mapped = false;
    pool.unmapped.insert(b);
    return b;
  }

  Block* grow_segment(Pool& pool, const Class& q) {
    Block* b = find_growable(pool, q);
    if (b == nullptr) return nullptr;
    if (!b->mapped && !map_block(b, std::min(b->size, q.need))) return nullptr;
    while (b->size < q.need) {
      Block* hole = b->next;
      if (hole == nullptr || hole->mapped) return nullptr;
      if (!map_block(hole, std::min(q.need - b->size, hole->size))) return nullptr;
      b = hole;
    }
    pool.free.erase(b);
    return b;
  }

  bool map_block(Block* b, i64 wanted) {
    i64 page = b->segment->page;
    i64 size = round_up(wanted, page);
    if (!take_memory(size, page)) return false;
    b->pool->unmapped.erase(b);
    b->mapped = true;
    if (size < b->size) {
      Block* rest = new_block(b, b->addr + size, b->size - size);
      rest->mapped = false;
      rest->next = b->next;
      if (rest->next != nullptr) rest->next->prev = rest;
      rest->prev = b;
      b->next = rest;
      b->size = size;
      b->pool->unmapped.insert(rest);
    }
    merge_neighbours(b);
    b->pool->free.insert(b);
    account_reserved(*b->pool, size);
    return true;
  }

  void unmap_block(Block* b) {
    Segment* segment = b->segment;
    i64 start = segment->base + round_up(b->addr - segment->base, segment->page);
    i64 end = segment->base + (b->addr + b->size - segment->base) / segment->page * segment->page;
    if (start >= end) return;
    Pool& pool = *b->pool;
    pool.free.erase(b);
    if (start > b->addr) {
      Block* before = new_block(b, b->addr, start - b->addr);
      before->prev = b->prev;
      if (before->prev != nullptr) before->prev->next = before;
      before->next = b;
      b->prev = before;
      pool.free.insert(before);
    }
    if (end < b->addr + b->size) {
      Block* after = new_block(b, end, b->addr + b->size - end);
      after->next = b->next;
      if (after->next != nullptr) after->next->prev = after;
      after->prev = b;
      b->next = after;
      pool.free.insert(after);
    }
    b->addr = start;
    b->size = end - start;
    b->mapped = false;
    give_memory(end - start, segment->page);
    account_reserved(pool, start - end);
    merge_neighbours(b);
    pool.unmapped.insert(b);
    if (b->prev == nullptr && b->next == nullptr) {
      pool.unmapped.erase(b);
      delete segment;
      delete b;
    }
  }

  // ---- giving memory back

  void synchronize(i64 pool) {
    c_.syncs++;
    for (auto it = pending_.begin(); it != pending_.end();) {
      Block* b = *it++;
      if (pool >= 0 && b->pool->number != pool) continue;
      complete(b);
    }
  }

  void release_blocks(Pool& pool) {
    std::vector<Block*> expandable;
    for (auto it = pool.free.begin(); it != pool.free.end();) {
      Block* b = *it;
      if (b->segment->page != 0) {
        expandable.push_back(b);
        it++;
      } else if (b->prev == nullptr && b->next == nullptr) {
        it = pool.free.erase(it);
        give_memory(b->size, b->size);
        account_reserved(pool, -b->size);
        delete b->segment;
        delete b;
      } else {
        it++;
      }
    }
    for (Block* b : expandable) unmap_block(b);
  }

  void release_pool(i64 number) {
    release_blocks(pools_[2 * number]);
    release_blocks(pools_[2 * number + 1]);
    if (pools_[2 * number].held + pools_[2 * number + 1].held == 0) freeable_[number] = false;
  }

  void release_freeable_pools() {
    for (std::size_t k = 1; k < freeable_.size(); k++) {
      if (freeable_[k]) release_pool(k);
    }
  }

  void release_everything() {
    synchronize(-1);
    release_blocks(pools_[1]);
    release_blocks(pools_[0]);
    release_freeable_pools();
  }

  const Options& options_;
  std::vector<Pool> pools_;
  std::vector<bool> freeable_;
  std::list<Block*> pending_;
  Counters& c_;
  Block key_{0, 0, INT64_MIN, 0, nullptr, nullptr};
  i64 next_address_ = kFirstAddress, next_order_ = 1, driver_used_ = 0;
};

i64 thread_nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * 1000000000 + now.tv_nsec;
}

}  // namespace

// Carries out packed events (slot << 32 | class << 4 | op). `addresses`, if not null, receives the
// address each event dealt with. Returns the processor time of the events alone, in nanoseconds,
// and in *done how many were carried out.
extern "C" i64 simulate(const i64* events, i64 n, const Class* classes, i64 n_slots, i64 n_pools,
                        const Options* options, i64* addresses, Counters* counters, i64* done) {
  Allocator allocator(*options, n_pools, n_slots, *counters);
  std::vector<Block*>& slots = allocator.slots;
  i64 start = thread_nanoseconds();
  i64 i = 0;
  for (bool going = true; going && i < n; i++) {
    i64 op = events[i] & 15, slot = events[i] >> 32;
    const Class& q = classes[events[i] >> 4 & 0xFFFFFFF];
    Block* b = nullptr;
    i64 addr = 0;
    if (op == Malloc || op == MallocRevives || op == Try) {
      b = allocator.malloc(q);
      if (b != nullptr) addr = b->addr;
      going = b != nullptr || !options->stop_at_oom;
      if (op == Try) {
        if (b != nullptr) allocator.free(b);
      } else {
        slots[slot] = b;
      }
    } else if (op == Free || op == FreeLater || op == Complete) {
      b = slots[slot];
      if (b != nullptr) {
        addr = b->addr;
        if (op == Free) {
          slots[slot] = nullptr;
          allocator.free(b);
        } else if (op == FreeLater) {
          allocator.free_later(b, slot);
        } else {
          allocator.complete(b);
        }
      }
    } else if (op == EmptyCache) {
      allocator.empty_cache(slot);
    } else if (op == ReleasePool) {
      allocator.release_pool_later(slot);
    } else {
      allocator.capturing = slot != 0;
    }
    if (addresses != nullptr) addresses[i] = addr;
  }
  i64 spent = thread_nanoseconds() - start;
  *done = i;
  allocator.clear();
  return spent;
}

// The stand-in's state and how it is set up.
//
// Environment, read once (a whole PyTorch is configured this way; the oracle's driver calls
// standin_configure instead):
//   STANDIN_TOTAL, STANDIN_OTHER, STANDIN_GRANULARITY   bytes, with suffix K, M, G or T
//   STANDIN_DEVICES      number of devices
//   STANDIN_BACKED=1     lazily committed host memory behind the device's addresses
//   STANDIN_NAME, STANDIN_CAPABILITY (e.g. 9.0), STANDIN_MULTIPROCESSORS, STANDIN_THREADS,
//   STANDIN_BLOCKS, STANDIN_SHARED, STANDIN_CACHE, STANDIN_CODE   the kind of device, as in Kind
//   STANDIN_FAULT        something that goes wrong: oom:N refuses the Nth request for memory, full:N
//                        that and all later ones, dead:N kills the process at it, lie:BYTES lets
//                        cudaMemGetInfo name so many bytes less than there are
#include "books.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace standin {

namespace {

constexpr size_t kFirstAddress = 0x7F0000000000;  // as sim/device.py: FIRST_ADDRESS
constexpr size_t kLastAddress = size_t(1) << 62;
constexpr size_t kBackedFirst = 0x600000000000, kBackedLast = 0x700000000000;

size_t bytes_from(const char* name, size_t otherwise) {
  const char* text = getenv(name);
  if (!text || !*text) return otherwise;
  char* rest;
  double value = strtod(text, &rest);
  switch (*rest | 32) {
    case 'k': value *= KiB; break;
    case 'm': value *= MiB; break;
    case 'g': value *= GiB; break;
    case 't': value *= TiB; break;
  }
  return size_t(value);
}

Fault fault_from(const char* text) {
  const struct { const char* name; decltype(Fault::kind) kind; } kinds[] = {
      {"oom:", Fault::kOom}, {"full:", Fault::kFull}, {"dead:", Fault::kDead}, {"lie:", Fault::kLie}};
  Fault fault;
  for (auto& k : kinds)
    if (text && !strncmp(text, k.name, strlen(k.name))) {
      fault.kind = k.kind;
      fault.amount = strtoull(text + strlen(k.name), nullptr, 10);
    }
  return fault;
}

}  // namespace

AddressSpace::AddressSpace(size_t low, size_t high, bool reuse)
    : low_(low), next_(low), high_(high), reuse_(reuse) {
  free_[low] = high;
}

size_t AddressSpace::take(size_t size, size_t alignment) {
  if (scattered_) {
    // A permutation of slots of 1 TiB: multiplying by an odd number modulo a power of two.
    constexpr size_t kSlots = size_t(1) << 20, kOdd = 0x9E3779B1;
    return size > TiB || taken_ == kSlots ? 0 : low_ + (taken_++ * kOdd % kSlots) * TiB;
  }
  if (!reuse_) {
    size_t start = round_up(next_, alignment);
    if (start + size > high_) return 0;
    next_ = round_up(start + size, kSegmentAlignment);
    return start;
  }
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    size_t start = round_up(it->first, alignment);
    if (start + size > it->second) continue;
    size_t low = it->first, high = it->second;
    free_.erase(it);
    if (start > low) free_[low] = start;
    if (start + size < high) free_[start + size] = high;
    return start;
  }
  return 0;
}

void AddressSpace::give(size_t start, size_t size) {
  if (!reuse_) return;
  size_t end = start + size;
  auto after = free_.lower_bound(start);
  if (after != free_.end() && after->first == end) {
    end = after->second;
    after = free_.erase(after);
  }
  if (after != free_.begin()) {
    auto before = std::prev(after);
    if (before->second == start) {
      before->second = end;
      return;
    }
  }
  free_[start] = end;
}

World::World() {
  devices = std::min<int>(kMostDevices, int(bytes_from("STANDIN_DEVICES", 1)));
  granularity = bytes_from("STANDIN_GRANULARITY", 2 * MiB);
  const char* text = getenv("STANDIN_BACKED");
  backed = text && !strcmp(text, "1");
  if ((text = getenv("STANDIN_NAME"))) snprintf(kind.name, sizeof kind.name, "%s", text);
  if ((text = getenv("STANDIN_CAPABILITY")))
    sscanf(text, "%d.%d", &kind.capability[0], &kind.capability[1]);
  fault = fault_from(getenv("STANDIN_FAULT"));
  kind.multiprocessors = int(bytes_from("STANDIN_MULTIPROCESSORS", size_t(kind.multiprocessors)));
  kind.code = int(bytes_from("STANDIN_CODE", 0));
  kind.threads = int(bytes_from("STANDIN_THREADS", size_t(kind.threads)));
  kind.blocks = int(bytes_from("STANDIN_BLOCKS", size_t(kind.blocks)));
  kind.shared = bytes_from("STANDIN_SHARED", kind.shared);
  kind.cache = bytes_from("STANDIN_CACHE", kind.cache);
  for (Device& d : device) {
    d.total = bytes_from("STANDIN_TOTAL", 80 * GiB);
    d.other = bytes_from("STANDIN_OTHER", 0);
  }
  addresses = backed ? new AddressSpace(kBackedFirst, kBackedLast, true)
                     : new AddressSpace(kFirstAddress, kLastAddress, false);
}

bool World::take_physical(int d, size_t size) {
  Device& of = device[d];
  requests++;
  if (fault.kind == Fault::kDead && requests == fault.amount) abort();
  if (fault.kind == Fault::kOom && requests == fault.amount) return false;
  if (fault.kind == Fault::kFull && requests >= fault.amount) return false;
  if (of.used + of.other + size > of.total) return false;
  of.used += size;
  return true;
}

void World::give_physical(int d, size_t size) { device[d].used -= size; }

Stream* World::stream(void* handle) {
  if (handle == (void*)1 || handle == (void*)2) handle = nullptr;  // legacy and per-thread default
  Stream*& found = streams[handle];
  if (!found) found = new Stream;
  return found;
}

void World::issue(Stream* s) {
  if (s->capture) {
    Node* node = new Node{s->terminals, s->capture, false};
    s->capture->nodes.push_back(node);
    s->terminals = {node};
    return;
  }
  s->issued++;
  if (!manual) s->done = s->issued;
}

World& world() {
  static World* the = new World;  // never destroyed: libraries call in while the process ends
  return *the;
}

thread_local int current_device = 0;

bool is_device_address(const void* pointer) {
  size_t a = size_t(pointer);
  return world().backed ? a >= kBackedFirst && a < kBackedLast
                        : a >= kFirstAddress && a < kLastAddress;
}

void back(size_t start, size_t size) {
  void* at = mmap((void*)start, size, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (at != (void*)start) {
    perror("standin: mmap");
    abort();
  }
}

void unback(size_t start, size_t size) { munmap((void*)start, size); }

void enqueue(void* handle) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  w.issue(w.stream(handle));
}

}  // namespace standin

using namespace standin;

EXPORT void standin_configure(size_t total, size_t other, size_t granularity) {
  World& w = world();
  w.device[0].total = total;
  w.device[0].other = other;
  w.granularity = granularity;
}

EXPORT void standin_others(size_t bytes) { world().device[0].other = bytes; }

EXPORT void standin_scatter() { world().addresses->scatter(); }

EXPORT void standin_manual(int on) { world().manual = on; }

EXPORT void standin_kernel(void* stream) { enqueue(stream); }

EXPORT void standin_finish(void* handle, long long n) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  Stream* s = w.stream(handle);
  // What a wait completed meanwhile does not count: the same calls let the same work complete,
  // however often an allocator waits.
  s->told = n < 0 ? s->issued : std::min(s->issued, s->told + uint64_t(n));
  s->done = std::max(s->done, s->told);
}

EXPORT void standin_on_read(void (*call)(size_t)) { world().on_read = call; }

EXPORT uint64_t standin_waits() { return world().waits; }

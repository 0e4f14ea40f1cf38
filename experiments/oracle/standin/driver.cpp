// Drives PyTorch's compiled caching allocator (libc10_cuda.so) through lists of commands and writes
// down everything it did: addresses, trace entries in order, counters, the final snapshot.
//
// Reads cases from standard input and answers each on standard output; ../run.py writes and reads
// both formats. Every case runs in a process of its own, forked before the allocator exists, so
// that settings, limits and counters begin anew and a crash of one case is an answer like others.
// Address randomisation is switched off: in captures the allocator orders blocks by host address.
// A case may ask to be timed instead: mallocs and frees alone, with nothing written down.
#include <c10/cuda/CUDAAllocatorConfig.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#if __has_include(<c10/cuda/PeerToPeerAccess.h>)
#include <c10/cuda/PeerToPeerAccess.h>
#define NEEDS_PEER_CACHE
#endif

#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "control.h"

// Exported by libc10_cuda.so, declared in no installed header. A whole PyTorch sets it; a free
// after record_stream asks for it.
namespace c10::cuda::_internal {
void setHasPrimaryContext(bool (*has)(c10::DeviceIndex));
}

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;
using PoolId = std::pair<unsigned long long, unsigned long long>;

// ---- what comes in; the numbers are those of ../commands.py

struct Header {
  uint32_t n_commands, n_conf, scattered, timed;
  uint64_t total, other, granularity;
};

enum Code : uint8_t {
  kMalloc, kFree, kRecord, kFinish, kEmpty, kScopeBegin, kScopeEnd, kRelease, kCaptureBegin,
  kCaptureEnd, kFraction, kSettings, kOthers
};

struct Command {
  uint8_t code, unused;
  uint16_t stream;
  uint32_t id;  // of an allocation or a pool
  int64_t size;
};
static_assert(sizeof(Command) == 16);

constexpr unsigned kSeconds = 120;
constexpr uint16_t kAnyStream = 0xFFFF;

cudaStream_t handle_of(uint16_t stream) { return (cudaStream_t)(size_t(stream) * 256); }

// ---- what goes out

enum Kind : uint8_t {
  kReturned = 100, kError = 101, kStats = 102, kSegment = 103, kBlock = 104, kTimed = 105
};

struct Row {
  uint32_t command;
  uint8_t action;  // TraceEntry::Action, or a Kind
  uint8_t flags;   // trace: 1 = after waiting for an event; segment: 1 small, 2 expandable
  uint16_t pool;   // second half of a private pool's id; of trace entries from 2.8
  uint64_t addr;
  int64_t size;
  uint64_t stream;
};
static_assert(sizeof(Row) == 32);

// Shared with the parent, so that what was written before a crash arrives.
struct Answer {
  uint32_t n_rows, n_text;
  Row* rows;
  char* text;
};
constexpr size_t kMostRows = size_t(1) << 26, kMostText = size_t(1) << 26;

Answer* answer;
uint32_t now;  // index of the command

void* shared(size_t size) {
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE,
                 -1, 0);
  if (p == MAP_FAILED) {
    perror("driver: mmap");
    exit(2);
  }
  return p;
}

Row& add(uint8_t action, uint64_t addr, int64_t size, uint64_t stream) {
  if (answer->n_rows >= kMostRows) _exit(3);
  Row& row = answer->rows[answer->n_rows++];
  row = Row{now, action, 0, 0, addr, size, stream};
  return row;
}

// A row that stands for a text: addr is its offset, size its length.
void add_text(Kind kind, const std::string& text) {
  if (answer->n_text + text.size() > kMostText) _exit(3);
  memcpy(answer->text + answer->n_text, text.data(), text.size());
  add(kind, answer->n_text, int64_t(text.size()), 0);
  answer->n_text += uint32_t(text.size());
}

void add_error(const std::exception& error) {
  std::string text = error.what();
  text.resize(std::min(text.find("\nException raised from"), text.size()));
  add_text(kError, text);
}

// Releases differ in the types' namespaces, so nothing here names them.
template <class Entry>
void on_trace(const Entry& entry, uint64_t waits_before) {
  Row& row = add(uint8_t(entry.action_), uint64_t(entry.addr_), int64_t(entry.size_),
                 uint64_t(entry.stream_));
  row.flags = standin_waits() != waits_before;
  if constexpr (requires { entry.mempool_; }) row.pool = uint16_t(entry.mempool_.second);
}

// ---- counters and snapshot

template <class Stat>
void add_stat(std::string& out, const std::string& name, const Stat& stat) {
  for (auto [part, value] : {std::pair{"current", int64_t(stat.current)},
                             {"peak", int64_t(stat.peak)},
                             {"allocated", int64_t(stat.allocated)},
                             {"freed", int64_t(stat.freed)}})
    out += name + "." + part + " " + std::to_string(value) + "\n";
}

template <class Array>
void add_stats(std::string& out, const std::string& name, const Array& rows) {
  static const char* names[] = {"all", "small_pool", "large_pool"};
  for (int i = 0; i < 3; i++) add_stat(out, name + "." + names[i], rows[size_t(i)]);
}

// Under the flat names of torch.cuda.memory_stats.
template <class Stats>
std::string text_of(const Stats& s) {
  std::string out;
  add_stats(out, "allocation", s.allocation);
  add_stats(out, "segment", s.segment);
  add_stats(out, "active", s.active);
  add_stats(out, "inactive_split", s.inactive_split);
  add_stats(out, "allocated_bytes", s.allocated_bytes);
  add_stats(out, "reserved_bytes", s.reserved_bytes);
  add_stats(out, "active_bytes", s.active_bytes);
  add_stats(out, "inactive_split_bytes", s.inactive_split_bytes);
  add_stats(out, "requested_bytes", s.requested_bytes);
  add_stat(out, "oversize_allocations", s.oversize_allocations);
  add_stat(out, "oversize_segments", s.oversize_segments);
  auto count = [&](const char* name, int64_t n) {
    out += std::string(name) + " " + std::to_string(n) + "\n";
  };
  count("num_alloc_retries", s.num_alloc_retries);
  count("num_ooms", s.num_ooms);
  count("num_sync_all_streams", s.num_sync_all_streams);
  count("num_device_alloc", s.num_device_alloc);
  count("num_device_free", s.num_device_free);
  count("max_split_size", s.max_split_size);
  if constexpr (requires { s.num_oom_rejections; })
    count("num_oom_rejections", s.num_oom_rejections);
  return out;
}

template <class Snapshot>
void add_snapshot(const Snapshot& snapshot) {
  for (auto& segment : snapshot.segments) {
    Row& row = add(kSegment, segment.address, int64_t(segment.total_size),
                   uint64_t(segment.stream));
    row.flags = uint8_t((segment.is_large ? 0 : 1) | (segment.is_expandable ? 2 : 0));
    row.pool = uint16_t(segment.owner_private_pool_id.second);
    uint64_t at = segment.address;
    for (auto& block : segment.blocks) {  // states as in traces/event.py: BlockState
      Row& b = add(kBlock, at, int64_t(block.size), uint64_t(block.requested_size));
      b.flags = block.allocated ? 1 : block.active ? 2 : 0;
      at += block.size;
    }
  }
}

// ---- commands

template <class Allocator>
void empty_cache(Allocator* a, PoolId pool) {
  if constexpr (requires { a->emptyCache(pool); }) a->emptyCache(pool);
  else a->emptyCache();
}

template <class Allocator>
void mark_capture(Allocator* a, bool begins) {
  if constexpr (requires { a->markCaptureBegin(0); })
    begins ? a->markCaptureBegin(0) : a->markCaptureEnd(0);
}

void make_current(uint16_t stream) {
  c10::cuda::setCurrentCUDAStream(stream ? c10::cuda::getStreamFromExternal(handle_of(stream), 0)
                                         : c10::cuda::getDefaultCUDAStream(0));
}

class Player {
 public:
  explicit Player(std::vector<std::string> lines) : lines_(std::move(lines)) {}

  void play(const Command& c) {
    auto* a = allocator::get();
    PoolId pool{0, c.id};
    switch (Code(c.code)) {
      case kMalloc: return allocate(c);
      case kFree: return release(c.id);
      case kRecord: return record(c.id, c.stream);
      case kFinish: return standin_finish(handle_of(c.stream), c.size);
      case kEmpty: return empty_cache(a, pool);
      case kScopeBegin: return begin(pool, c.stream);
      case kScopeEnd: return end(pool);
      case kRelease: return a->releasePool(0, pool);
      case kCaptureBegin:
        begin(pool, c.stream);
        mark_capture(a, true);
        make_current(c.stream);
        return standin_capture_begin(handle_of(c.stream));
      case kCaptureEnd:
        standin_capture_end(handle_of(c.stream));
        make_current(0);
        mark_capture(a, false);
        return end(pool);
      case kFraction: {
        double fraction;
        memcpy(&fraction, &c.size, sizeof fraction);
        return a->setMemoryFraction(fraction, 0);
      }
      case kSettings: return allocator::setAllocatorSettings(lines_.at(c.id));
      case kOthers: return standin_others(size_t(c.size));
    }
  }

 private:
  void allocate(const Command& c) {
    void* p = nullptr;
    try {
      p = allocator::get()->raw_alloc_with_stream(size_t(c.size), handle_of(c.stream));
    } catch (const c10::OutOfMemoryError&) {
    }
    add(kReturned, uint64_t(p), c.id, 0);
    if (p) live_[c.id] = p;
  }

  void release(uint32_t id) {
    auto it = live_.find(id);
    if (it == live_.end()) return;  // it was never served
    void* p = it->second;
    live_.erase(it);
    allocator::get()->raw_delete(p);
  }

  // Another stream uses the block: one item of work, and record_stream. The work is there even if
  // the block is not, so that later work completes at the same command whatever was served.
  void record(uint32_t id, uint16_t stream) {
    standin_kernel(handle_of(stream));
    auto it = live_.find(id);
    if (it == live_.end()) return;
    auto* a = allocator::get();
    c10::DataPtr data(it->second, it->second, a->raw_deleter(), c10::Device(c10::kCUDA, 0));
    a->recordStream(data, c10::cuda::getStreamFromExternal(handle_of(stream), 0));
    data.release_context();  // the block stays ours
  }

  // Opening a scope takes a use of the pool. The first one is kept until kRelease, as a MemPool or
  // a graph keeps it; later ones end with their scope.
  void begin(PoolId pool, uint16_t stream) {
    allocator::get()->beginAllocateToPool(0, pool, [stream](cudaStream_t s) {
      return stream == kAnyStream || s == handle_of(stream);
    });
  }
  void end(PoolId pool) {
    allocator::get()->endAllocateToPool(0, pool);
    if (!known_.insert(pool.second).second) allocator::get()->releasePool(0, pool);
  }

  std::vector<std::string> lines_;  // that kSettings names
  std::unordered_map<uint32_t, void*> live_;
  std::set<unsigned long long> known_;
};

// Mallocs and frees, as fast as they can be asked for; ids are dense. Nanoseconds of processor time.
int64_t timed(const std::vector<Command>& commands) {
  uint32_t most = 0;
  for (const Command& c : commands) most = std::max(most, c.id);
  std::vector<void*> live(most + 1);
  auto* a = allocator::get();
  timespec start, end;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
  for (const Command& c : commands) {
    if (c.code == kMalloc) {
      live[c.id] = a->raw_alloc_with_stream(size_t(c.size), handle_of(c.stream));
    } else if (c.code == kFree) {
      a->raw_delete(live[c.id]);
    } else {
      throw std::runtime_error("a timed case has mallocs and frees alone");
    }
  }
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
  return (end.tv_sec - start.tv_sec) * 1000000000 + (end.tv_nsec - start.tv_nsec);
}

// The child: one case from the first call to the last.
[[noreturn]] void play(const Header& header, const std::string& confs,
                       const std::vector<Command>& commands) {
  alarm(kSeconds);  // a case that hangs is an answer too
  // The first line is the environment's, those behind it are set at run time.
  std::vector<std::string> lines;
  for (size_t at = 0, end; at <= confs.size(); at = end + 1) {
    end = std::min(confs.find('\0', at), confs.size());
    lines.push_back(confs.substr(at, end - at));
  }
  if (!lines[0].empty()) setenv("PYTORCH_CUDA_ALLOC_CONF", lines[0].c_str(), 1);
  lines.erase(lines.begin());
  standin_configure(header.total, header.other, header.granularity);
  if (header.scattered) standin_scatter();
  standin_manual(1);
  try {
    allocator::init(1);
#ifdef NEEDS_PEER_CACHE
    c10::cuda::detail::init_p2p_access_cache(1);
#endif
    c10::cuda::_internal::setHasPrimaryContext([](c10::DeviceIndex) { return true; });
    if (header.timed) {
      add(kTimed, 0, timed(commands), 0);
      add_text(kStats, text_of(allocator::getDeviceStats(0)));
      _exit(0);
    }
    uint64_t waits = 0;
    allocator::attachAllocatorTraceTracker([&waits](const auto& entry) { on_trace(entry, waits); });
    Player player(std::move(lines));
    for (now = 0; now < commands.size(); now++) {
      waits = standin_waits();
      try {
        player.play(commands[now]);
      } catch (const std::exception& error) {
        add_error(error);
      }
    }
    add_text(kStats, text_of(allocator::getDeviceStats(0)));
    uint32_t rows = answer->n_rows;
    auto snapshot = allocator::snapshot();
    answer->n_rows = rows;  // a snapshot traces itself
    add_snapshot(snapshot);
  } catch (const std::exception& error) {
    add_error(error);
  }
  _exit(0);  // no teardown: there is no device to give anything back to
}

bool read_all(void* to, size_t size) {
  return size == 0 || fread(to, 1, size, stdin) == size;
}

}  // namespace

int main(int argc, char** argv) {
  int now_as = personality(0xffffffff);
  if (argc == 1 && now_as != -1 && !(now_as & ADDR_NO_RANDOMIZE)) {
    personality(unsigned(now_as | ADDR_NO_RANDOMIZE));
    char second[] = "again";  // where it is forbidden, once is enough to try
    char* words[] = {argv[0], second, nullptr};
    execv("/proc/self/exe", words);
    perror("driver: exec");
    return 2;
  }
  answer = (Answer*)shared(sizeof(Answer));
  answer->rows = (Row*)shared(kMostRows * sizeof(Row));
  answer->text = (char*)shared(kMostText);
  Header header;
  while (read_all(&header, sizeof header)) {
    std::string conf(header.n_conf, '\0');
    std::vector<Command> commands(header.n_commands);
    if (!read_all(conf.data(), conf.size()) ||
        !read_all(commands.data(), commands.size() * sizeof(Command))) {
      fprintf(stderr, "driver: the input ends inside a case\n");
      return 2;
    }
    answer->n_rows = answer->n_text = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) play(header, conf, commands);
    int status = 0;
    waitpid(child, &status, 0);
    uint32_t out[3] = {uint32_t(status), answer->n_rows, answer->n_text};
    fwrite(out, sizeof out, 1, stdout);
    fwrite(answer->rows, sizeof(Row), answer->n_rows, stdout);
    fwrite(answer->text, 1, answer->n_text, stdout);
  }
  fflush(stdout);
  return 0;
}

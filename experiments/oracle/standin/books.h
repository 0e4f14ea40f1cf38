// The books of a GPU that does not exist.
//
// The stand-in is a libcudart that keeps account of device memory (physical bytes, address ranges,
// mappings), of streams and events, and of stream captures, and does nothing else. PyTorch's own
// compiled allocator cannot tell it from a device. One library holds everything; libcuda.so.1 and
// libnvidia-ml.so.1 are empty shells that need it, so that dlsym on them finds its symbols.
//
// Written from the public CUDA headers and documentation. Compiled once against the headers of
// CUDA 12 and once against those of CUDA 13, because the layouts of some structures differ.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "control.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace standin {

constexpr size_t KiB = 1024, MiB = KiB * 1024, GiB = MiB * 1024, TiB = GiB * 1024;
constexpr int kMostDevices = 16;
constexpr size_t kSegmentAlignment = 2 * MiB;  // as sim/device.py: ALIGNMENT

inline size_t round_up(size_t x, size_t to) { return (x + to - 1) / to * to; }

// Where addresses come from. The oracle hands every address out once: in increasing order, so that
// a simulator can name the same ones, or scattered, as releases that order equal blocks by address
// can only be told from others if addresses do not follow age. A whole PyTorch with host memory
// behind its tensors must reuse them instead.
class AddressSpace {
 public:
  AddressSpace(size_t low, size_t high, bool reuse);
  size_t take(size_t size, size_t alignment);  // 0 = none left
  void give(size_t start, size_t size);
  void scatter() { scattered_ = true; }

 private:
  size_t low_, next_, high_, taken_ = 0;
  bool scattered_ = false;
  bool reuse_;
  std::map<size_t, size_t> free_;  // start -> end
};

struct Graph;
struct Node {
  std::vector<Node*> before;
  Graph* graph;
  bool empty = false;  // a marker, not a kernel
};
struct Graph {
  std::vector<Node*> nodes;
  unsigned long long id;
};

// Work on a stream is a count: how much was issued, how much of it is done, and how much of it was
// told to be.
struct Stream {
  uint64_t issued = 0, done = 0, told = 0;
  Graph* capture = nullptr;
  std::vector<Node*> terminals;  // of its capture
};

struct Event {
  Stream* stream = nullptr;  // null until recorded
  uint64_t at = 0;
  Graph* capture = nullptr;
  std::vector<Node*> terminals;
};

struct Physical {  // a cuMemCreate handle
  size_t size;
  int device;
  int references;
};
struct Mapping {
  size_t size;
  Physical* memory;
};
struct Allocation {  // of cudaMalloc
  size_t size, physical;
  int device;
  bool async;
};

struct Device {
  size_t total, other, used = 0;
};

// What a program can ask about the kind of device; kernels choose their scratch by it.
struct Kind {
  char name[256] = "stand-in device";
  int capability[2] = {9, 0};
  int code = 0;  // compute capability that loaded kernels were compiled for, e.g. 86; 0 = its own
  int multiprocessors = 132, threads = 2048, blocks = 32;  // the latter two of one multiprocessor
  size_t shared = 228 * KiB, cache = 60 * MiB;             // shared memory of one, L2 of all
};

// What goes wrong, on purpose: at the how-manieth request for memory, or by how many bytes.
struct Fault {
  enum { kNone, kOom, kFull, kDead, kLie } kind = kNone;
  size_t amount = 0;
};

struct World {
  std::mutex lock;
  int devices = 1;
  Device device[kMostDevices];
  size_t granularity = 2 * MiB;
  bool backed = false;   // host memory behind device addresses
  bool manual = false;   // work is done when told, not at once
  Kind kind;
  AddressSpace* addresses;
  std::map<size_t, Allocation> allocations;  // by address, as the next two
  std::map<size_t, size_t> reservations;
  std::map<size_t, Mapping> mappings;
  std::map<size_t, size_t> host;
  std::unordered_map<void*, Stream*> streams;
  size_t next_stream = 0x1000;
  unsigned long long next_capture = 1;
  int captures = 0;      // streams in a capture
  uint64_t waits = 0;    // calls that waited for an event
  Fault fault;
  size_t requests = 0;   // for memory, so far
  void (*on_read)(size_t) = nullptr;  // told of every copy from a device to the host

  World();
  // The rest is called with the lock held.
  bool take_physical(int device, size_t size);
  void give_physical(int device, size_t size);
  Stream* stream(void* handle);
  void issue(Stream* stream);  // one item of work, or one node of its capture
};

World& world();
extern thread_local int current_device;
cudaError_t fail(cudaError_t error);  // remembers it for cudaGetLastError

bool is_device_address(const void* pointer);
void back(size_t start, size_t size);    // put host memory behind a range
void unback(size_t start, size_t size);
void enqueue(void* stream);              // takes the lock

}  // namespace standin

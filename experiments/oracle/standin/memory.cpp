// cudaMalloc and its kin: honest about capacity, silent about contents.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "books.h"

using namespace standin;

namespace {

constexpr size_t kHostPage = 4096;

cudaError_t allocate(void** out, size_t size, bool async) {
  *out = nullptr;
  if (size == 0) return cudaSuccess;
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  size_t physical = round_up(size, w.granularity);
  if (!w.take_physical(current_device, physical)) return fail(cudaErrorMemoryAllocation);
  size_t start = w.addresses->take(size, kSegmentAlignment);
  if (!start) {
    w.give_physical(current_device, physical);
    return fail(cudaErrorMemoryAllocation);
  }
  w.allocations[start] = Allocation{size, physical, current_device, async};
  if (w.backed) back(start, round_up(size, kHostPage));
  *out = (void*)start;
  return cudaSuccess;
}

cudaError_t release(void* pointer) {
  if (!pointer) return cudaSuccess;
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  auto it = w.allocations.find(size_t(pointer));
  if (it == w.allocations.end()) return fail(cudaErrorInvalidValue);
  w.give_physical(it->second.device, it->second.physical);
  w.addresses->give(it->first, it->second.size);
  if (w.backed) unback(it->first, round_up(it->second.size, kHostPage));
  w.allocations.erase(it);
  return cudaSuccess;
}

// Without backing, device memory reads as zeros and writes go nowhere.
void copy(void* to, const void* from, size_t size) {
  if (!size) return;
  bool to_device = is_device_address(to), from_device = is_device_address(from);
  if (from_device && !to_device && world().on_read) world().on_read(size);
  if (world().backed || (!to_device && !from_device)) memmove(to, from, size);
  else if (!to_device) memset(to, 0, size);
}

// Zeroing a large fresh range must not commit host memory: drop its pages instead.
void fill(void* to, int value, size_t size) {
  if (!world().backed || !size) return;
  size_t start = size_t(to), low = round_up(start, kHostPage);
  size_t high = (start + size) / kHostPage * kHostPage;
  if (value == 0 && size >= MiB && high > low) {
    memset(to, 0, low - start);
    madvise((void*)low, high - low, MADV_DONTNEED);
    memset((void*)high, 0, start + size - high);
    return;
  }
  memset(to, value, size);
}

}  // namespace

EXPORT cudaError_t cudaMalloc(void** p, size_t size) { return allocate(p, size, false); }
EXPORT cudaError_t cudaFree(void* p) { return release(p); }
EXPORT cudaError_t cudaMallocAsync(void** p, size_t size, cudaStream_t) {
  return allocate(p, size, true);
}
EXPORT cudaError_t cudaFreeAsync(void* p, cudaStream_t) { return release(p); }

EXPORT cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  const Device& d = w.device[current_device];
  size_t taken = d.used + d.other;
  if (w.fault.kind == Fault::kLie && d.used) taken += w.fault.amount;
  *total = d.total;
  *free = d.total > taken ? d.total - taken : 0;
  return cudaSuccess;
}

// ---- host memory

EXPORT cudaError_t cudaMallocHost(void** p, size_t size) {
  *p = size ? aligned_alloc(kHostPage, round_up(size, kHostPage)) : nullptr;
  if (size) {
    World& w = world();
    std::lock_guard<std::mutex> hold(w.lock);
    w.host[size_t(*p)] = size;
  }
  return cudaSuccess;
}
EXPORT cudaError_t cudaHostAlloc(void** p, size_t size, unsigned) { return cudaMallocHost(p, size); }
EXPORT cudaError_t cudaFreeHost(void* p) {
  {
    World& w = world();
    std::lock_guard<std::mutex> hold(w.lock);
    w.host.erase(size_t(p));
  }
  free(p);
  return cudaSuccess;
}
EXPORT cudaError_t cudaHostRegister(void*, size_t, unsigned) { return cudaSuccess; }
EXPORT cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }
EXPORT cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return cudaSuccess;
}

EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
  memset(a, 0, sizeof *a);
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  size_t at = size_t(p);
  if (is_device_address(p)) {
    a->type = cudaMemoryTypeDevice;
    a->devicePointer = (void*)p;
    auto it = w.allocations.upper_bound(at);
    if (it != w.allocations.begin() && at < (--it)->first + it->second.size)
      a->device = it->second.device;
    return cudaSuccess;
  }
  auto it = w.host.upper_bound(at);
  if (it != w.host.begin() && at < (--it)->first + it->second) {
    a->type = cudaMemoryTypeHost;
    a->hostPointer = a->devicePointer = (void*)p;
    return cudaSuccess;
  }
  a->type = cudaMemoryTypeUnregistered;
  a->hostPointer = (void*)p;
  a->device = cudaInvalidDeviceId;
  return cudaSuccess;
}

// ---- copies

EXPORT cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  copy(to, from, size);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind,
                                   cudaStream_t s) {
  copy(to, from, size);
  enqueue(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t size,
                                       cudaStream_t s) {
  copy(to, from, size);
  enqueue(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                     size_t width, size_t height, cudaMemcpyKind, cudaStream_t s) {
  for (size_t i = 0; i < height; i++)
    copy((char*)to + i * to_pitch, (const char*)from + i * from_pitch, width);
  enqueue(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemset(void* to, int value, size_t size) {
  fill(to, value, size);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemsetAsync(void* to, int value, size_t size, cudaStream_t s) {
  fill(to, value, size);
  enqueue(s);
  return cudaSuccess;
}

// ---- CUDA's own memory pools (backend:cudaMallocAsync)

EXPORT cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  *pool = (cudaMemPool_t)(size_t)(0x100 + device);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr what, void* value) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  int device = int((size_t(pool) - 0x100) % kMostDevices);
  uint64_t used = 0;
  for (auto& [_, a] : w.allocations)
    if (a.async && a.device == device) used += a.physical;
  *(uint64_t*)value = what == cudaMemPoolAttrReleaseThreshold ? 0 : used;
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) {
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemPoolSetAccess(cudaMemPool_t, const cudaMemAccessDesc*, size_t) {
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, size_t) { return cudaSuccess; }

// ---- sharing between processes

EXPORT cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* p) {
  memset(handle, 0, sizeof *handle);
  memcpy(handle, &p, sizeof p);
  return cudaSuccess;
}
EXPORT cudaError_t cudaIpcOpenMemHandle(void** p, cudaIpcMemHandle_t handle, unsigned) {
  memcpy(p, &handle, sizeof *p);
  return cudaSuccess;
}
EXPORT cudaError_t cudaIpcCloseMemHandle(void*) { return cudaSuccess; }

// The driver's virtual memory calls: reserve, create, map, unmap, release; and how PyTorch finds
// them (it asks the runtime for entry points of the driver, or dlopens libcuda.so.1).
#include <algorithm>
#include <cstdio>
#include <cstring>

#include "books.h"

using namespace standin;

namespace {

void drop(World& w, Physical* memory) {
  if (--memory->references) return;
  w.give_physical(memory->device, round_up(memory->size, w.granularity));
  delete memory;
}

Physical* memory_of(CUmemGenericAllocationHandle handle) { return (Physical*)(size_t)handle; }

// The mapping or allocation that contains an address; end() if none does.
template <class Map>
typename Map::iterator containing(Map& ranges, size_t at) {
  auto it = ranges.upper_bound(at);
  if (it == ranges.begin()) return ranges.end();
  --it;
  return at < it->first + it->second.size ? it : ranges.end();
}

}  // namespace

EXPORT CUresult cuMemGetAllocationGranularity(size_t* size, const CUmemAllocationProp*,
                                              CUmemAllocationGranularity_flags) {
  *size = 2 * MiB;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAddressReserve(CUdeviceptr* p, size_t size, size_t alignment, CUdeviceptr,
                                    unsigned long long) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  size_t start = w.addresses->take(size, std::max(alignment, kSegmentAlignment));
  if (!start) return CUDA_ERROR_OUT_OF_MEMORY;
  w.reservations[start] = size;
  *p = start;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAddressFree(CUdeviceptr p, size_t size) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  auto it = w.reservations.find(p);
  if (it == w.reservations.end() || it->second != size) return CUDA_ERROR_INVALID_VALUE;
  w.addresses->give(it->first, size);
  w.reservations.erase(it);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t size,
                            const CUmemAllocationProp* properties, unsigned long long) {
  if (size % (2 * MiB)) return CUDA_ERROR_INVALID_VALUE;
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  int device = properties ? properties->location.id : current_device;
  if (device < 0 || device >= w.devices) return CUDA_ERROR_INVALID_DEVICE;
  if (!w.take_physical(device, round_up(size, w.granularity))) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = (CUmemGenericAllocationHandle)(size_t) new Physical{size, device, 1};
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  drop(w, memory_of(handle));
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemMap(CUdeviceptr p, size_t size, size_t, CUmemGenericAllocationHandle handle,
                         unsigned long long) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  auto after = w.mappings.lower_bound(p);
  if (after != w.mappings.end() && after->first < p + size) return CUDA_ERROR_ALREADY_MAPPED;
  if (containing(w.mappings, p) != w.mappings.end()) return CUDA_ERROR_ALREADY_MAPPED;
  auto reserved = w.reservations.upper_bound(p);
  if (reserved == w.reservations.begin()) return CUDA_ERROR_INVALID_VALUE;
  --reserved;
  if (p + size > reserved->first + reserved->second) return CUDA_ERROR_INVALID_VALUE;
  memory_of(handle)->references++;
  w.mappings[p] = Mapping{size, memory_of(handle)};
  if (w.backed) back(p, size);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemUnmap(CUdeviceptr p, size_t size) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  auto it = w.mappings.lower_bound(p);
  while (it != w.mappings.end() && it->first < p + size) {
    if (it->first + it->second.size > p + size) return CUDA_ERROR_INVALID_VALUE;
    if (w.backed) unback(it->first, it->second.size);
    drop(w, it->second.memory);
    it = w.mappings.erase(it);
  }
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemSetAccess(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) {
  return CUDA_SUCCESS;
}
EXPORT CUresult cuMemExportToShareableHandle(void* out, CUmemGenericAllocationHandle,
                                             CUmemAllocationHandleType, unsigned long long) {
  *(int*)out = -1;
  return CUDA_ERROR_NOT_SUPPORTED;
}
EXPORT CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle*, void*,
                                               CUmemAllocationHandleType) {
  return CUDA_ERROR_NOT_SUPPORTED;
}
EXPORT CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* p) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  auto it = containing(w.mappings, size_t(p));
  if (it == w.mappings.end()) return CUDA_ERROR_INVALID_VALUE;
  it->second.memory->references++;
  *handle = (CUmemGenericAllocationHandle)(size_t)it->second.memory;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp* p,
                                                       CUmemGenericAllocationHandle handle) {
  memset(p, 0, sizeof *p);
  p->type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p->location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  p->location.id = memory_of(handle)->device;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuMemGetAddressRange(CUdeviceptr* base, size_t* size, CUdeviceptr p) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  auto it = containing(w.allocations, p);
  if (it == w.allocations.end()) return CUDA_ERROR_INVALID_VALUE;
  if (base) *base = it->first;
  if (size) *size = it->second.size;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemsetD32Async(CUdeviceptr, unsigned, size_t, CUstream s) {
  enqueue(s);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuStreamWriteValue32(CUstream s, CUdeviceptr, cuuint32_t, unsigned) {
  enqueue(s);
  return CUDA_SUCCESS;
}

// ---- device and context, as the driver sees them

namespace {
CUcontext the_context() { return (CUcontext)0x1000; }
}  // namespace

EXPORT CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
EXPORT CUresult cuDriverGetVersion(int* v) {
  *v = CUDART_VERSION;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetCount(int* n) {
  *n = world().devices;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGet(CUdevice* d, int i) {
  *d = i;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetName(char* text, int size, CUdevice) {
  snprintf(text, size_t(size), "%s", world().kind.name);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDeviceGetAttribute(int* v, CUdevice_attribute what, CUdevice) {
  switch (what) {
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED: *v = 1; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *v = world().kind.capability[0]; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *v = world().kind.capability[1]; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *v = world().kind.multiprocessors; break;
    default: *v = 0; break;  // no fabric handles, no multicast
  }
  return CUDA_SUCCESS;
}
EXPORT CUresult cuGetErrorString(CUresult e, const char** text) {
  *text = e == CUDA_SUCCESS ? "no error"
          : e == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory"
          : e == CUDA_ERROR_NOT_SUPPORTED ? "operation not supported"
                                          : "stand-in driver error";
  return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxGetCurrent(CUcontext* c) {
  *c = the_context();
  return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
EXPORT CUresult cuCtxPushCurrent(CUcontext) { return CUDA_SUCCESS; }
EXPORT CUresult cuCtxPopCurrent(CUcontext* c) {
  if (c) *c = the_context();
  return CUDA_SUCCESS;
}
EXPORT CUresult cuCtxGetDevice(CUdevice* d) {
  *d = current_device;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* active) {
  if (flags) *flags = 0;
  if (active) *active = 1;
  return CUDA_SUCCESS;
}
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* c, CUdevice) {
  *c = the_context();
  return CUDA_SUCCESS;
}

// ---- entry points

namespace {

CUresult unsupported() { return CUDA_ERROR_NOT_SUPPORTED; }
CUresult register_log(void*, void*, void** handle) {
  if (handle) *handle = (void*)1;
  return CUDA_SUCCESS;
}
CUresult unregister_log(void*) { return CUDA_SUCCESS; }

struct EntryPoint {
  const char* name;
  void* function;
};
#define ENTRY(name) {#name, (void*)name}
#define REFUSES(name) {name, (void*)unsupported}
const EntryPoint kEntryPoints[] = {
    ENTRY(cuInit), ENTRY(cuDriverGetVersion), ENTRY(cuDeviceGetCount), ENTRY(cuDeviceGet),
    ENTRY(cuDeviceGetName), ENTRY(cuDeviceGetAttribute), ENTRY(cuGetErrorString),
    {"cuMemGetAddressRange", (void*)cuMemGetAddressRange}, ENTRY(cuMemAddressReserve),
    ENTRY(cuMemAddressFree), ENTRY(cuMemCreate), ENTRY(cuMemRelease), ENTRY(cuMemMap),
    ENTRY(cuMemUnmap), ENTRY(cuMemSetAccess), ENTRY(cuMemGetAllocationGranularity),
    ENTRY(cuMemExportToShareableHandle), ENTRY(cuMemImportFromShareableHandle),
    ENTRY(cuMemRetainAllocationHandle), ENTRY(cuMemGetAllocationPropertiesFromHandle),
    {"cuMemsetD32Async", (void*)cuMemsetD32Async},
    {"cuStreamWriteValue32", (void*)cuStreamWriteValue32}, ENTRY(cuCtxGetCurrent),
    ENTRY(cuCtxSetCurrent), {"cuCtxPushCurrent", (void*)cuCtxPushCurrent},
    {"cuCtxPopCurrent", (void*)cuCtxPopCurrent}, ENTRY(cuCtxGetDevice),
    ENTRY(cuDevicePrimaryCtxGetState), ENTRY(cuDevicePrimaryCtxRetain),
    {"cuLogsRegisterCallback", (void*)register_log},
    {"cuLogsUnregisterCallback", (void*)unregister_log},
    REFUSES("cuMulticastAddDevice"), REFUSES("cuMulticastBindMem"), REFUSES("cuMulticastCreate"),
    REFUSES("cuMulticastUnbind"), REFUSES("cuCtxFromGreenCtx"), REFUSES("cuGreenCtxCreate"),
    REFUSES("cuGreenCtxDestroy"), REFUSES("cuGreenCtxStreamCreate"),
    REFUSES("cuDevSmResourceSplitByCount"), REFUSES("cuDeviceGetDevResource"),
    REFUSES("cuDevResourceGenerateDesc"),
};

void* entry_point(const char* name) {
  for (const EntryPoint& e : kEntryPoints)
    if (!strcmp(e.name, name)) return e.function;
  return nullptr;
}

}  // namespace

EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned,
                                                    unsigned long long,
                                                    cudaDriverEntryPointQueryResult* found) {
  *function = entry_point(name);
  if (found)
    *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
EXPORT cudaError_t cudaGetDriverEntryPoint(const char* name, void** function,
                                           unsigned long long flags,
                                           cudaDriverEntryPointQueryResult* found) {
  return cudaGetDriverEntryPointByVersion(name, function, 0, flags, found);
}
EXPORT CUresult cuGetProcAddress(const char* name, void** function, int, cuuint64_t,
                                 CUdriverProcAddressQueryResult* found) {
  *function = entry_point(name);
  if (found)
    *found = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
  return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

// cuda.h renames some functions (cuStreamWriteValue32 to ..._v2); dlsym asks for the plain names.
#undef cuStreamWriteValue32
#undef cuMemGetAddressRange
#undef cuCtxPushCurrent
#undef cuCtxPopCurrent
#define PLAIN_NAME(name) EXPORT CUresult name(void) __attribute__((alias(#name "_v2")))
PLAIN_NAME(cuStreamWriteValue32);
PLAIN_NAME(cuMemGetAddressRange);
PLAIN_NAME(cuCtxPushCurrent);
PLAIN_NAME(cuCtxPopCurrent);

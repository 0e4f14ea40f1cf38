// What kind of device this is, what went wrong last, and NVML.
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "books.h"

using namespace standin;

namespace {
thread_local cudaError_t last_error = cudaSuccess;
}

cudaError_t standin::fail(cudaError_t error) {
  last_error = error;
  return error;
}

EXPORT cudaError_t cudaGetLastError() {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
EXPORT cudaError_t cudaPeekAtLastError() { return last_error; }

EXPORT const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    default: return "cudaErrorUnknown";
  }
}
EXPORT const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNotReady: return "device not ready";
    default: {
      static thread_local char text[40];
      snprintf(text, sizeof text, "stand-in error %d", int(error));
      return text;
    }
  }
}

EXPORT cudaError_t cudaGetDeviceCount(int* n) {
  *n = world().devices;
  return cudaSuccess;
}
EXPORT cudaError_t cudaGetDevice(int* d) {
  *d = current_device;
  return cudaSuccess;
}
EXPORT cudaError_t cudaSetDevice(int d) {
  if (d < 0 || d >= world().devices) return fail(cudaErrorInvalidDevice);
  current_device = d;
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceReset() { return cudaSuccess; }
EXPORT cudaError_t cudaDriverGetVersion(int* v) {
  *v = CUDART_VERSION;
  return cudaSuccess;
}
EXPORT cudaError_t cudaRuntimeGetVersion(int* v) {
  *v = CUDART_VERSION;
  return cudaSuccess;
}

// The header of CUDA 12 renames this to cudaGetDeviceProperties_v2.
EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int d) {
  World& w = world();
  if (d < 0 || d >= w.devices) return fail(cudaErrorInvalidDevice);
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "%s", w.kind.name);
  p->totalGlobalMem = w.device[d].total;
  p->major = w.kind.capability[0];
  p->minor = w.kind.capability[1];
  p->multiProcessorCount = w.kind.multiprocessors;
  p->sharedMemPerBlock = 48 * KiB;
  p->sharedMemPerBlockOptin = w.kind.shared - KiB;  // the system keeps one
  p->sharedMemPerMultiprocessor = w.kind.shared;
  p->reservedSharedMemPerBlock = KiB;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxThreadsPerMultiProcessor = w.kind.threads;
  p->maxBlocksPerMultiProcessor = w.kind.blocks;
  p->totalConstMem = 64 * KiB;
  p->textureAlignment = 512;
  p->memoryBusWidth = 6144;
  p->l2CacheSize = int(w.kind.cache);
  p->asyncEngineCount = 3;
  p->unifiedAddressing = p->managedMemory = p->concurrentKernels = 1;
  p->streamPrioritiesSupported = p->cooperativeLaunch = p->memoryPoolsSupported = 1;
  p->pciBusID = 1 + d;
  return cudaSuccess;
}

EXPORT cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr what, int d) {
  cudaDeviceProp p;
  if (cudaError_t error = cudaGetDeviceProperties(&p, d)) return error;
  switch (what) {
    case cudaDevAttrComputeCapabilityMajor: *v = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *v = p.minor; break;
    case cudaDevAttrMultiProcessorCount: *v = p.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerBlock: *v = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *v = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *v = p.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrWarpSize: *v = p.warpSize; break;
    case cudaDevAttrMaxGridDimX: *v = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *v = p.maxGridSize[1]; break;
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: *v = p.maxThreadsDim[0]; break;
    case cudaDevAttrMaxBlockDimZ: *v = p.maxThreadsDim[2]; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *v = int(p.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = int(p.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *v = int(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: *v = p.regsPerBlock; break;
    case cudaDevAttrL2CacheSize: *v = p.l2CacheSize; break;
    case cudaDevAttrTextureAlignment: *v = int(p.textureAlignment); break;
    case cudaDevAttrClockRate: *v = 1980000; break;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrConcurrentManagedAccess:
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrMemoryPoolsSupported: *v = 1; break;
    default: *v = 0; break;
  }
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int* low, int* high) {
  if (low) *low = 0;
  if (high) *high = -5;
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceCanAccessPeer(int* can, int a, int b) {
  *can = a != b;
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
EXPORT cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int d) {
  snprintf(text, size_t(size), "0000:%02X:00.0", unsigned(d + 1));
  return cudaSuccess;
}

// ---- NVML: what PyTorch asks of it for its out-of-memory message; layouts of the public nvml.h

namespace {
struct Process {
  unsigned pid;
  unsigned long long used;
  unsigned instances[2];
};
struct Fabric {
  unsigned version;
  unsigned char uuid[16];
  int status;
  unsigned clique;
  unsigned char state;
  unsigned health;
};
constexpr int kNvmlNotSupported = 3, kNvmlInsufficientSize = 7;
}  // namespace

EXPORT int nvmlInit_v2() { return 0; }
EXPORT int nvmlShutdown() { return 0; }
EXPORT const char* nvmlErrorString(int) { return "stand-in"; }
EXPORT int nvmlSystemGetCudaDriverVersion_v2(int* v) {
  *v = CUDART_VERSION;
  return 0;
}
EXPORT int nvmlDeviceGetCount_v2(unsigned* n) {
  *n = unsigned(world().devices);
  return 0;
}
EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned i, void** handle) {
  *handle = (void*)(size_t)(1 + i);
  return 0;
}
EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char*, void** handle) {
  *handle = (void*)1;
  return 0;
}
EXPORT int nvmlDeviceGetNvLinkRemoteDeviceType(void*, unsigned, int* type) {
  *type = 255;
  return kNvmlNotSupported;
}
EXPORT int nvmlDeviceGetNvLinkRemotePciInfo_v2(void*, unsigned, void*) { return kNvmlNotSupported; }
EXPORT int nvmlDeviceGetComputeRunningProcesses(void*, unsigned* n, Process* p) {
  if (*n < 1) {
    *n = 1;
    return kNvmlInsufficientSize;
  }
  *n = 1;
  p[0].pid = unsigned(getpid());
  p[0].used = world().device[0].used + world().device[0].other;
  return 0;
}
EXPORT int nvmlDeviceGetGpuFabricInfoV(void*, Fabric* f) {
  f->status = kNvmlNotSupported;
  f->state = 0;
  return 0;
}

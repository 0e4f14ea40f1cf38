// Kernels: registered and launched, never run. A whole PyTorch needs this; the oracle does not.
#include <cstring>
#include <vector>

#include "books.h"

using namespace standin;

EXPORT cudaError_t cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t s) {
  enqueue(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void*, void**) {
  enqueue(c->stream);
  return cudaSuccess;
}
EXPORT cudaError_t cudaLaunchCooperativeKernel(const void*, dim3, dim3, void**, size_t,
                                               cudaStream_t s) {
  enqueue(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t call, void* data) {
  call(data);
  enqueue(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t call, void* data,
                                         unsigned) {
  call(s, cudaSuccess, data);
  enqueue(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024;
  a->numRegs = 32;
  // Libraries choose among the kernels that were compiled by this, and find none if it is another.
  const Kind& kind = world().kind;
  a->binaryVersion = a->ptxVersion =
      kind.code ? kind.code : kind.capability[0] * 10 + kind.capability[1];
  a->maxDynamicSharedSizeBytes = int(world().kind.shared - KiB);
  return cudaSuccess;
}
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) {
  *n = 2;
  return cudaSuccess;
}
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int,
                                                                          size_t, unsigned) {
  *n = 2;
  return cudaSuccess;
}

// ---- what the CUDA compiler generates calls to

EXPORT void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
EXPORT void __cudaUnregisterFatBinary(void**) {}
EXPORT void __cudaRegisterFunction(void**, const char*, char*, const char*, int, void*, void*,
                                   void*, void*, int*) {}
EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
EXPORT void __cudaRegisterManagedVar(void**, void**, char*, const char*, int, size_t, int, int) {}
EXPORT char __cudaInitModule(void**) { return 1; }

namespace {
struct Launch {
  dim3 grid, block;
  size_t shared;
  void* stream;
};
thread_local std::vector<Launch> launches;
}  // namespace

EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  launches.push_back({grid, block, shared, stream});
  return 0;
}
EXPORT cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared,
                                              void* stream) {
  if (launches.empty()) return cudaErrorInvalidValue;
  Launch l = launches.back();
  launches.pop_back();
  *grid = l.grid;
  *block = l.block;
  *shared = l.shared;
  *(void**)stream = l.stream;
  return cudaSuccess;
}
EXPORT cudaError_t __cudaGetKernel(void** kernel, const void* function) {
  *kernel = (void*)function;
  return cudaSuccess;
}
EXPORT cudaError_t __cudaLaunchKernel(const void*, dim3, dim3, void**, size_t, cudaStream_t s) {
  enqueue(s);
  return cudaSuccess;
}
EXPORT cudaError_t __cudaLaunchKernel_ptsz(const void*, dim3, dim3, void**, size_t,
                                           cudaStream_t s) {
  enqueue(s);
  return cudaSuccess;
}

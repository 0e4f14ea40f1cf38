/* What the libraries beside CUDA's runtime answer where "success" alone is not enough.
 *
 * Every other function of cuBLAS, cuDNN, NCCL, ... that PyTorch imports is generated, returns 0 and
 * does nothing (libraries.py). No library asks for work space here: what the real ones would ask is
 * not known, and a recording says so. Signatures follow the public headers; handles are any pointer.
 */
#include <stdlib.h>
#include <string.h>

int cudaMalloc(void** p, unsigned long size);
int cudaFree(void* p);

static int handle(void** out) {
  if (out) *out = (void*)0x5ca1ab1e;
  return 0;
}
static int integer(int* out, int value) {
  if (out) *out = value;
  return 0;
}
static int no_bytes(unsigned long* size) {
  if (size) *size = 0;
  return 0;
}

/* ---- cuBLAS */
int cublasCreate_v2(void** out) { return handle(out); }
int cublasGetVersion_v2(void* h, int* v) { return integer(v, CUDA_MAJOR * 10000 + 400); }
int cublasGetPointerMode_v2(void* h, int* v) { return integer(v, 0); }
int cublasGetMathMode(void* h, int* v) { return integer(v, 0); }
int cublasGetStream_v2(void* h, void** s) {
  *s = 0;
  return 0;
}
int cublasLtCreate(void** out) { return handle(out); }
unsigned long cublasLtGetVersion(void) { return CUDA_MAJOR * 10000 + 400; }
int cublasLtMatmulDescCreate(void** out) { return handle(out); }
int cublasLtMatrixLayoutCreate(void** out) { return handle(out); }
int cublasLtMatmulPreferenceCreate(void** out) { return handle(out); }
/* One algorithm without work space. cublasLtMatmulHeuristicResult_t: algorithm (64 bytes), size of
 * the work space (8), state (4), waves (4), reserved (16). */
int cublasLtMatmulAlgoGetHeuristic(void* h, void* op, void* a, void* b, void* c, void* d, void* pref,
                                   int want, char* result, int* got) {
  if (want > 0) memset(result, 0, 64 + 8 + 4 + 4 + 16);
  *got = want > 0;
  return 0;
}

/* ---- cuDNN: one engine without notes and work space */
int cudnnCreate(void** out) { return handle(out); }
unsigned long cudnnGetVersion(void) { return CUDNN_VERSION; }
unsigned long cudnnGetCudartVersion(void) { return CUDA_MAJOR * 1000; }
const char* cudnnGetErrorString(int e) { return "stand-in"; }
int cudnnBackendCreateDescriptor(int type, void** out) {
  *out = malloc(64);
  return 0;
}
int cudnnBackendGetAttribute(void* descriptor, int attribute, int type, long want, long* got,
                             void* out) {
  enum { HEURISTIC_RESULTS = 202, PLAN_WORKSPACE_SIZE = 402 };
  long n = 0;
  if (attribute == HEURISTIC_RESULTS) n = want > 1 || want == 0 ? 1 : want;
  if (attribute == PLAN_WORKSPACE_SIZE) {
    n = 1;
    if (out) *(long*)out = 0;
  }
  if (got) *got = n;
  return 0;
}
int cudnnDropoutGetStatesSize(void* h, unsigned long* size) { return no_bytes(size); }
int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void* h, int mode, int ops, void* a, void* x,
                                                         unsigned long* size) {
  return no_bytes(size);
}
int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(void* h, int mode, int ops, void* x,
                                                             void* z, void* y, void* b, void* a,
                                                             unsigned long* size) {
  return no_bytes(size);
}
int cudnnGetBatchNormalizationBackwardExWorkspaceSize(void* h, int mode, int ops, void* x, void* y,
                                                      void* dy, void* dz, void* dx, void* b, void* a,
                                                      unsigned long* size) {
  return no_bytes(size);
}

/* ---- cuSPARSE, cuSOLVER, cuFFT */
int cusparseCreate(void** out) { return handle(out); }
int cusparseLtInit(void** out) { return handle(out); }
int cusolverDnCreate(void** out) { return handle(out); }
int cusolverGetVersion(int* v) { return integer(v, 12000); }
int cufftCreate(int* plan) { return integer(plan, 1); }
int cufftXtMakePlanMany(int plan, int rank, long* n, long* in, long is, long id, int it, long* on,
                        long os, long od, int ot, long batch, unsigned long* size, int type) {
  return no_bytes(size);
}

/* ---- the compiler at run time, the profiler */
int nvrtcVersion(int* major, int* minor) {
  integer(minor, 0);
  return integer(major, CUDA_MAJOR);
}
const char* nvrtcGetErrorString(int e) { return "stand-in"; }
int cuptiActivityGetNextRecord(void* buffer, unsigned long size, void** record) {
  *record = 0;
  return 12; /* CUPTI_ERROR_MAX_LIMIT_REACHED: there is none */
}

/* ---- NCCL: communicators that talk to nobody. Collectives return at once and change no data. */
struct unique_id {
  char bytes[128];
};
static int communicator(void** out, int ranks, int rank) {
  int* c = malloc(2 * sizeof(int));
  c[0] = ranks;
  c[1] = rank;
  *out = c;
  return 0;
}
int ncclGetVersion(int* v) { return integer(v, NCCL_VERSION); }
const char* ncclGetErrorString(int e) { return "stand-in"; }
const char* ncclGetLastError(void* c) { return ""; }
int ncclCommInitRank(void** c, int ranks, struct unique_id id, int rank) {
  return communicator(c, ranks, rank);
}
int ncclCommInitRankConfig(void** c, int ranks, struct unique_id id, int rank, void* config) {
  return communicator(c, ranks, rank);
}
int ncclCommInitRankScalable(void** c, int ranks, int rank, int ids, void* id, void* config) {
  return communicator(c, ranks, rank);
}
int ncclCommSplit(void* c, int color, int key, void** out, void* config) {
  /* Who is in the new group is not known here; PyTorch asks its own process group for that. */
  return communicator(out, ((int*)c)[0], key);
}
int ncclCommCount(int* c, int* ranks) { return integer(ranks, c[0]); }
int ncclCommUserRank(int* c, int* rank) { return integer(rank, c[1]); }
int ncclCommGetAsyncError(void* c, int* e) { return integer(e, 0); }
int ncclMemAlloc(void** p, unsigned long size) { return cudaMalloc(p, size); }
int ncclMemFree(void* p) { return cudaFree(p); }

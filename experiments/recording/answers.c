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
int cudaMemcpy(void* to, const void* from, unsigned long size, int kind);

/* All different: PyTorch keeps work space for each handle, and each thread has one of its own. */
static int handle(void** out) {
  static unsigned long last = 0x5ca1ab00;
  if (out) *out = (void*)__sync_add_and_fetch(&last, 1);
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

/* ---- NCCL: communicators that talk to nobody. To a rank all others are like itself: what is small
 * enough to be counts and shapes that ranks compare arrives as if they had sent the same. Tensors
 * stay as they are; copying them would commit memory for values that mean nothing. */
enum { MOST_BYTES = 65536 };
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
static unsigned long bytes_of(unsigned long count, int type) {
  static const int kSize[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1}; /* by ncclDataType_t */
  return type >= 0 && type < 12 ? count * kSize[type] : 0;
}
static void like_mine(void* to, const void* from, unsigned long count, int type) {
  unsigned long size = bytes_of(count, type);
  if (size && size <= MOST_BYTES && to != from) cudaMemcpy(to, from, size, 3); /* device to device */
}
int ncclAllGather(const char* from, char* to, unsigned long count, int type, int* c, void* stream) {
  for (int rank = 0; rank < c[0]; rank++)
    like_mine(to + rank * bytes_of(count, type), from, count, type);
  return 0;
}
int ncclAllReduce(const void* from, void* to, unsigned long count, int type, int op, void* c,
                  void* stream) {
  like_mine(to, from, count, type);
  return 0;
}
/* PyTorch gathers lists of tensors by a group of broadcasts, one from each rank, and exchanges parts
 * by a group of sends and receives. What comes from others is only known to be like mine once the
 * group is complete. */
static __thread struct {
  int depth, waiting;
  const void* mine;
  unsigned long size; /* of mine */
  struct {
    void* to;
    unsigned long size;
  } wait[256];
} group;
static void send_mine(const void* from, unsigned long size) {
  group.mine = from;
  group.size = size;
}
static void receive(void* to, unsigned long size) {
  if (group.depth == 0 || size > MOST_BYTES || group.waiting == 256) return;
  group.wait[group.waiting].to = to;
  group.wait[group.waiting++].size = size;
}
int ncclGroupStart(void) {
  group.depth++;
  return 0;
}
int ncclGroupEnd(void) {
  if (group.depth && --group.depth) return 0;
  for (int i = 0; i < group.waiting; i++)
    if (group.mine && group.wait[i].size == group.size)
      cudaMemcpy(group.wait[i].to, group.mine, group.size, 3);
  group.waiting = 0;
  group.mine = 0;
  return 0;
}
int ncclBroadcast(const void* from, void* to, unsigned long count, int type, int root, int* c,
                  void* stream) {
  if (root == c[1]) send_mine(from, bytes_of(count, type));
  else receive(to, bytes_of(count, type));
  like_mine(to, from, count, type);
  return 0;
}
int ncclSend(const void* from, unsigned long count, int type, int peer, int* c, void* stream) {
  send_mine(from, bytes_of(count, type));
  return 0;
}
int ncclRecv(void* to, unsigned long count, int type, int peer, int* c, void* stream) {
  receive(to, bytes_of(count, type));
  return 0;
}
int ncclReduce(const void* from, void* to, unsigned long count, int type, int op, int root, void* c,
               void* stream) {
  like_mine(to, from, count, type);
  return 0;
}
int ncclMemAlloc(void** p, unsigned long size) { return cudaMalloc(p, size); }
int ncclMemFree(void* p) { return cudaFree(p); }

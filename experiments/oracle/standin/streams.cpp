// Streams, events and captures. Work is only counted; an event is done when the work issued before
// it is, and in manual mode work is done when standin_finish says so.
#include <algorithm>

#include "books.h"

using namespace standin;

// ---- streams

namespace {

cudaError_t create(cudaStream_t* s) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  *s = (cudaStream_t)(w.next_stream++ << 8);
  w.stream(*s);
  return cudaSuccess;
}

void wait_for_all(Stream* s) { s->done = s->issued; }

}  // namespace

EXPORT cudaError_t cudaStreamCreate(cudaStream_t* s) { return create(s); }
EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) { return create(s); }
EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) {
  return create(s);
}
EXPORT cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t, int* p) {
  *p = 0;
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamGetFlags(cudaStream_t, unsigned* flags) {
  *flags = 1;
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamGetId(cudaStream_t s, unsigned long long* id) {
  *id = size_t(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamQuery(cudaStream_t handle) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  Stream* s = w.stream(handle);
  return s->done < s->issued ? fail(cudaErrorNotReady) : cudaSuccess;
}
EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  wait_for_all(w.stream(handle));
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceSynchronize() {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  for (auto& [_, s] : w.streams) wait_for_all(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t e, unsigned) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  Event* event = (Event*)e;
  Stream* s = w.stream(handle);
  if (!event->capture) return cudaSuccess;
  if (!s->capture) {  // waiting for captured work joins the capture
    s->capture = event->capture;
    w.captures++;
  }
  for (Node* node : event->terminals)
    if (std::find(s->terminals.begin(), s->terminals.end(), node) == s->terminals.end())
      s->terminals.push_back(node);
  return cudaSuccess;
}

// ---- events

EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  *e = (cudaEvent_t) new Event;
  return cudaSuccess;
}
EXPORT cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, 0); }
EXPORT cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete (Event*)e;
  return cudaSuccess;
}
EXPORT cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t handle) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  Event* event = (Event*)e;
  Stream* s = w.stream(handle);
  event->stream = s;
  event->capture = s->capture;
  if (s->capture) {
    event->terminals = s->terminals;
  } else {
    w.issue(s);
    event->at = s->issued;
  }
  return cudaSuccess;
}
EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned) {
  return cudaEventRecord(e, s);
}
EXPORT cudaError_t cudaEventQuery(cudaEvent_t e) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  Event* event = (Event*)e;
  bool waits = event->stream && !event->capture && event->stream->done < event->at;
  return waits ? fail(cudaErrorNotReady) : cudaSuccess;
}
EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  Event* event = (Event*)e;
  w.waits++;
  if (event->stream && !event->capture)
    event->stream->done = std::max(event->stream->done, event->at);
  return cudaSuccess;
}
EXPORT cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 0.001f;
  return cudaSuccess;
}

// ---- captures and graphs

EXPORT void standin_capture_begin(void* handle) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  Stream* s = w.stream(handle);
  s->capture = new Graph{{}, w.next_capture++};
  s->terminals.clear();
  w.captures++;
}
EXPORT void standin_capture_end(void* handle) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  Graph* graph = w.stream(handle)->capture;
  if (!graph) return;
  for (auto& [_, s] : w.streams) {
    if (s->capture != graph) continue;
    s->capture = nullptr;
    s->terminals.clear();
    w.captures--;
  }
}
EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  standin_capture_begin(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* graph) {
  {
    World& w = world();
    std::lock_guard<std::mutex> hold(w.lock);
    *graph = (cudaGraph_t)w.stream(s)->capture;
  }
  standin_capture_end(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  bool on = w.captures && w.stream(handle)->capture;
  *status = on ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

namespace {

void capture_info(cudaStream_t handle, cudaStreamCaptureStatus* status, unsigned long long* id,
                  cudaGraph_t* graph, const cudaGraphNode_t** terminals, size_t* n) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  Stream* s = w.stream(handle);
  *status = s->capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  if (!s->capture) return;
  if (id) *id = s->capture->id;
  if (graph) *graph = (cudaGraph_t)s->capture;
  if (terminals) *terminals = (const cudaGraphNode_t*)s->terminals.data();
  if (n) *n = s->terminals.size();
}

void copy_nodes(const std::vector<Node*>& nodes, cudaGraphNode_t* out, size_t* n) {
  if (out) {
    *n = std::min(*n, nodes.size());
    for (size_t i = 0; i < *n; i++) out[i] = (cudaGraphNode_t)nodes[i];
  } else {
    *n = nodes.size();
  }
}

void depend(cudaStream_t handle, cudaGraphNode_t* nodes, size_t n, unsigned flags) {
  World& w = world();
  std::lock_guard<std::mutex> hold(w.lock);
  Stream* s = w.stream(handle);
  if (flags == cudaStreamSetCaptureDependencies) s->terminals.clear();
  for (size_t i = 0; i < n; i++) s->terminals.push_back((Node*)nodes[i]);
}

}  // namespace

#if CUDART_VERSION >= 13000
EXPORT cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t s, cudaGraphNode_t* nodes,
                                                       const cudaGraphEdgeData*, size_t n,
                                                       unsigned flags) {
  depend(s, nodes, n, flags);
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, cudaStreamCaptureStatus* status,
                                            unsigned long long* id, cudaGraph_t* graph,
                                            const cudaGraphNode_t** terminals,
                                            const cudaGraphEdgeData** edges, size_t* n) {
  if (edges) *edges = nullptr;
  capture_info(s, status, id, graph, terminals, n);
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* out,
                                                cudaGraphEdgeData*, size_t* n) {
  copy_nodes(((Node*)node)->before, out, n);
  return cudaSuccess;
}
#else
EXPORT cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t s, cudaGraphNode_t* nodes,
                                                       size_t n, unsigned flags) {
  depend(s, nodes, n, flags);
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t s, cudaStreamCaptureStatus* status,
                                               unsigned long long* id, cudaGraph_t* graph,
                                               const cudaGraphNode_t** terminals, size_t* n) {
  capture_info(s, status, id, graph, terminals, n);
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t* out,
                                                size_t* n) {
  copy_nodes(((Node*)node)->before, out, n);
  return cudaSuccess;
}
#endif

EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  static thread_local cudaStreamCaptureMode current = cudaStreamCaptureModeGlobal;
  std::swap(*mode, current);
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* out, size_t* n) {
  copy_nodes(((Graph*)graph)->nodes, out, n);
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphAddEmptyNode(cudaGraphNode_t* out, cudaGraph_t graph,
                                         const cudaGraphNode_t* before, size_t n) {
  Graph* of = (Graph*)graph;
  Node* node = new Node{{}, of, true};
  for (size_t i = 0; i < n; i++) node->before.push_back((Node*)before[i]);
  of->nodes.push_back(node);
  *out = (cudaGraphNode_t)node;
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
  *type = ((Node*)node)->empty ? cudaGraphNodeTypeEmpty : cudaGraphNodeTypeKernel;
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned) {
  *graph = (cudaGraph_t) new Graph{{}, 0};
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
EXPORT cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                        unsigned long long) {
  *exec = (cudaGraphExec_t)graph;
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* exec, cudaGraph_t graph,
                                                 unsigned long long) {
  *exec = (cudaGraphExec_t)graph;
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t s) {
  enqueue(s);
  return cudaSuccess;
}
EXPORT cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* p, cudaHostFn_t, unsigned,
                                        unsigned) {
  *object = (cudaUserObject_t)p;
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphRetainUserObject(cudaGraph_t, cudaUserObject_t, unsigned, unsigned) {
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetGraphMemAttribute(int, cudaGraphMemAttributeType, void* value) {
  *(uint64_t*)value = 0;
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceSetGraphMemAttribute(int, cudaGraphMemAttributeType, void*) {
  return cudaSuccess;
}

// Asks PyTorch's own parsers of PYTORCH_CUDA_ALLOC_CONF what they make of a line.
//
// Reads lines from standard input, each behind its length, and answers each on standard output: a
// wait status, the length of a text, and the text, "name value" in rows. Every line is read by a
// process of its own that is executed with the line in its environment, because the library picks
// its backend while it loads. One that ends badly refuses the line; then its text says why, unless
// it was refused while loading.
#define PYTORCH_C10_DRIVER_API_SUPPORTED 1  // expandable segments, as in the wheels

#include <c10/cuda/CUDAAllocatorConfig.h>
#include <c10/cuda/CUDACachingAllocator.h>
#if __has_include(<c10/core/AllocatorConfig.h>)
#include <c10/core/AllocatorConfig.h>
#endif

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "control.h"

namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;
constexpr uint64_t kTotal = uint64_t(1) << 40;  // device memory that reserves are a share of
constexpr unsigned kSeconds = 20;

void say(const char* name, double value) { printf("%s %.17g\n", name, value); }
void say(const char* name, uint64_t value) { printf("%s %llu\n", name, (unsigned long long)value); }
void say(const char* name, bool value) { printf("%s %d\n", name, int(value)); }

// Names each value by its key in the line; what a release does not have is not printed.
template <class C>
void say_cuda() {
  say("expandable_segments", bool(C::expandable_segments()));
  say("release_lock_on_cudamalloc", bool(C::release_lock_on_cudamalloc()));
  say("pinned_use_cuda_host_register", bool(C::pinned_use_cuda_host_register()));
  say("pinned_num_register_threads", uint64_t(C::pinned_num_register_threads()));
  if constexpr (requires { C::pinned_use_background_threads(); })
    say("pinned_use_background_threads", bool(C::pinned_use_background_threads()));
  if constexpr (requires { C::graph_capture_record_stream_reuse(); })
    say("graph_capture_record_stream_reuse", bool(C::graph_capture_record_stream_reuse()));
  if constexpr (requires { C::per_process_memory_fraction(); })
    say("per_process_memory_fraction", double(C::per_process_memory_fraction()));
  if constexpr (requires { C::throw_on_cudamalloc_oom(); })
    say("throw_on_cudamalloc_oom", bool(C::throw_on_cudamalloc_oom()));
  if constexpr (requires { C::pinned_reserve_segment_size_mb(); })
    say("pinned_reserve_segment_size_mb", uint64_t(C::pinned_reserve_segment_size_mb()));
  if constexpr (requires { C::pinned_free_catch_all(); })
    say("pinned_free_catch_all", bool(C::pinned_free_catch_all()));
  if constexpr (requires { C::expandable_segments_reserve_decision("", kTotal); }) {
    auto decision = C::expandable_segments_reserve_decision("", kTotal);
    if (decision.reserve_bytes) say("expandable_segments_reserve", uint64_t(*decision.reserve_bytes));
  }
  // Read through CUDA's class, whose accessors ask the shared one where there is one.
  say("max_split_size_mb", uint64_t(C::max_split_size()));
  say("garbage_collection_threshold", double(C::garbage_collection_threshold()));
  if constexpr (requires { C::max_non_split_rounding_size(); })
    say("max_non_split_rounding_mb", uint64_t(C::max_non_split_rounding_size()));
  printf("roundup_power2_divisions");
  for (size_t n : C::roundup_power2_divisions()) printf(" %llu", (unsigned long long)n);
  printf("\n");
}

template <class C>
void say_shared() {
  if constexpr (requires { C::large_segment_size(); })
    say("large_segment_size_mb", uint64_t(C::large_segment_size()));
  if constexpr (requires { C::pinned_max_round_threshold(); }) {
    say("pinned_max_round_threshold_mb", uint64_t(C::pinned_max_round_threshold()));
    say("pinned_max_cached_size_mb", uint64_t(C::pinned_max_cached_size()));
  }
}

int ask() {
  alarm(kSeconds);
  standin_configure(kTotal, 0, 2 << 20);
  try {
    allocator::init(1);
    say_cuda<allocator::CUDAAllocatorConfig>();
#if __has_include(<c10/core/AllocatorConfig.h>)
    say_shared<c10::CachingAllocator::AcceleratorAllocatorConfig>();
#endif
    printf("backend %s\n", allocator::get()->name().c_str());
  } catch (const std::exception& error) {
    std::string text = error.what();
    printf("%s\n", text.substr(0, text.find('\n')).c_str());
    fflush(stdout);
    _exit(1);
  }
  fflush(stdout);
  _exit(0);
}

bool read_all(void* to, size_t size) { return size == 0 || fread(to, 1, size, stdin) == size; }

std::string answer_to(const std::string& line, int& status) {
  int ends[2];
  if (pipe(ends)) {
    perror("settings: pipe");
    exit(2);
  }
  pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 1);
    close(ends[0]);
    dup2(open("/dev/null", O_WRONLY), 2);
    setenv("PYTORCH_CUDA_ALLOC_CONF", line.c_str(), 1);
    execl("/proc/self/exe", "settings", "ask", (char*)nullptr);
    _exit(3);
  }
  close(ends[1]);
  std::string text;
  char part[4096];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;) text.append(part, size_t(n));
  close(ends[0]);
  waitpid(child, &status, 0);
  return text;
}

}  // namespace

int main(int argc, char**) {
  if (argc > 1) return ask();
  uint32_t size;
  while (read_all(&size, sizeof size)) {
    std::string line(size, '\0');
    if (!read_all(line.data(), size)) return 2;
    int status = 0;
    std::string text = answer_to(line, status);
    uint32_t out[2] = {uint32_t(status), uint32_t(text.size())};
    fwrite(out, sizeof out, 1, stdout);
    fwrite(text.data(), 1, text.size(), stdout);
  }
  fflush(stdout);
  return 0;
}

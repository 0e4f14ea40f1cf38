// What a test program can tell the stand-in beyond CUDA's own interface.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {
// Device 0: its memory, what others took of it, and the driver's granularity, in bytes.
void standin_configure(size_t total, size_t other, size_t granularity);
// What others hold of device 0 from now on, in bytes.
void standin_others(size_t bytes);
// Let addresses of new memory follow no order.
void standin_scatter();
// 1: work completes when told, 0: at once.
void standin_manual(int on);
// Issue one item of work on a stream.
void standin_kernel(void* stream);
// Let n items of a stream complete; -1 = all.
void standin_finish(void* stream, long long n);
void standin_capture_begin(void* stream);
void standin_capture_end(void* stream);
// Call this with the bytes of every copy from a device to the host, before it is made; null = none.
// What a program reads there was computed by nobody.
void standin_on_read(void (*call)(size_t));
// How often a caller has waited for an event (cudaEventSynchronize).
uint64_t standin_waits();
}

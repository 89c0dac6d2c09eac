/*
 * What a test asks of the fake driver beyond the driver's own functions: switches, counters, failures.
 *
 * Every function may be called from any thread. Texts are UTF-8, one record a line, fields separated by tabs;
 * a function that writes text returns the length of the whole, of which at most size - 1 bytes and a zero
 * fit.
 */
#ifndef FAKE_CUDA_CONTROL_H
#define FAKE_CUDA_CONTROL_H

#include "abi.h"

/* Objects that exist; what an injected failure kept from being released is counted in `withheld` alone. */
typedef struct fake_cuda_live {
    uint64_t allocations;
    uint64_t allocated_nbytes;
    uint64_t pinned;
    uint64_t pinned_nbytes;
    uint64_t streams;
    uint64_t events;
    uint64_t graphs;
    uint64_t graph_execs;
    uint64_t contexts; /* retains of primary contexts that were not released */
    uint64_t current;  /* contexts on the calling thread's stack */
    uint64_t withheld;
} fake_cuda_live;

/* Bytes that operations moved when they ran: of [0] calls and [1] nodes of launched graphs. */
typedef struct fake_cuda_moved {
    uint64_t host_to_device[2];
    uint64_t device_to_host[2];
    uint64_t device_to_device[2];
    uint64_t three_d[2];
    uint64_t filled[2];
} fake_cuda_moved;

/*
 * Makes a fresh machine of `devices` GPUs, 1 to 8, with `memory_nbytes` each, on which cuInit was not called.
 * Handles of the machine before are refused from now on, and its memory is not used again. The driver version
 * becomes 12040, the compute capability 9.0; lag, log, counters, violations and failures are cleared.
 */
EXPORTED void fake_cuda_enable(int devices, uint64_t memory_nbytes);

/* Makes a machine without a GPU, as at the start: cuInit returns CUDA_ERROR_NO_DEVICE. */
EXPORTED void fake_cuda_disable(void);

/* 1000 * major + 10 * minor, as cuDriverGetVersion reports it. */
EXPORTED void fake_cuda_driver_version(int version);

/* 10 * major + minor, of every GPU; 90 after fake_cuda_enable. */
EXPORTED void fake_cuda_compute_capability(int capability);

/* Names a GPU, until fake_cuda_enable. Ignored for a GPU that the machine does not have. */
EXPORTED void fake_cuda_rename(int device, const char *name);

/*
 * From now on a launched graph stays pending, and with it all later work of its stream, until the polls-th
 * query that asks about it or until a synchronization. 0: it runs when it is launched.
 */
EXPORTED void fake_cuda_lag(unsigned int polls);

/*
 * The nth call from now, 1 is the next, of `name` or of any function if NULL returns `code` without doing its
 * work; two exceptions: cuStreamEndCapture ends the capture all the same, and what a release did not release
 * counts as withheld. If `sticky`, every later call but releases, those of the context stack and of names and
 * versions of the driver returns `code` too. Replaces the failure set before; nth = 0 sets none.
 */
EXPORTED void fake_cuda_fail(const char *name, uint64_t nth, int code, int sticky);

/* Writes the name of the call that the failure hit, or nothing if it was not reached. */
EXPORTED size_t fake_cuda_failed(char *text, size_t size);

/*
 * Writes the calls in the order in which they returned, at most the first 2^20 since the log was cleared:
 * name, code, kind of copy or "", bytes, stream handle, flags: c captured, p pageable host memory, i
 * injected.
 */
EXPORTED size_t fake_cuda_calls(char *text, size_t size);

/* Writes name and number of calls since the log was cleared, of each function that was called. */
EXPORTED size_t fake_cuda_counts(char *text, size_t size);

/* Clears log, numbers of calls and bytes moved. */
EXPORTED void fake_cuda_clear_calls(void);

EXPORTED void fake_cuda_bytes_moved(fake_cuda_moved *moved);

EXPORTED void fake_cuda_count_live(fake_cuda_live *live);

/* Writes what callers did that no driver promises to survive, one sentence a line, at most the first 256. */
EXPORTED size_t fake_cuda_violations(char *text, size_t size);

#endif

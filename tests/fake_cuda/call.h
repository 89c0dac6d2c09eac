/*
 * The gate that every driver function passes: it takes the lock, refuses, counts and logs.
 *
 * Use: `CUresult code = call_begin(...); if (code == CUDA_SUCCESS) { code = ...; } return call_end(code);`
 */
#ifndef FAKE_CUDA_CALL_H
#define FAKE_CUDA_CALL_H

#include <stdbool.h>

#include "abi.h"
#include "control.h"

typedef enum call_traits {
    CALL_PLAIN = 0,
    CALL_WITHOUT_INIT = 1,      /* works before cuInit */
    CALL_NEEDS_CONTEXT = 2,     /* CUDA_ERROR_INVALID_CONTEXT without a current one */
    CALL_OUTLIVES_FAILURE = 4,  /* still works after a sticky failure */
    CALL_UNSAFE_IN_CAPTURE = 8, /* ends captures that the calling thread must respect */
} call_traits;

typedef enum call_copy { COPY_NONE, COPY_HTOD, COPY_DTOH, COPY_DTOD, COPY_3D, COPY_FILL } call_copy;

/* Takes the lock; returns what the call must return instead of working, or CUDA_SUCCESS. `name` is kept. */
CUresult call_begin(const char *name, unsigned traits);

/* Logs the call, gives up the lock and returns `code`. */
CUresult call_end(CUresult code);

/* The following functions need the lock, between call_begin and call_end. */

/* Returns the running call's name. */
const char *call_name(void);

/* Says whether an injected failure refused the running call. */
bool call_was_injected(void);

/* Adds to the running call's line in the log. */
void call_log_copy(call_copy kind, size_t nbytes, bool pageable);
void call_log_stream(uintptr_t handle, bool captured);

/* Counts bytes that an operation has moved. */
void call_count_moved(call_copy kind, bool by_graph, size_t nbytes);

/* Runs a host function without the lock; driver calls that it makes are refused. */
void call_host_function(CUhostFn function, void *data);

/* For the controls: lock, and forget failures, log and counters. */
void call_reset(void);

#endif

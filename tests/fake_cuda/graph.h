/*
 * Captures, graphs, and executable graphs: work with copied arguments that runs at each launch, in order.
 *
 * What the arguments point to is read at the launch, not at the capture. All functions need the lock.
 */
#ifndef FAKE_CUDA_GRAPH_H
#define FAKE_CUDA_GRAPH_H

#include "machine.h"
#include "operation.h"

typedef struct capture capture;
typedef struct exec exec;

uint64_t capture_serial(const capture *asked);

/* Returns CUDA_SUCCESS, or CUDA_ERROR_STREAM_CAPTURE_INVALIDATED. */
CUresult capture_check(const capture *asked);

/* Adds a copy of the operation as a node. */
CUresult capture_append(capture *to, const operation *node);

/* Makes every later use of the capture fail, and its end. */
void capture_invalidate(capture *broken);

/* Says whether it forbids unsafe calls to the calling thread. */
bool capture_binds_thread(const capture *asked);

void capture_destroy(capture *destroyed);

/* Launches hold references, so that a graph destroyed in flight ends its run. */
void exec_retain(exec *retained);
void exec_release(exec *released);

/* Runs all nodes; gives up the lock while a host function runs. */
void exec_run(const exec *run);

bool exec_touches(const exec *asked, const unsigned char *address, size_t nbytes);
bool exec_calls_host(const exec *asked);

#endif

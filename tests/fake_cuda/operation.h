/* One piece of work of a stream or of a graph, with copied arguments. All functions need the lock. */
#ifndef FAKE_CUDA_OPERATION_H
#define FAKE_CUDA_OPERATION_H

#include <stdbool.h>

#include "abi.h"
#include "call.h"
#include "memory.h"

typedef enum operation_kind {
    OPERATION_COPY,
    OPERATION_FILL,
    OPERATION_HOST_FUNCTION,
    OPERATION_RECORD,
    OPERATION_WAIT,
    OPERATION_LAUNCH,
} operation_kind;

/* One side of a copy: where it may lie, its first byte, and the bytes from row to row and from slice to
 * slice. */
typedef struct plane {
    memory_side side;
    unsigned char *address;
    size_t row_pitch;
    size_t slice_pitch;
} plane;

struct event;
struct exec;

typedef struct operation {
    operation_kind kind;
    struct operation *next;
    /* Copies and fills; a plain copy is one row. */
    call_copy moved;
    plane to;
    plane from;
    unsigned char value;
    size_t width; /* bytes of a row */
    size_t rows;
    size_t slices;
    /* Host functions. */
    CUhostFn function;
    void *data;
    /* Records and waits: the event, and which of its recordings. */
    struct event *event;
    uint64_t recording;
    /* Launches: holds a reference. */
    struct exec *exec;
    unsigned polls_left;
} operation;

/* Returns a copy, which holds a reference to `exec` of its own, or NULL. */
operation *operation_copy(const operation *copied);

void operation_destroy(operation *destroyed);

/* Runs it now; gives up the lock while a host function runs. */
void operation_run(const operation *run, bool by_graph);

/* Says whether a copy or fill stays where its sides may lie; notes a violation if not. */
bool operation_check(const operation *checked);

/* Says whether it names bytes of the range, itself or by a graph. */
bool operation_touches(const operation *asked, const unsigned char *address, size_t nbytes);

/* Says whether it runs a host function, itself or by a graph. */
bool operation_calls_host(const operation *asked);

#endif

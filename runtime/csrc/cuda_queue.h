/*
 * A queue on an NVIDIA GPU, for the files that implement it: cuda.c (opening, memory, copies) and
 * cuda_graph.c (events, captured graphs).
 */
#ifndef VDMRT_CUDA_QUEUE_H
#define VDMRT_CUDA_QUEUE_H

#include "cuda_driver.h"

typedef struct cuda_queue {
    const vdmrt_cuda *cuda;
    CUdevice gpu;
    CUcontext primary; /* retained; shared with everyone in the process */
    CUstream stream;   /* owned */
} cuda_queue;

/* One call of the driver as a status that names it. */
#define CALL(queue, field, ...) cuda_status_of(VDMRT_CUDA_CALL_##field, (queue)->cuda->field(__VA_ARGS__))

static inline vdmrt_status
cuda_status_of(unsigned call, CUresult code)
{
    return code == CUDA_SUCCESS ? VDMRT_OK : vdmrt_status_of_driver(call, (unsigned)code);
}

static inline vdmrt_status
cuda_first_failure(vdmrt_status one, vdmrt_status two)
{
    return one != VDMRT_OK ? one : two;
}

/* Runs `expression` with the primary context current, and leaves the thread's own one as it was. */
#define IN_CONTEXT(queue, expression)                                                                        \
    do {                                                                                                     \
        CUcontext popped;                                                                                    \
        vdmrt_status in_context = CALL(queue, context_push, (queue)->primary);                               \
        if (in_context != VDMRT_OK) {                                                                        \
            return in_context;                                                                               \
        }                                                                                                    \
        in_context = (expression);                                                                           \
        return cuda_first_failure(in_context, CALL(queue, context_pop, &popped));                            \
    } while (0)

/* As IN_CONTEXT, for what must be undone whatever fails: releases report failures of earlier work too, and
 * are then tried again, so that nothing leaks. */
#define UNDO(queue, field, handle)                                                                           \
    do {                                                                                                     \
        CUcontext popped;                                                                                    \
        vdmrt_status pushed = CALL(queue, context_push, (queue)->primary);                                   \
        if (pushed != VDMRT_OK && CALL(queue, context_push, (queue)->primary) != VDMRT_OK) {                 \
            return pushed;                                                                                   \
        }                                                                                                    \
        vdmrt_status undone = CALL(queue, field, handle);                                                    \
        if (undone != VDMRT_OK) {                                                                            \
            (void)CALL(queue, field, handle);                                                                \
        }                                                                                                    \
        return cuda_first_failure(cuda_first_failure(pushed, undone), CALL(queue, context_pop, &popped));    \
    } while (0)

/* Entries of the table, as device.h describes them. */
vdmrt_status vdmrt_cuda_create_event(void *context, uintptr_t *event);
vdmrt_status vdmrt_cuda_destroy_event(void *context, uintptr_t event);
vdmrt_status vdmrt_cuda_record(void *context, uintptr_t event);
vdmrt_status vdmrt_cuda_query(void *context, uintptr_t event, bool *passed);
vdmrt_status vdmrt_cuda_elapsed(void *context, uintptr_t first, uintptr_t last, double *milliseconds);
vdmrt_status vdmrt_cuda_begin_capture(void *context);
vdmrt_status vdmrt_cuda_abort_capture(void *context);
vdmrt_status vdmrt_cuda_end_capture(void *context, uintptr_t *graph, size_t *nodes);
vdmrt_status vdmrt_cuda_launch(void *context, uintptr_t graph, uintptr_t event);
vdmrt_status vdmrt_cuda_destroy_graph(void *context, uintptr_t graph);

#endif

/* Events and captured graphs of a queue on an NVIDIA GPU. */
#include "cuda_queue.h"

/* Events */

vdmrt_status
vdmrt_cuda_create_event(void *context, uintptr_t *event)
{
    cuda_queue *queue = context;
    CUevent *created = (CUevent *)event;
    IN_CONTEXT(queue, CALL(queue, event_create, created, CU_EVENT_DEFAULT));
}

vdmrt_status
vdmrt_cuda_destroy_event(void *context, uintptr_t event)
{
    cuda_queue *queue = context;
    UNDO(queue, event_destroy, (CUevent)event);
}

vdmrt_status
vdmrt_cuda_record(void *context, uintptr_t event)
{
    cuda_queue *queue = context;
    IN_CONTEXT(queue, CALL(queue, event_record, (CUevent)event, queue->stream));
}

vdmrt_status
vdmrt_cuda_query(void *context, uintptr_t event, bool *passed)
{
    cuda_queue *queue = context;
    CUresult code = queue->cuda->event_query((CUevent)event);
    *passed = code == CUDA_SUCCESS;
    return code == CUDA_ERROR_NOT_READY ? VDMRT_OK : cuda_status_of(VDMRT_CUDA_CALL_event_query, code);
}

vdmrt_status
vdmrt_cuda_elapsed(void *context, uintptr_t first, uintptr_t last, double *milliseconds)
{
    cuda_queue *queue = context;
    float elapsed = 0;
    CUcontext popped;
    vdmrt_status status = CALL(queue, context_push, queue->primary);
    if (status != VDMRT_OK) {
        return status;
    }
    status = CALL(queue, event_elapsed, &elapsed, (CUevent)first, (CUevent)last);
    *milliseconds = elapsed;
    return cuda_first_failure(status, CALL(queue, context_pop, &popped));
}

/* Captured graphs. Thread-local mode: what other threads do with CUDA meanwhile is their own affair. */

vdmrt_status
vdmrt_cuda_begin_capture(void *context)
{
    cuda_queue *queue = context;
    IN_CONTEXT(queue, CALL(queue, begin_capture, queue->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
}

static vdmrt_status
drop_capture(cuda_queue *queue)
{
    CUgraph graph = NULL;
    int state = 0; /* 0 none, 1 capturing, 2 invalidated: both of the latter want an end */
    vdmrt_status status = CALL(queue, is_capturing, queue->stream, &state);
    if (status != VDMRT_OK || state == 0) {
        return status;
    }
    /* An invalidated capture answers with a failure and has then ended. */
    if (CALL(queue, end_capture, queue->stream, &graph) == VDMRT_OK && graph != NULL) {
        status = CALL(queue, graph_destroy, graph);
    }
    return status;
}

vdmrt_status
vdmrt_cuda_abort_capture(void *context)
{
    cuda_queue *queue = context;
    IN_CONTEXT(queue, drop_capture(queue));
}

static vdmrt_status
instantiate(cuda_queue *queue, CUgraph graph, CUgraphExec *executable, size_t *nodes)
{
    vdmrt_status status = CALL(queue, graph_nodes, graph, NULL, nodes);
    if (status == VDMRT_OK && *nodes == 0) {
        return VDMRT_ERROR_EMPTY;
    }
    if (status == VDMRT_OK) {
        status = CALL(queue, graph_instantiate, executable, graph, 0);
    }
    if (status != VDMRT_OK) {
        return status;
    }
    /* Now, not in the first denoising step. */
    status = CALL(queue, graph_upload, *executable, queue->stream);
    if (status != VDMRT_OK) {
        (void)CALL(queue, graph_exec_destroy, *executable);
        *executable = NULL;
    }
    return status;
}

/* A failure may leave *executable made; the caller then destroys it. */
static vdmrt_status
end_and_instantiate(cuda_queue *queue, CUgraphExec *executable, size_t *nodes)
{
    CUgraph graph = NULL;
    vdmrt_status status = CALL(queue, end_capture, queue->stream, &graph);
    if (status != VDMRT_OK) {
        return status;
    }
    if (graph == NULL) {
        return VDMRT_ERROR_EMPTY;
    }
    status = instantiate(queue, graph, executable, nodes);
    vdmrt_status destroyed = CALL(queue, graph_destroy, graph);
    if (destroyed != VDMRT_OK) {
        (void)CALL(queue, graph_destroy, graph);
    }
    return cuda_first_failure(status, destroyed);
}

vdmrt_status
vdmrt_cuda_end_capture(void *context, uintptr_t *graph, size_t *nodes)
{
    cuda_queue *queue = context;
    CUgraphExec *executable = (CUgraphExec *)graph;
    IN_CONTEXT(queue, end_and_instantiate(queue, executable, nodes));
}

vdmrt_status
vdmrt_cuda_launch(void *context, uintptr_t graph, uintptr_t event)
{
    cuda_queue *queue = context;
    vdmrt_status status = CALL(queue, graph_launch, (CUgraphExec)graph, queue->stream);
    return status == VDMRT_OK ? CALL(queue, event_record, (CUevent)event, queue->stream) : status;
}

vdmrt_status
vdmrt_cuda_destroy_graph(void *context, uintptr_t graph)
{
    cuda_queue *queue = context;
    UNDO(queue, graph_exec_destroy, (CUgraphExec)graph);
}
